"""The compiled decoder: that it is there, where it is used, and its threads."""

import shutil
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from specrouter_dist.config import Dtype, Quantization, SamplingParams
from specrouter_dist.engine.cpu import library
from specrouter_dist.engine.cpu.decoder import CompiledDecoder
from specrouter_dist.engine.cpu.library import Library, find_library
from specrouter_dist.engine.decoder import Run
from specrouter_dist.engine.eager import EagerDecoder
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.sampler import Sampler
from specrouter_dist.errors import EngineError
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.noise import gumbel_row
from tests.unit.engine.fast_models import (
    load,
    logged_logits,
    only_eager,
    save,
    small,
    text,
    threads,
)

GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save(small(), directory)
    return directory


@pytest.fixture(autouse=True)
def found_anew() -> Iterator[None]:
    yield
    find_library.cache_clear()


def built() -> Library:
    found = find_library()
    assert found is not None
    return found


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler to build it with")
def test_it_is_built_where_there_is_a_compiler() -> None:
    assert built().has_heads(64)


@pytest.mark.parametrize("head_dim", [16, 20, 24])
def test_heads_that_it_has_no_attention_for_run_in_torch(head_dim: int, tmp_path: Path) -> None:
    save(small(head_dim=head_dim), tmp_path)
    # Of 24 only where vectors are of eight.
    is_compiled = {16: True, 20: False}.get(head_dim, built().has_heads(head_dim))
    wanted = CompiledDecoder if is_compiled else EagerDecoder
    assert type(load(tmp_path)._decoder) is wanted


def test_without_it_the_engine_says_so(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "_MODULE", "specrouter_dist.engine.cpu._none")
    find_library.cache_clear()
    assert type(load(saved)._decoder) is EagerDecoder
    assert "no C++ compiler at install?" in caplog.text


def test_one_for_another_cpu_is_not_called(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Elsewhere(Library):
        runs_here = property(lambda _: False, lambda *_: None)

    monkeypatch.setattr(library, "Library", Elsewhere)
    find_library.cache_clear()
    assert type(load(saved)._decoder) is EagerDecoder
    assert "is for another CPU" in caplog.text


def test_one_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = library.find_spec(library._MODULE)
    assert path is not None and path.origin is not None
    monkeypatch.setattr(library, "PAGE_TOKENS", 32)
    with pytest.raises(EngineError, match="built of other sources; install the package again"):
        Library(path.origin)


def all_logits(engine: FastEngine, num_threads: int, block: int = 5) -> torch.Tensor:
    tokens = text(engine.info.vocab_size, 40)
    with threads(num_threads), logged_logits() as log:
        slot = engine.open(GREEDY, 1, 40)
        for start in range(0, 40, block):
            some = tokens[start : start + block]
            engine.extend([Extension(slot, start, some, len(some))])
        engine.close(slot)
    return log.of(slot, 40)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_threads_come_and_go(saved: Path, dtype: Dtype) -> None:
    """More than the machine has, fewer than before, and back."""
    engine = load(saved, dtype=dtype)
    alone = all_logits(engine, 1)
    for num_threads in (2, 5, 1, 3, 2, 5) * 3:
        assert torch.equal(all_logits(engine, num_threads), alone)


def test_in_8_bits_too_a_row_does_not_depend_on_its_block(saved: Path) -> None:
    engine = load(saved, exact=False, quantization=Quantization.INT8)
    alone = all_logits(engine, 1, block=1)
    for block in (2, 6, 7, 13):
        assert torch.equal(all_logits(engine, 2, block), alone)


def test_gates_may_be_large(tmp_path: Path) -> None:
    """Of either sign: what silu leaves of -100 is nothing."""
    model = save(small(), tmp_path)
    for layer in model.model.layers:
        layer.mlp.gate_proj.weight.data *= 200
    model.save_pretrained(tmp_path)
    found = all_logits(load(tmp_path), 2)
    with only_eager():
        wanted = all_logits(load(tmp_path), 2)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-3)


SAMPLINGS = [
    GREEDY,
    SamplingParams(temperature=0.8, seed=7),
    SamplingParams(temperature=1.0, seed=2**64 - 3),
    SamplingParams(temperature=0.8, seed=1, top_k=5),
    SamplingParams(temperature=0.5, seed=9),
]


def drawn(engine: FastEngine, counts: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Picks and drafts of sessions in one batch, each with other parameters."""
    tokens = text(engine.info.vocab_size, 80)
    slots = [engine.open(sampling, 60, 128) for sampling in SAMPLINGS[: len(counts)]]
    engine.extend([Extension(slot, 0, tokens[: 60 + i], 0) for i, slot in enumerate(slots)])
    batch = [
        Extension(slot, 60 + i, tokens[60 + i : 61 + i + max(i, num_picks)], num_picks, num_drafts)
        for i, (slot, (num_picks, num_drafts)) in enumerate(zip(slots, counts, strict=True))
    ]
    picks = engine.extend(batch)
    for slot in slots:
        engine.close(slot)
    return [found.tokens.tolist() for found in picks]


def drawn_step_by_step(engine: FastEngine, counts: Sequence[tuple[int, int]]) -> list[list[int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine._decoder), "draw", lambda *_: None)
        return drawn(engine, counts)


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize(
    "counts",
    [
        ((1, 15),),
        ((1, 3), (1, 3)),
        ((5, 0), (6, 0), (4, 2)),
        ((1, 1), (1, 20), (2, 5), (12, 1)),
        ((1, 0), (0, 0), (1, 12)),
        ((1, 2), (1, 3), (3, 4), (1, 5), (2, 6)),
    ],
)
def test_one_call_draws_what_steps_draw(
    saved: Path, counts: Sequence[tuple[int, int]], num_threads: int
) -> None:
    engine = load(saved)
    with threads(num_threads):
        found = drawn(engine, counts)
        assert found == drawn_step_by_step(engine, counts)
    assert [len(tokens) for tokens in found] == [sum(count) for count in counts]


def test_a_run_ends_with_its_stop_token(saved: Path) -> None:
    engine = load(saved)
    tokens = text(engine.info.vocab_size, 20)
    free = engine.open(GREEDY, 20, 64)
    wanted = engine.extend([Extension(free, 0, tokens, 1, 12)])[0].tokens
    stop = wanted[5]
    ending = engine.open(SamplingParams(temperature=0.0, stop_token_ids=[stop]), 20, 64)
    found = engine.extend([Extension(ending, 0, tokens, 1, 12)])[0].tokens
    assert found == wanted[: wanted.index(stop) + 1]
    assert engine._sessions[ending].fed == 20 + len(found) - 1


def test_nothing_is_computed_behind_the_last_stop(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(saved)
    tokens = text(engine.info.vocab_size, 20)
    free = engine.open(GREEDY, 20, 64)
    wanted = engine.extend([Extension(free, 0, tokens, 1, 12)])[0].tokens
    raw: list[list[TokenArray]] = []
    draw = type(engine._decoder).draw

    def kept(decoder: CompiledDecoder, runs: Sequence[Run]) -> list[TokenArray]:
        raw.append(draw(decoder, runs))
        return raw[-1]

    monkeypatch.setattr(type(engine._decoder), "draw", kept)
    lasts = [wanted.index(wanted[3]), wanted.index(wanted[7])]
    slots = [
        engine.open(SamplingParams(temperature=0.0, stop_token_ids=[wanted[last]]), 20, 64)
        for last in lasts
    ]
    picks = engine.extend([Extension(slot, 0, tokens, 1, 12) for slot in slots])
    for drawn, found, last in zip(raw[-1], picks, lasts, strict=True):
        assert found.tokens == wanted[: last + 1]
        assert drawn[: max(lasts) + 1] == wanted[: max(lasts) + 1]
        assert not any(drawn[max(lasts) + 1 :])


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(temperature=0.7, seed=3)])
@pytest.mark.parametrize("width", [5, 16, 120])
def test_the_best_of_a_row_is_the_lowest_of_equals(sampling: SamplingParams, width: int) -> None:
    torch.manual_seed(2)
    logits = torch.randint(0, 3, (9, width)).float()
    logits[3] = -torch.inf
    logits[3, width - 1] = -5.0
    batch = [Extension(0, 10, text(width, 9), 9)]
    found = []
    for has_library in (True, False):
        with nullcontext() if has_library else only_eager():
            sampler = Sampler(width, 1, torch.device("cpu"))
        sampler.open(0, sampling, 5)
        assert (sampler._library is not None) is has_library
        found.append(sampler.draw(logits, batch)[0].tokens)
    assert found[0] == found[1]
    if sampling.greedy:
        assert found[0].tolist() == logits.numpy().argmax(axis=1).tolist()


@pytest.mark.parametrize("width", [77, 4096])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
def test_noise_is_made_where_it_can_win_and_nowhere_else_matters(
    width: int, temperature: float, spread: float
) -> None:
    torch.manual_seed(4)
    logits = torch.randn(50, width) * spread
    sampling = SamplingParams(temperature=temperature, seed=2**64 - 5)
    sampler = Sampler(width, 1, torch.device("cpu"))
    sampler.open(0, sampling, 5)
    batch = [Extension(0, 100, array("I", [1] * 50), 50)]
    noise = np.stack([gumbel_row(sampling.seed, 101 + i, width) for i in range(50)])
    wanted = (logits.numpy() * np.float32(1 / temperature) + noise).argmax(axis=1)
    assert sampler.draw(logits, batch)[0].tokens.tolist() == wanted.tolist()


def test_engines_of_one_process_do_not_disturb_each_other(saved: Path) -> None:
    """Each on a thread of its own, at once, with one thread and with several."""
    engines = [load(saved) for _ in range(3)]
    counts = ((1, 9), (5, 0), (2, 4))
    with threads(1):
        wanted = drawn(engines[0], counts)

    def draw_often(engine: FastEngine, num_threads: int) -> list[list[list[int]]]:
        torch.set_num_threads(num_threads)  # of this thread
        return [drawn(engine, counts) for _ in range(60)]

    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(draw_often, engines, (2, 1, 3)):
            assert found == [wanted] * 60
