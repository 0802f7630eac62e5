"""Pool files: found, read, checked field by field, and identified by content."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specrouter_dist import __version__
from specrouter_dist.config import (
    Dtype,
    LayerSkipMember,
    LookupMember,
    LoraMember,
    ModelMember,
    PoolConfig,
)
from specrouter_dist.errors import ConfigError, NotFoundError, RequestError
from specrouter_dist.pools import hub, shapes
from specrouter_dist.pools.model_files import relevant_files
from specrouter_dist.pools.yaml_files import read_yaml
from specrouter_dist.validation import did_you_mean, one_of, validated

POOLS_DIRECTORY = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool file that was read, and where its models lie."""

    config: PoolConfig
    file: Path
    directories: Mapping[str, Path]
    """Model directories by member. Without the members that name a hub model or a shape, until
    :func:`resolve_directories` has fetched them; other kinds have none."""
    config_hash: str
    """Equal for two pools exactly when members, settings, model files and version are equal, so
    it decides whether a running pool is the wanted one."""


def available_pools() -> list[str]:
    """Names of the pools that come with the package."""
    return sorted(path.stem for path in POOLS_DIRECTORY.glob("*.yaml"))


def load_pool(name_or_path: str, *, dtype: Dtype | None = None) -> Pool:
    """The pool of that name, or of that file (anything with a slash or ending in .yaml).

    ``dtype`` replaces that of every member.

    Raises:
        NotFoundError: no such pool or file.
        ConfigError: the file is wrong; one line with file, field and what would be right.
    """
    file = _find(name_or_path)
    config = validated(PoolConfig, read_yaml(file), error=ConfigError, where=str(file))
    if dtype is not None:
        config = _with_dtype(config, dtype)
    directories = {
        member.name: path
        for member in config.models
        if (path := local_directory(file, member.model))
    }
    return Pool(config, file, directories, _hash(file, config, directories))


def resolve_directories(pool: Pool) -> Pool:
    """The pool with every model's directory; models named by hub name are fetched.

    Raises:
        NotFoundError: a model is neither a directory nor to be had from the hub, or a shape is
            none.
    """
    directories = dict(pool.directories)
    for member in pool.config.models:
        if member.name not in directories:
            expected = pool.file.parent / member.model
            directories[member.name] = named_directory(member, expected_directory=expected)
    return Pool(pool.config, pool.file, directories, _hash(pool.file, pool.config, directories))


def named_directory(member: ModelMember, *, expected_directory: Path) -> Path:
    """The directory of a model or shape that is named by its name; models are fetched.

    Raises:
        NotFoundError: there is none of that name.
    """
    find = shapes.find if member.engine == "synthetic" else hub.fetch
    return find(member, expected_directory=expected_directory)


def local_directory(file: Path, model: str) -> Path | None:
    """The directory that ``model`` names, relative to the pool file; None if it is none."""
    directory = (file.parent / Path(model).expanduser()).resolve()
    return directory if directory.is_dir() else None


def tasks_file(pool: Pool) -> Path | None:
    """Where the pool's partition into tasks lies, if it names one."""
    return _tasks_file(pool.file, pool.config)


def model_members(pool: Pool) -> list[ModelMember]:
    """The pool's members with weights of their own, the target last."""
    return sorted(pool.config.models, key=lambda member: member.role == "target")


def slim_members(pool: Pool) -> list[LayerSkipMember]:
    """The pool's members that are parts of its target."""
    return [m for m in pool.config.members if isinstance(m, LayerSkipMember)]


def lora_members(pool: Pool) -> list[LoraMember]:
    """The pool's members that are adapters on a drafter, their directories absolute."""
    return _loras(pool.file, pool.config)


def model_names(pool: Pool) -> list[str]:
    """All members that are models: drafters, their adapters, slim ones, and the target."""
    *drafters, target = model_members(pool)
    adapters = (member.name for member in lora_members(pool))
    slims = (member.name for member in slim_members(pool))
    return [*(member.name for member in drafters), *adapters, *slims, target.name]


def portable_members(pool: Pool) -> list[dict[str, Any]]:
    """The members as a pool file has them, for one that may lie anywhere: models and adapters by
    the directories where they are now. ``pool``: with all directories resolved."""
    adapters = {member.name: member.adapter for member in lora_members(pool)}
    found = []
    for member in pool.config.members:
        fields = {"name": member.name, **member.model_dump(mode="json", exclude_unset=True)}
        if isinstance(member, ModelMember):
            fields["model"] = str(pool.directories[member.name].resolve())
        if isinstance(member, LoraMember):
            fields["adapter"] = adapters[member.name]
        found.append(fields)
    return found


def lookup_members(pool: Pool) -> list[LookupMember]:
    """The pool's members without a model."""
    return [m for m in pool.config.members if isinstance(m, LookupMember)]


def parse_chain(pool: Pool, text: str) -> tuple[str, ...]:
    """Member names, drafter first and target last, from ``name,name,...``.

    Raises:
        NotFoundError: a member that the pool does not have.
        RequestError: empty, doubled, not ending in the target, or a lookup behind a model.
    """
    chain = tuple(name.strip() for name in text.split(","))
    members = {member.name: member for member in pool.config.members}
    target = pool.config.target.name
    right = f"a chain is 'auto' or drafters, then the target {target!r}, joined by commas"
    for name in chain:
        if not name:
            raise RequestError(f"chain: a name is empty in {text!r}; {right}", field="chain")
        if name not in members:
            raise NotFoundError(
                f"chain: pool {pool.config.name!r} has no member {name!r}"
                f"{did_you_mean(name, members)}; {one_of(members)}",
                field="chain",
            )
    doubled = sorted({name for name in chain if chain.count(name) > 1})
    if doubled:
        raise RequestError(
            f"chain: {doubled[0]!r} occurs twice in {text!r}; each member at most once",
            field="chain",
        )
    if chain[-1] != target:
        raise RequestError(f"chain: {text!r} does not end in {target!r}; {right}", field="chain")
    for name in chain[1:]:
        if isinstance(members[name], LookupMember):
            raise RequestError(
                f"chain: lookup member {name!r} verifies nothing and can only stand first",
                field="chain",
            )
    return chain


def _find(name_or_path: str) -> Path:
    is_path = "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))
    file = Path(name_or_path) if is_path else POOLS_DIRECTORY / f"{name_or_path}.yaml"
    if file.is_file():
        return file.resolve()
    if is_path:
        raise NotFoundError(f"pool: no file {name_or_path!r}", field="pool")
    names = available_pools()
    raise NotFoundError(
        f"pool: no pool {name_or_path!r}{did_you_mean(name_or_path, names)}; "
        f"{one_of(names)}, or the path of a .yaml file",
        field="pool",
    )


def _with_dtype(config: PoolConfig, dtype: Dtype) -> PoolConfig:
    members = tuple(
        member.model_copy(update={"dtype": dtype}) if isinstance(member, ModelMember) else member
        for member in config.members
    )
    return config.model_copy(update={"members": members})


def _tasks_file(file: Path, config: PoolConfig) -> Path | None:
    return None if config.tasks is None else (file.parent / Path(config.tasks).expanduser())


def _loras(file: Path, config: PoolConfig) -> list[LoraMember]:
    found = []
    for member in config.members:
        if isinstance(member, LoraMember):
            directory = (file.parent / Path(member.adapter).expanduser()).resolve()
            found.append(member.model_copy(update={"adapter": str(directory)}))
    return found


def _hash(file: Path, config: PoolConfig, directories: Mapping[str, Path]) -> str:
    files = {
        member: [_stamp(path) for path in relevant_files(directory)]
        for member, directory in directories.items()
    }
    for member in _loras(file, config):
        if (adapter := Path(member.adapter)).is_dir():
            files[member.name] = [_stamp(path) for path in relevant_files(adapter)]
    # What a router has learnt of a task is nothing to another partition's task of that name.
    tasks = _tasks_file(file, config)
    if tasks is not None and tasks.is_file():
        files["tasks"] = [_stamp(tasks)]
    content = [__version__, config.model_dump(mode="json"), files]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return path.name, stat.st_size, stat.st_mtime_ns
