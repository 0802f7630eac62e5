"""Synthetic pools: ready shapes, and what is wrong in a file or a request, by its field."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from specrouter_dist.cli import main as cli
from specrouter_dist.config import SamplingParams
from specrouter_dist.errors import ConfigError, InputError, RequestError
from specrouter_dist.pools.checks import check_pool
from specrouter_dist.pools.llama_sizes import read_sizes
from specrouter_dist.pools.loading import available_pools, load_pool, resolve_directories
from specrouter_dist.pools.lossy import check_lossy
from specrouter_dist.pools.shapes import SHAPES_DIRECTORY, available_shapes
from specrouter_dist.pools.synthetic import check_synthetic
from tests.pools import write_slim_synthetic_pool, write_synthetic_pool

NUM_PARAMETERS = {
    "llama-2-70b": 68_976_648_192,
    "llama-2-7b": 6_738_415_616,
    "llama-68m": 68_030_208,
    "mini-1m": 1_212_800,
    "mini-63m": 62_927_616,
    "mini-6m": 6_293_760,
    "tinyllama-1.1b": 1_100_048_384,
}


def test_ready_shapes_have_as_many_weights_as_the_models() -> None:
    assert available_shapes() == sorted(NUM_PARAMETERS)
    for name, count in NUM_PARAMETERS.items():
        assert read_sizes(SHAPES_DIRECTORY / name).num_parameters == count


@pytest.mark.parametrize("name", [n for n in available_pools() if n.startswith("synthetic-")])
def test_ready_pools_can_run(name: str) -> None:
    report = check_pool(resolve_directories(load_pool(name)), available_bytes=2**40)
    assert report.num_ids == 4096
    for member in report.members:
        assert member.weight_bytes == 2 * (member.num_parameters or 0) > 0


def changed(tmp_path: Path, **changes: Any) -> str:
    """The file of a synthetic pool, changed at ``path.to[1].field``."""
    file = write_synthetic_pool(tmp_path)
    content = yaml.safe_load(file.read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        here = content
        for part in parents:
            here = here[int(part) if part.isdigit() else part]
        if value is None:
            del here[last]
        else:
            here[last] = value
    file.write_text(yaml.safe_dump(content))
    return str(file)


AGREE = "synthetic__agreements__0__"
WRONG = [
    ({AGREE + "agreement": 1.5}, r"synthetic\.agreements\[0\]\.agreement: .* 1, got 1\.5"),
    ({AGREE + "agreement": -0.1}, r"synthetic\.agreements\[0\]\.agreement: .* 0, got -0\.1"),
    ({AGREE + "agreement": float("nan")}, r"synthetic\.agreements\[0\]\.agreement: .*got nan"),
    ({AGREE + "burstiness": 0.4}, r"synthetic\.agreements\[0\]\.burstiness: unknown field"),
    ({AGREE + "draft": "smal"}, r"synthetic\.agreements: no member 'smal' \(did you mean 'small"),
    (
        {AGREE + "draft": "target", AGREE + "verifier": "small"},
        r"synthetic\.agreements: 'target' cannot draft for 'small'",
    ),
    ({AGREE + "verifier": "target"}, r"agreements: 'small' with 'target' is given twice"),
    ({"synthetic": {"agreements": []}}, r"agreements: member 'small' has none"),
    ({"synthetic": None}, r"member 'small': engine: either all .*synthetic=none"),
    ({"members__1__engine": "fast"}, r"member 'medium': engine: either all .*engine='fast'"),
    ({"members__2__role": "drafter"}, r"members: exactly one has role 'target', got none"),
    ({"members__1__revision": "main"}, r"member 'medium': revision: the shape"),
    ({"members__1__model": "llama-2-7"}, r"members\.medium\.model: 'llama-2-7' .*mean 'llama-2-7b"),
    (
        {AGREE + "agreement": 0.05},
        r"synthetic\.agreements: '\w+' with '\w+' at 0\.\d+ contradicts the others",
    ),
]


@pytest.mark.parametrize(("changes", "line"), WRONG, ids=[line for _, line in WRONG])
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        check_pool(resolve_directories(load_pool(changed(tmp_path, **changes))))


def test_a_slim_member_agrees_as_stated_too(tmp_path: Path) -> None:
    file = write_slim_synthetic_pool(tmp_path)
    config = load_pool(str(file)).config
    content = yaml.safe_load(file.read_text())
    with pytest.raises(RequestError, match=r"lossy: .*engine 'synthetic' have picks alone"):
        check_lossy(config, ("small", "slim", "target"), SamplingParams())
    (stated,) = (a for a in content["synthetic"]["agreements"] if a["draft"] == "slim")
    content["synthetic"]["agreements"].remove(stated)
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"synthetic\.agreements: member 'slim' has none"):
        load_pool(str(file))
    slims = [member for member in content["members"] if member["name"] == "slim"]
    content["members"] += [{**slims[0], "name": f"slim-{number}"} for number in range(4)]
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"members: at most 7 .* or of kind 'layer_skip', got 8"):
        load_pool(str(file))


def test_a_shape_of_ones_own_is_a_directory_without_weights(tmp_path: Path) -> None:
    shape = tmp_path / "shape"
    shape.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (shape / name).write_text((SHAPES_DIRECTORY / "mini-1m" / name).read_text())
    config = json.loads((shape / "config.json").read_text())
    (shape / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    pool = resolve_directories(load_pool(changed(tmp_path, members__2__model="shape")))
    assert pool.directories["target"] == shape
    assert check_pool(pool).member("target").num_parameters == 1_212_800 + 164_096
    del config["intermediate_size"]
    (shape / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="intermediate_size: an integer >= 1 is needed"):
        check_pool(pool)


def test_real_pools_have_laws() -> None:
    sampling = SamplingParams(logprobs=2, top_p=0.9)
    check_synthetic(load_pool("tiny").config, sampling)
    with pytest.raises(RequestError, match="logprobs: cannot be had of members with engine"):
        check_synthetic(load_pool("synthetic-mini").config, sampling)


@pytest.mark.parametrize(("option", "field"), [("--top-p=0.5", "top_p"), ("--top-k=4", "top_k")])
def test_the_command_refuses_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], option: str, field: str
) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(["generate", option, "--pool", "synthetic-mini", "--prompt", "x"])
    captured = capsys.readouterr()
    assert (exited.value.code, captured.out) == (2, "")
    assert captured.err.startswith(f"error: {field}: cannot be had")
