"""The arms: our own, and for each peer the settings that its best one is sought among."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OURS = "ours"
ALONE = "alone"
FLOAT32 = ("--dtype", "float32")
"""On CPUs that cannot multiply bfloat16 a peer may be faster with weights of twice the size."""
AUTO = "auto"
CONTEXT_TOKENS = 2048
"""The longest sequence that servers have room for: what the embedded pool's models allow."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What is measured: a worker's command, and what its requests say besides."""

    name: str
    system: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    chain: tuple[str, ...] | None = None
    """Of our own pool; None: the router's choice."""

    @property
    def worker(self) -> tuple[object, ...]:
        """Arms of which this is equal share a worker."""
        return self.command, self.environment


@dataclass(frozen=True, slots=True)
class Setting:
    """Arguments of a peer's worker."""

    name: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mode:
    """How its process runs."""

    name: str
    environment: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """A system beside ours; the first setting is the target alone."""

    name: str
    command: tuple[str, ...]
    settings: tuple[Setting, ...]
    modes: tuple[Mode, ...]

    def arm(self, setting: Setting, mode: Mode) -> Arm:
        """One of its arms."""
        name = f"{self.name} {setting.name} ({mode.name})"
        return Arm(name, self.name, (*self.command, *setting.arguments), mode.environment)


def own_arms(pool: str, target: str, backend: str, chains: Sequence[tuple[str, ...]]) -> list[Arm]:
    """The router's choice, the target alone, and ``chains``, on one backend."""
    module = ("-m", "benchmarks.peers.specrouter_worker")
    command = (sys.executable, *module, "--pool", pool, "--backend", backend)
    named = {AUTO: None, ALONE: (target,), **{" -> ".join(chain): chain for chain in chains}}
    return [
        Arm(f"{OURS} {name} ({backend})", OURS, command, chain=chain)
        for name, chain in named.items()
    ]


def peers(
    directory: Path, models: Mapping[str, Path], target: str, *, short: bool
) -> tuple[Peer, ...]:
    """All peers.

    Args:
        directory: of their virtual environments (setup.sh).
        models: the pool's models by name.
        target: the name of the one that is served; the others are its drafters.
        short: so few settings that none need be chosen; not enough to say what a peer can do.
    """
    drafters = {name: path for name, path in models.items() if name != target}
    makers = (_transformers, _vllm)
    return tuple(make(directory, models[target], drafters, short) for make in makers)


def _transformers(directory: Path, target: Path, drafters: Mapping[str, Path], short: bool) -> Peer:
    assisted = [
        Setting(f"assisted {name} {length}", ("--assistant", str(path), "--length", str(length)))
        for name, path in drafters.items()
        for length in (() if short else (2, 4, 8))
    ]
    lookups = [
        Setting(f"prompt lookup {length}", ("--lookup", str(length)))
        for length in ((5,) if short else (3, 5, 10))
    ]
    others = [
        Setting("continuous batching", ("--continuous",)),
        Setting("alone, float32", FLOAT32),
        Setting("prompt lookup 5, float32", (*FLOAT32, "--lookup", "5")),
    ]
    modes = [Mode(f"threads {n}", _threads(n)) for n in _thread_counts(short)]
    python = str(directory / "transformers" / "bin" / "python")
    command = (python, "-m", "benchmarks.peers.transformers_worker", "--target", str(target))
    settings = (Setting(ALONE), *assisted, *lookups, *(() if short else others))
    return Peer("transformers", command, settings, tuple(modes))


def _vllm(directory: Path, target: Path, drafters: Mapping[str, Path], short: bool) -> Peer:
    if short:
        drafters = dict(list(drafters.items())[-1:])
    drafted = [
        _speculative(f"draft_model {name} {length}", "draft_model", length, model=str(path))
        for name, path in drafters.items()
        for length in ((3,) if short else (1, 2, 3, 5))
    ]
    ngrams = [
        _speculative(f"ngram {length}", "ngram", length, prompt_lookup_min=2, prompt_lookup_max=4)
        for length in ((5,) if short else (3, 5, 8))
    ]
    # No texts of earlier requests: every pass asks the same, and they would hold the answers.
    suffix = _speculative("suffix", "suffix", None, suffix_decoding_max_cached_requests=0)
    others = [
        suffix,
        Setting("alone, float32", FLOAT32),
        *(Setting(f"{ngram.name}, float32", (*FLOAT32, *ngram.arguments)) for ngram in ngrams[:1]),
    ]
    settings = (Setting(ALONE), *drafted, *ngrams, *(() if short else others))
    environment = directory / "vllm"
    common = (
        ("LD_PRELOAD", str(environment / "lib" / "libiomp5.so")),
        ("VLLM_CPU_KVCACHE_SPACE", "1"),
        ("VLLM_CACHE_ROOT", str(directory / "cache" / "vllm")),
        ("VLLM_NO_USAGE_STATS", "1"),
    )
    modes = [
        Mode(
            f"threads {n}, {'engine process' if separate else 'one process'}",
            (
                *common,
                *_threads(n),
                ("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, _cpus()[:n]))),
                ("VLLM_ENABLE_V1_MULTIPROCESSING", str(separate)),
            ),
        )
        for n in _thread_counts(short)
        for separate in ((0,) if short else (0, 1))
    ]
    python = str(environment / "bin" / "python")
    command = (python, "-m", "benchmarks.peers.vllm_worker", "--target", str(target))
    return Peer("vllm", command, settings, tuple(modes))


def _speculative(name: str, method: str, length: int | None, **more: object) -> Setting:
    lengths = {} if length is None else {"num_speculative_tokens": length}
    config = {"method": method, **lengths, **more}
    return Setting(name, ("--speculative", json.dumps(config)))


def _cpus() -> list[int]:
    """Those that this process may use, and so its children."""
    return sorted(os.sched_getaffinity(0))


def _thread_counts(short: bool) -> list[int]:
    return [len(_cpus())] if short else sorted({1, len(_cpus())})


def _threads(count: int) -> tuple[tuple[str, str], ...]:
    return (("OMP_NUM_THREADS", str(count)),)
