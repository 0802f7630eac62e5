"""Whether a pool can run: whole weight files, one tokenizer, enough memory.

Reads headers and configurations only; a check of the embedded pool takes milliseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer

from specrouter_dist.config import Dtype, LoraMember, ModelMember
from specrouter_dist.errors import ConfigError
from specrouter_dist.pools.adapter_files import read_adapter
from specrouter_dist.pools.llama_configs import refusal
from specrouter_dist.pools.llama_sizes import read_sizes
from specrouter_dist.pools.loading import Pool, lora_members, slim_members
from specrouter_dist.pools.model_files import (
    ModelShape,
    count_parameters,
    read_eos_ids,
    read_json,
    read_shape,
    weight_files,
)
from specrouter_dist.speculation.agreeing import law_of

_ELEMENT_BYTES = {Dtype.FP32: 4, Dtype.BF16: 2}


@dataclass(frozen=True, slots=True)
class MemberReport:
    """A model member, or an adapter on one, as its files describe it."""

    name: str
    shape: ModelShape
    num_parameters: int | None
    """None for PyTorch weight files."""
    weight_bytes: int
    kv_bytes: int
    context_tokens: int
    """Longest sequence: the model's, the member's limit or the KV cache, whichever is least."""


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What the checks found of a pool that can run."""

    members: tuple[MemberReport, ...]
    num_ids: int
    """Token ids that all members share; padded rows of the heads are cut off there."""
    eos_ids: frozenset[int]
    """The target's."""
    required_bytes: int
    """Weights and KV caches of the members on this machine's CPU; adapters have no cache."""
    available_bytes: int

    def member(self, name: str) -> MemberReport:
        """The report on the member of that name."""
        return next(member for member in self.members if member.name == name)


def check_pool(pool: Pool, *, available_bytes: int | None = None) -> PoolReport:
    """All checks of a pool whose directories are resolved.

    ``available_bytes`` is what this machine has, measured when None.

    Raises:
        ConfigError: the first check that fails.
    """
    models = pool.config.models
    reports = tuple(_check_member(member, pool.directories[member.name]) for member in models)
    _check_fast(pool)
    _check_masks(pool, reports)
    _check_agreements(pool)
    num_ids = shared_ids(pool.directories, pool.config.target.name)
    for report in reports:
        if report.shape.vocab_size < num_ids:
            raise ConfigError(
                f"member {report.name!r}: its head has {report.shape.vocab_size} rows, the "
                f"target's tokenizer {num_ids} ids; a member needs a row for each"
            )
    on_cpu = {m.name for m in models if m.device == "cpu"}
    on_cpu |= {m.name for m in lora_members(pool) if m.of in on_cpu}
    reports += tuple(_check_adapter(member, pool, reports) for member in lora_members(pool))
    required = sum(r.weight_bytes + r.kv_bytes for r in reports if r.name in on_cpu)
    available = memory_available() if available_bytes is None else available_bytes
    if required > available:
        raise ConfigError(_too_little_memory(reports, on_cpu, required, available))
    eos_ids = read_eos_ids(pool.directories[pool.config.target.name])
    return PoolReport(reports, num_ids, eos_ids, required, available)


def shared_ids(directories: Mapping[str, Path], target: str) -> int:
    """Number of ids of the target's tokenizer, which every member's must give the same strings.

    A drafter may know further ids; they are never proposed. Names of files and classes do not
    matter, only the content: id -> string.

    Raises:
        ConfigError: two members differ; names both, the first id and its strings.
    """
    vocabularies = {name: read_vocabulary(path) for name, path in directories.items()}
    wanted = vocabularies[target]
    num_ids = max(wanted) + 1
    for name, vocabulary in vocabularies.items():
        for i in range(num_ids):
            if vocabulary.get(i) != wanted.get(i):
                raise ConfigError(
                    f"member {name!r}: its tokenizer is another than the target's: id {i} is "
                    f"{vocabulary.get(i)!r}, in {target!r} {wanted.get(i)!r}; the tokenizers of "
                    "a pool must have the same id -> string"
                )
    return num_ids


def read_vocabulary(directory: Path) -> dict[int, str]:
    """id -> string of the tokenizer in ``directory``, added tokens included.

    Raises:
        ConfigError: no tokenizer.json, or a damaged one.
    """
    path = directory / "tokenizer.json"
    read_json(path)
    try:
        tokenizer = RawTokenizer.from_file(str(path))
    except Exception as problem:  # noqa: BLE001 - the library raises bare Exception
        raise ConfigError(f"{path}: no tokenizer ({problem})") from None
    vocabulary = {i: text for text, i in tokenizer.get_vocab(with_added_tokens=True).items()}
    config_path = directory / "tokenizer_config.json"
    if config_path.exists():
        added = read_json(config_path).get("added_tokens_decoder", {})
        vocabulary.update({int(i): entry["content"] for i, entry in added.items()})
    return vocabulary


def memory_available() -> int:
    """Bytes this machine can still give: the kernel's estimate, or the control group's rest."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit_file = Path("/sys/fs/cgroup/memory.max")
    if limit_file.exists() and (limit := limit_file.read_text().strip()) != "max":
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        available = min(available, max(0, int(limit) - used))
    return available


def _check_fast(pool: Pool) -> None:
    """That models which must run in the fast engine can."""
    models = pool.config.models
    engines = {m.name: m.engine for m in models}
    needed = {m.name: (m.name, "engine") for m in models if m.engine == "fast"}
    needed |= {m.name: (m.name, "quantization") for m in models if m.quantization is not None}
    needed |= {slim.of: (slim.name, "of") for slim in slim_members(pool)}
    needed |= {lora.of: (lora.name, "of") for lora in lora_members(pool)}
    for model, (member, field) in needed.items():
        refused = refusal(read_json(pool.directories[model] / "config.json", "model"))
        if engines[model] == "general":
            refused = "engine: 'general'"
        if refused is not None:
            raise ConfigError(
                f"member {member!r}: {field}: {model!r} must run in the fast engine, which does "
                f"not run it: {refused}",
                field=field,
            )


def _check_masks(pool: Pool, reports: Sequence[MemberReport]) -> None:
    num_layers = next(r for r in reports if r.name == pool.config.target.name).shape.num_layers
    for member in slim_members(pool):
        try:
            member.check_layers(num_layers)
        except ValueError as problem:
            raise ConfigError(str(problem), field="mask") from None


def _check_agreements(pool: Pool) -> None:
    """That a synthetic pool's do not contradict each other."""
    texts = pool.config.synthetic
    if texts is not None:
        try:
            law_of(texts.agreements, pool.config.target.name)
        except ConfigError as problem:
            raise ConfigError(f"synthetic.{problem}", field="synthetic.agreements") from None


def _check_member(member: ModelMember, directory: Path) -> MemberReport:
    shape = read_shape(directory)
    num_parameters = (
        read_sizes(directory).num_parameters
        if member.engine == "synthetic"
        else count_parameters(directory)
    )
    element_bytes = _ELEMENT_BYTES[member.dtype]
    if member.quantization is not None:
        # As the compiled decoder holds them, or a GPU; torch's int8 on CPUs takes more.
        weight_bytes = read_sizes(directory).quantised_bytes(
            shape.vocab_size, embedding_bytes=element_bytes if member.device == "cpu" else 2
        )
    elif num_parameters is None:
        weight_bytes = sum(path.stat().st_size for path in weight_files(directory))
    else:
        weight_bytes = num_parameters * element_bytes
    limit = member.context_tokens or shape.context_tokens
    if limit > shape.context_tokens:
        raise ConfigError(
            f"member {member.name!r}: context_tokens: at most {shape.context_tokens}, the model's "
            f"max_position_embeddings, got {limit}",
            field="context_tokens",
        )
    return MemberReport(
        name=member.name,
        shape=shape,
        num_parameters=num_parameters,
        weight_bytes=weight_bytes,
        kv_bytes=member.kv_tokens * shape.kv_bytes_per_token(element_bytes),
        context_tokens=min(limit, member.kv_tokens),
    )


def _check_adapter(member: LoraMember, pool: Pool, bases: Sequence[MemberReport]) -> MemberReport:
    base = next(model for model in pool.config.models if model.name == member.of)
    try:
        files = read_adapter(Path(member.adapter), pool.directories[base.name])
    except ConfigError as problem:
        text = f"member {member.name!r}: adapter: {problem}"
        raise ConfigError(text, field=problem.field) from None
    # The fast engine holds what is small in float32 on the CPU, which is faster there.
    element_bytes = 4 if base.device == "cpu" else _ELEMENT_BYTES[base.dtype]
    return replace(
        next(report for report in bases if report.name == base.name),
        name=member.name,
        num_parameters=files.num_parameters,
        weight_bytes=files.num_held * element_bytes,
        kv_bytes=0,
    )


def _too_little_memory(
    reports: tuple[MemberReport, ...], on_cpu: set[str], required: int, available: int
) -> str:
    def mib(num_bytes: int) -> str:
        return f"{num_bytes / 2**20:.0f} MiB"

    parts = "; ".join(
        f"{r.name} {mib(r.weight_bytes)} weights + {mib(r.kv_bytes)} KV"
        for r in reports
        if r.name in on_cpu
    )
    return (
        f"memory: the pool needs {mib(required)} ({parts}), {mib(available)} are available; "
        "lower kv_tokens, leave members out or use dtype bf16"
    )
