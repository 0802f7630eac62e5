"""The compiled decoder: that it is there, where it is used, and its threads."""

import shutil
from pathlib import Path

import pytest
import torch

from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine.cpu import library
from specrouter_dist.engine.cpu.decoder import CompiledDecoder
from specrouter_dist.engine.cpu.library import Library, find_library
from specrouter_dist.engine.cpu.packing import pack_linear, pad_halves
from specrouter_dist.engine.eager import EagerDecoder
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension
from specrouter_dist.errors import EngineError
from tests.unit.engine.fast_models import load, logged_logits, save, small, text

GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save(small(), directory)
    return directory


def built() -> Library:
    found = find_library()
    assert found is not None
    return found


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler to build it with")
def test_it_is_built_where_there_is_a_compiler() -> None:
    assert built().runs(64)


@pytest.mark.parametrize("head_dim", [16, 24])
def test_heads_that_it_has_no_attention_for_run_in_torch(head_dim: int, tmp_path: Path) -> None:
    save(small(head_dim=head_dim), tmp_path)
    wanted = CompiledDecoder if head_dim == 16 else EagerDecoder
    assert type(load(tmp_path)._decoder) is wanted


def test_without_it_the_engine_says_so(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "_MODULE", "specrouter_dist.engine.cpu._none")
    monkeypatch.setattr(library.find_library, "cache_clear", find_library.cache_clear)
    find_library.cache_clear()
    try:
        assert type(load(saved)._decoder) is EagerDecoder
    finally:
        find_library.cache_clear()
    assert "no C++ compiler at install?" in caplog.text


def test_one_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = library.find_spec(library._MODULE)
    assert path is not None and path.origin is not None
    monkeypatch.setattr(library, "_VERSION", library._VERSION + 1)
    with pytest.raises(EngineError, match="built of other sources; install the package again"):
        Library(path.origin)


def all_logits(engine: FastEngine, num_threads: int) -> torch.Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    tokens = text(engine.info.vocab_size, 40)
    with logged_logits() as log:
        slot = engine.open(GREEDY, 1, 40)
        for start in range(0, 40, 5):
            engine.extend([Extension(slot, start, tokens[start : start + 5], 5)])
        engine.close(slot)
    torch.set_num_threads(before)
    return log.of(slot, 40)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_threads_come_and_go(saved: Path, dtype: Dtype) -> None:
    """More than the machine has, fewer than before, and back."""
    engine = load(saved, dtype=dtype)
    alone = all_logits(engine, 1)
    for num_threads in (2, 5, 1, 3, 2, 5) * 3:
        assert torch.equal(all_logits(engine, num_threads), alone)


def test_bfloat16_weights_are_two_to_a_word() -> None:
    weight = torch.arange(40 * 3).view(40, 3).bfloat16()
    panels = pack_linear(weight, None).panels
    assert panels.shape == (2, 3, 16, 2)
    assert torch.equal(panels[0, 1], torch.stack([weight[:16, 1], weight[16:32, 1]], dim=1))
    assert torch.equal(panels[1, 2, :8, 0], weight[32:, 2]) and not panels[1, :, 8:].any()


def test_gates_and_ups_fill_whole_panels() -> None:
    weight = torch.arange(1.0, 81.0).view(80, 1)
    padded = pad_halves(weight)
    assert padded.shape == (128, 1)
    assert torch.equal(padded[64:104], weight[40:]) and not padded[40:64].any()
    assert torch.equal(pad_halves(weight[:, 0]), padded[:, 0])
