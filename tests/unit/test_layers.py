"""Imports point down, only the actors meet Ray, and the configuration stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

ROOT = Path(__file__).parents[2]
PACKAGE = "specrouter_dist"

LAYERS = [
    {"errors"},
    {"config", "validation"},
    {"speculation", "pools", "tracing", "observability"},
    {"routing"},
    {"simulation", "links", "engine", "text", "tasks"},
    {"serving.results"},
    {"worker"},
    {"actors", "serving", "batch", "align", "slim"},
    {"cli", "deployments"},
]
"""Lowest first. ``serving.results`` is plain data that workers may produce."""

RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def rank(module: str) -> int:
    """The layer of a module name such as ``specrouter_dist.cli.main``."""
    parts = module.removeprefix(f"{PACKAGE}.").split(".")
    two = ".".join(parts[:2])
    return RANKS[two] if two in RANKS else RANKS[parts[0]]


def sources() -> list[Path]:
    files = [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "deployments").rglob("*.py")]
    return sorted(path for path in files if "_proto" not in path.parts)


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def test_imports_point_down() -> None:
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for path in sources()
        for line, imported in imports(path)
        if imported.startswith((f"{PACKAGE}.", "deployments."))
        and imported != f"{PACKAGE}.__version__"
        and module_name(path) != PACKAGE
        and rank(imported) > rank(module_name(path))
    ]
    assert upward == []


def test_only_actors_and_deployments_import_ray() -> None:
    strays = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for path in sources()
        for line, imported in imports(path)
        if imported.split(".")[0] == "ray"
        and not module_name(path).startswith((f"{PACKAGE}.actors", "deployments"))
    ]
    assert strays == []


PURE_FORBIDS = {"ray", "torch", "transformers", "socket", "time", "random", "threading", "asyncio"}


PURE = ("speculation", "routing", "simulation", "tracing", "batch")
"""A function of what it is given; under a virtual clock all of it must be repeatable."""


def test_the_algorithm_is_pure() -> None:
    impure = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for path in sources()
        for line, imported in imports(path)
        if module_name(path).startswith(tuple(f"{PACKAGE}.{name}" for name in PURE))
        and imported.split(".")[0] in PURE_FORBIDS
    ]
    assert impure == []


HEAVY = ("torch", "ray", "transformers")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("specrouter_dist.config", HEAVY),
        ("specrouter_dist.cli.main", (*HEAVY, "rich", "numpy", "tokenizers")),
        ("specrouter_dist.pools.checks", HEAVY),
        ("specrouter_dist.text.tokenizer", HEAVY),
        ("deployments.app", ("torch", "transformers")),
        ("specrouter_dist.actors.router_actor", ("torch", "transformers")),
        ("specrouter_dist.actors.worker_actor", ("torch", "transformers")),
        ("specrouter_dist.tasks.classifier", (*HEAVY, "sklearn", "scipy")),
    ],
)
def test_light_modules_import_nothing_heavy(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {forbidden!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_no_unit_test_can_start_ray() -> None:
    with pytest.raises(AssertionError, match="tried to start Ray"):
        ray.init()

    @ray.remote
    def anything() -> None: ...

    with pytest.raises(AssertionError, match="tried to start Ray"):
        anything.remote()
