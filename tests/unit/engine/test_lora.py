"""Adapters on a drafter: each row's law is that of its merged model, whatever shares the batch."""

from array import array
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen3Config

from specrouter_dist.config import LoraMember, Quantization, SamplingParams
from specrouter_dist.engine.adapted import AdaptedEngine
from specrouter_dist.engine.decoder import Part, Run
from specrouter_dist.engine.factory import load_adapted
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.interface import Extension
from specrouter_dist.engine.lora import AdaptedRows
from specrouter_dist.engine.toy import ToyEngine
from specrouter_dist.errors import EngineError
from specrouter_dist.speculation.messages import TokenArray
from tests.adapters import path_of, write_adapter
from tests.unit.engine.fast_models import SMALL, load, logged_logits, save, small, text

pytestmark = pytest.mark.usefixtures("decoder")

GREEDY = SamplingParams(temperature=0.0)
VOCAB = SMALL["vocab_size"]

Saved = tuple[Path, Any, dict[str, Path]]


@pytest.fixture(
    scope="module",
    params=[small(), Qwen3Config(**(SMALL | {"head_dim": 16}))],
    ids=["llama", "qwen3"],
)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A base, the same in transformers, and two adapters of different ranks."""
    directory = tmp_path_factory.mktemp("base")
    reference = save(request.param, directory)
    adapters = {
        "all": write_adapter(directory / "all", directory, rank=4, seed=1),
        "some": write_adapter(
            directory / "some",
            directory,
            rank=2,
            projections=("q_proj", "v_proj", "up_proj"),
            seed=2,
            use_rslora=True,
        ),
    }
    return directory, reference, adapters


def engines(saved: Saved, **changes: Any) -> tuple[FastEngine, dict[str, AdaptedEngine]]:
    directory, _, adapters = saved
    base = load(directory, **({"exact": False} | changes))
    members = [
        LoraMember(kind="lora", name=name, of="base", adapter=str(path))
        for name, path in adapters.items()
    ]
    return base, {member.name: load_adapted(member, base, directory) for member in members}


def merged(saved: Saved, name: str) -> Any:
    """The reference with the adapter added to its weights."""
    _, reference, adapters = saved
    model = deepcopy(reference)
    scale = {"all": 2.0, "some": 4 / 2**0.5}[name]
    tensors = load_file(adapters[name] / "adapter_model.safetensors")
    for layer in range(model.config.num_hidden_layers):
        for projection in ("q", "k", "v", "o", "gate", "up", "down"):
            path = path_of(layer, f"{projection}_proj")
            first = tensors.get(f"base_model.model.{path}.lora_A.weight")
            if first is not None:
                second = tensors[f"base_model.model.{path}.lora_B.weight"]
                model.get_submodule(path).weight.data += scale * second @ first
    return model


@torch.inference_mode()
def logits_of(model: Any, tokens: Sequence[int]) -> Tensor:
    logits: Tensor = model(torch.tensor([list(tokens)])).logits[0]
    return logits


def test_every_row_of_a_mixed_batch_has_the_law_of_its_merged_model(saved: Saved) -> None:
    base, adapted = engines(saved)
    own = {"base": base, **adapted}
    # Twice each, not side by side; over a page's end, in parts of changing size.
    order = ["base", "all", "some", "all", "base", "some"]
    texts = [text(VOCAB, 70 + 3 * i) for i in range(len(order))]
    slots = [own[name].open(GREEDY, 5, 128) for name in order]
    with logged_logits() as log:
        for start, stop in ((0, 60), (60, 61), (61, 70)):
            batch = [
                Extension(slot, start, tokens[start:stop], stop - start)
                for slot, tokens in zip(slots, texts, strict=True)
            ]
            base.extend(batch)
    references = {name: merged(saved, name) for name in adapted} | {"base": saved[1]}
    for name, slot, tokens in zip(order, slots, texts, strict=True):
        wanted = logits_of(references[name], tokens[:70])
        torch.testing.assert_close(log.of(slot, 70), wanted, rtol=1e-4, atol=1e-4)
    apart = logits_of(saved[1], texts[1]) - logits_of(references["all"], texts[1])
    assert apart.abs().max() > 0.5


def test_drafts_and_forks_stay_with_their_adapter(saved: Saved) -> None:
    base, adapted = engines(saved)
    tokens = text(VOCAB, 20)
    for name, engine in adapted.items():
        slot = engine.open(GREEDY, 5, 64)
        (picks,) = base.extend([Extension(slot, 0, tokens, 1, num_drafts=5)])
        model, wanted = merged(saved, name), list(tokens)
        for _ in range(6):
            wanted.append(int(logits_of(model, wanted)[-1].argmax()))
        assert list(picks.tokens) == wanted[20:]
        fork = engine.fork(slot, 20)
        (again,) = engine.extend([Extension(fork, 20, picks.tokens[:1], 1)])
        assert list(again.tokens) == wanted[21:22]


@pytest.mark.parametrize(
    "changes", [{"quantization": Quantization.INT8}, {"exact": True}], ids=["bf16", "exact"]
)
def test_it_adds_to_layers_of_other_dtypes(saved: Saved, changes: dict[str, Any]) -> None:
    """Layers of a quantised drafter are in bfloat16, adapters in float32."""
    _, adapted = engines(saved, **changes)
    engine, tokens = adapted["all"], text(VOCAB, 12)
    slot = engine.open(GREEDY, 5, 64)
    with logged_logits() as log:
        engine.extend([Extension(slot, 0, tokens, 12)])
    wanted = logits_of(merged(saved, "all"), tokens)
    error = (log.of(slot, 12) - wanted).abs().mean()
    assert error < (0.06 if "quantization" in changes else 1e-4) * wanted.abs().mean()


def test_one_forward_serves_all_and_an_unadapted_one_does_nothing_more(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapted = engines(saved)
    decoder, seen = type(base._decoder), []
    forward, draw = decoder.forward, decoder.draw

    def noting_forward(self: Any, parts: Sequence[Part]) -> Tensor:
        seen.append([part.adapter for part in parts])
        return forward(self, parts)

    def noting_draw(self: Any, runs: Sequence[Run]) -> list[TokenArray] | None:
        drawn = draw(self, runs)
        if drawn is not None:
            seen.append([run.part.adapter for run in runs])
        return drawn

    monkeypatch.setattr(decoder, "forward", noting_forward)
    monkeypatch.setattr(decoder, "draw", noting_draw)
    own = [base, *adapted.values()]
    slots = [engine.open(GREEDY, 5, 64) for engine in own]
    base.extend([Extension(slot, 0, text(VOCAB, 9), 1) for slot in slots])
    base.extend([Extension(slots[0], 9, text(VOCAB, 3), 1)])
    adapters = [engine._adapter for engine in adapted.values()]
    assert seen == [[None, *adapters], [None]]


def test_rows_of_one_adapter_side_by_side_are_one_run(saved: Saved) -> None:
    _, adapted = engines(saved)
    one, other = (engine._adapter for engine in adapted.values())
    rows = AdaptedRows.of([(None, 2), (one, 3), (one, 1), (other, 2), (None, 1), (other, 4)])
    assert rows is not None
    runs = [(adapter.name, run.start, run.stop) for adapter, run in rows.runs]
    assert runs == [("all", 2, 6), ("some", 6, 8), ("some", 9, 13)]
    assert AdaptedRows.of([(None, 4)]) is None


def test_pages_are_found_by_sessions_of_the_same_adapter_alone(saved: Saved) -> None:
    base, adapted = engines(saved)
    own, tokens = {"base": base, **adapted}, text(VOCAB, 130)
    for name in ("base", "all"):
        slot = own[name].open(GREEDY, 5, 131)
        own[name].extend([Extension(slot, 0, tokens, 1)])
        own[name].publish(slot, tokens)
        own[name].close(slot)
    found = {name: own[name].reuse(own[name].open(GREEDY, 5, 131), tokens) for name in own}
    assert found == {"base": 128, "all": 128, "some": 0}


def test_slots_pages_and_weights_are_the_bases(saved: Saved) -> None:
    base, adapted = engines(saved, max_sessions=2, kv_tokens=256)
    one = adapted["all"]
    assert one.info.kv_bytes == 0
    assert 0 < one.info.weight_bytes < base.info.weight_bytes
    assert one.info.context_tokens == base.info.context_tokens
    for _ in range(3):
        slots = [base.open(GREEDY, 5, 128), one.open(GREEDY, 5, 128)]
        assert base.kv_share == one.kv_share == 1.0
        base.close(slots[1])
        one.close(slots[0])


def test_penalties_and_noise_are_the_sessions_own(saved: Saved) -> None:
    sampling = SamplingParams(temperature=0.8, seed=5, frequency_penalty=0.9)
    tokens = text(VOCAB, 30)

    def picks(*names: str) -> dict[str, "array[int]"]:
        base, adapted = engines(saved)
        own = {"base": base, **adapted}
        batch = [
            Extension(own[name].open(sampling, 5, 64), 0, tokens, 9, num_drafts=4) for name in names
        ]
        return {n: p.tokens for n, p in zip(names, base.extend(batch), strict=True)}

    together = picks("some", "base", "all")
    assert len(set(map(tuple, together.values()))) == 3
    assert all(picks(name) == {name: tokens} for name, tokens in together.items())


def test_only_the_fast_engine_takes_adapters(saved: Saved) -> None:
    directory, _, adapters = saved
    member = LoraMember(kind="lora", name="x", of="base", adapter=str(adapters["all"]))
    with pytest.raises(EngineError, match=r"'x'.*fast engine.*'base'"):
        load_adapted(member, ToyEngine(), directory)
