"""What every engine over a real model promises, and that all of them are the same model."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine.fast import FastEngine
from specrouter_dist.engine.general import GeneralEngine
from specrouter_dist.engine.interface import Engine, Extension, Picks
from specrouter_dist.errors import ConfigError, EngineError, NoRoomError
from specrouter_dist.speculation.noise import gumbel_row

VOCAB, CONTEXT = 96, 320
GREEDY = SamplingParams(temperature=0.0)
WARM = SamplingParams(temperature=0.8, seed=2**63 + 17)
PROMPT = array("I", [5, 17, 80, 3, 3, 41, 66])
LONG_PROMPT = array("I", [(5 * i * i + i) % VOCAB for i in range(203)])

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.25,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama3_rope_gqa": LlamaConfig(
        **SIZES,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "qwen3_qk_norm_tied": Qwen3Config(
        **SIZES, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True
    ),
    "qwen2_bias": Qwen2Config(**SIZES, num_key_value_heads=4, tie_word_embeddings=False),
    "mistral": MistralConfig(
        **SIZES, num_key_value_heads=1, tie_word_embeddings=True, sliding_window=None
    ),
}


@dataclass(frozen=True)
class TinyModel:
    directory: Path
    reference: Any
    """The transformers model in float32."""

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Float64 ``[len(tokens), VOCAB]`` in one forward without a cache."""
        with torch.inference_mode():
            return self.reference(torch.tensor([list(tokens)])).logits[0].double()


@pytest.fixture(scope="module", params=["llama3_rope_gqa", "qwen3_qk_norm_tied"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return save_model(request.param, tmp_path_factory)


def save_model(name: str, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    directory = tmp_path_factory.mktemp(name)
    torch.manual_seed(3)
    reference = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32)
    for name, parameter in reference.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    reference.save_pretrained(directory)
    return TinyModel(directory, reference.eval())


Load = Callable[..., Engine]


@pytest.fixture(params=[FastEngine, GeneralEngine])
def load(request: pytest.FixtureRequest, model: TinyModel) -> Load:
    def load_with(**changes: Any) -> Engine:
        options = {
            "dtype": Dtype.FP32,
            "device": "cpu",
            "context_tokens": None,
            "kv_tokens": 4096,
            "max_sessions": 6,
            "num_ids": None,
            "exact": True,
        }
        return request.param.load(model.directory, **(options | changes))

    return load_with


def feed(
    engine: Engine, slot: int, start: int, tokens: Sequence[int], picks: int, drafts: int = 0
) -> Picks:
    return engine.extend([Extension(slot, start, array("I", tokens), picks, drafts)])[0]


def generate(
    engine: Engine, sampling: SamplingParams, prompt: Sequence[int], num: int
) -> list[int]:
    """One token at a time."""
    slot = engine.open(sampling, len(prompt), len(prompt) + num)
    tokens = list(feed(engine, slot, 0, prompt, 1).tokens)
    while len(tokens) < num:
        tokens += feed(engine, slot, len(prompt) + len(tokens) - 1, tokens[-1:], 1).tokens
    engine.close(slot)
    return tokens


@pytest.mark.parametrize("model", list(CONFIGS), indirect=True)
@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("exact", [True, False])
def test_tokens_are_the_argmax_of_the_model_and_the_shared_noise(
    model: TinyModel, load: Load, sampling: SamplingParams, exact: bool
) -> None:
    tokens = generate(load(exact=exact), sampling, PROMPT, 60)
    logits = model.logits([*PROMPT, *tokens])[len(PROMPT) - 1 : -1].numpy()
    if not sampling.greedy:
        rows = [gumbel_row(sampling.seed, len(PROMPT) + i, VOCAB) for i in range(60)]
        logits = logits / sampling.temperature + np.stack(rows)
    assert tokens == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
@pytest.mark.parametrize("dtype", list(Dtype))
def test_steps_verifies_drafts_and_chunked_prefill_give_the_same_tokens(
    load: Load, sampling: SamplingParams, dtype: Dtype
) -> None:
    engine = load(dtype=dtype)
    prompt = LONG_PROMPT
    alone = generate(engine, sampling, prompt, 60)
    total = len(prompt) + 60
    slot = engine.open(sampling, len(prompt), total)
    for start in range(0, 190, 38):
        assert feed(engine, slot, start, prompt[start : start + 38], 0) == Picks(array("I"))
    verified = feed(engine, slot, 190, [*prompt[190:], *alone[:-1]], 60)
    assert verified.tokens.tolist() == alone
    drafted = feed(engine, slot, 190, prompt[190:], 1, 59)
    assert drafted.tokens.tolist() == alone


def test_exact_logprobs_do_not_depend_on_the_block_or_the_batch(load: Load) -> None:
    engine = load(dtype=Dtype.BF16)
    sampling = WARM.model_copy(update={"logprobs": 20})
    slots = [engine.open(sampling, 100, 300) for _ in range(3)]
    text = array("I", [*LONG_PROMPT, *LONG_PROMPT[:60]])
    whole = feed(engine, slots[0], 0, text, len(text)).logprobs
    sizes, start, found = [1, 4, 7, 2, 16, 33, 5], 0, []
    while start < len(text):
        size = sizes[len(found) % len(sizes)]
        batch = [
            Extension(slot, start, text[start : start + size], min(size, len(text) - start))
            for slot in slots[1:]
        ]
        one, other = engine.extend(batch)
        assert one == other
        found += one.logprobs
        start += size
    assert tuple(found) == whole


def test_a_rollback_and_a_fork_leave_no_trace(load: Load) -> None:
    engine = load()
    alone = generate(engine, WARM, PROMPT, 40)
    slot = engine.open(WARM, len(PROMPT), len(PROMPT) + 60)
    feed(engine, slot, 0, [*PROMPT, *alone[:30], *[9] * 20], 5)
    feed(engine, slot, 20, [1, 2, 3], 1)
    fork = engine.fork(slot, 18)
    history = [*PROMPT, *alone]
    for start, each in ((20, slot), (18, fork)):
        first = start + 1 - len(PROMPT)
        picks = feed(engine, each, start, history[start:40], 40 - start)
        assert picks.tokens.tolist() == alone[first : 41 - len(PROMPT)]
    engine.close(slot)
    assert feed(engine, fork, 40, history[40:42], 1).tokens.tolist() == [alone[42 - len(PROMPT)]]


def test_a_fork_is_not_touched_by_what_its_origin_feeds_afterwards(load: Load) -> None:
    engine = load(kv_tokens=8192, max_sessions=12)
    text = LONG_PROMPT[:200]
    sampling = WARM.model_copy(update={"logprobs": 5})
    slot = engine.open(sampling, 3, 250)
    (expected,) = feed(engine, slot, 0, text, 1).logprobs
    forks = [engine.fork(slot, 199) for _ in range(8)]
    for num_drafts, fork in enumerate(forks):
        feed(engine, slot, 59, [1, 2], 1, num_drafts)
        assert feed(engine, fork, 199, text[199:], 1).logprobs == (expected,)
        feed(engine, fork, 30, array("I", [4] * 40), 1)
    for fork in forks:
        engine.close(fork)


def test_sessions_of_a_batch_do_not_mix(load: Load) -> None:
    engine = load()
    kinds = [(GREEDY, PROMPT), (WARM, PROMPT[:2]), (WARM, LONG_PROMPT[:70])]
    alone = [generate(engine, sampling, prompt, 12) for sampling, prompt in kinds]
    slots = [engine.open(sampling, len(prompt), 90) for sampling, prompt in kinds]
    first = engine.extend(
        [
            Extension(slot, 0, prompt, 1, drafts)
            for slot, drafts, (_, prompt) in zip(slots, (0, 3, 7), kinds, strict=True)
        ]
    )
    rest = engine.extend(
        [
            Extension(slot, len(prompt), array("I", tokens[:11]), 11)
            for slot, (_, prompt), tokens in zip(slots, kinds, alone, strict=True)
        ]
    )
    for picks, more, tokens, drafts in zip(first, rest, alone, (0, 3, 7), strict=True):
        assert picks.tokens.tolist() == tokens[: drafts + 1]
        assert more.tokens.tolist() == tokens[1:]


def test_drafting_ends_at_a_stop_token(load: Load) -> None:
    engine = load()
    free = generate(engine, WARM, PROMPT, 40)
    stop = free[11]
    sampling = WARM.model_copy(update={"stop_token_ids": (stop,)})
    slot = engine.open(sampling, len(PROMPT), 60)
    picks = feed(engine, slot, 0, PROMPT, 1, 30)
    assert picks.tokens.tolist() == free[: free.index(stop) + 1]


def test_drafts_may_fill_the_reservation_to_its_end(load: Load) -> None:
    engine = load(max_sessions=2, kv_tokens=CONTEXT)
    prompt = LONG_PROMPT[:40]
    alone = generate(engine, WARM, prompt, 25)
    for num_fed in range(24, 0, -1):
        slot = engine.open(WARM, len(prompt), len(prompt) + num_fed)
        assert feed(engine, slot, 0, prompt, 1, num_fed).tokens.tolist() == alone[: num_fed + 1]
        engine.close(slot)


def test_penalties_follow_what_is_fed(model: TinyModel, load: Load) -> None:
    sampling = SamplingParams(temperature=0.0, presence_penalty=2.0, frequency_penalty=2.0)
    engine = load()
    tokens = generate(engine, sampling, PROMPT, 40)
    slot = engine.open(sampling, len(PROMPT), 80)
    feed(engine, slot, 0, [*PROMPT, *tokens[:10], *[tokens[12]] * 20], 3)
    again = feed(engine, slot, 12, [*PROMPT, *tokens][12:46], 20)
    assert again.tokens.tolist() == tokens[20:40]
    assert tokens != generate(engine, GREEDY, PROMPT, 40)


def test_logprobs_are_those_of_the_model(model: TinyModel, load: Load) -> None:
    engine = load()
    slot = engine.open(WARM.model_copy(update={"logprobs": 3}), len(PROMPT), 20)
    picks = feed(engine, slot, 0, PROMPT, 4, 3)
    assert len(picks.logprobs) == len(picks.tokens) == 7
    text = [*PROMPT, *picks.tokens[3:]]
    laws = torch.log_softmax(model.logits(text), dim=1)
    for found, token, law in zip(picks.logprobs, picks.tokens, laws[3:], strict=False):
        best = law.topk(3)
        assert found.token == token
        assert found.logprob == pytest.approx(float(law[token]), abs=1e-3)
        assert [i for i, _ in found.top] == best.indices.tolist()
        assert [v for _, v in found.top] == pytest.approx(best.values.tolist(), abs=1e-3)


def test_ids_past_num_ids_are_never_drawn(model: TinyModel, load: Load) -> None:
    engine = load(num_ids=50)
    assert engine.info.vocab_size == 50
    prompt = [5, 17, 3, 3, 41]
    tokens = generate(engine, GREEDY, prompt, 60)
    logits = model.logits([*prompt, *tokens])[len(prompt) - 1 : -1]
    assert tokens == logits[:, :50].argmax(dim=1).tolist()
    assert max(tokens) < 50 <= int(logits.argmax(dim=1).max())


def test_slots_and_reservations_run_out_and_come_back(load: Load) -> None:
    engine = load(max_sessions=2, kv_tokens=256)
    first = engine.open(GREEDY, 1, 128)
    second = engine.open(GREEDY, 1, 64)
    with pytest.raises(NoRoomError):
        engine.open(GREEDY, 1, 1)
    engine.close(second)
    with pytest.raises(NoRoomError):
        engine.open(GREEDY, 1, 129)
    second = engine.open(GREEDY, 1, 128)
    engine.close(first)
    engine.close(second)
    slot = engine.open(GREEDY, 1, 256)
    expected = generate(load(), GREEDY, PROMPT, 20)
    assert feed(engine, slot, 0, PROMPT, 1, 19).tokens.tolist() == expected


@pytest.mark.parametrize(
    ("start", "tokens", "picks", "drafts"),
    [
        (4, [1], 1, 0),
        (3, [], 0, 0),
        (3, [1], 2, 0),
        (3, [1], 0, 1),
        (3, [1] * 8, 1, 0),
        (3, [1], 1, 7),
    ],
)
def test_impossible_extensions_are_refused_and_change_nothing(
    load: Load, start: int, tokens: list[int], picks: int, drafts: int
) -> None:
    engine = load()
    slot = engine.open(GREEDY, 3, 10)
    feed(engine, slot, 0, PROMPT[:3], 0)
    with pytest.raises(EngineError):
        feed(engine, slot, start, tokens, picks, drafts)
    assert feed(engine, slot, 2, PROMPT[2:3], 1, 7).tokens == array(
        "I", generate(engine, GREEDY, PROMPT[:3], 8)
    )


@pytest.mark.parametrize("size", [0, CONTEXT + 1])
def test_a_reservation_must_fit_the_context(load: Load, size: int) -> None:
    with pytest.raises(EngineError, match=f"max_total_tokens: must be 1 to {CONTEXT}, got {size}"):
        load().open(GREEDY, 1, size)


def test_info_describes_the_model(model: TinyModel, load: Load) -> None:
    info = load(dtype=Dtype.FP32, kv_tokens=1024).info
    config = model.reference.config
    assert (info.vocab_size, info.context_tokens, info.max_sessions) == (VOCAB, CONTEXT, 6)
    assert info.num_parameters == sum(p.numel() for p in model.reference.parameters())
    assert info.weight_bytes >= 0.99 * info.num_parameters * 4, "norms may be folded away"
    head_dim = getattr(config, "head_dim", None) or 12
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * 4
    assert info.kv_bytes >= 1024 * per_token


@pytest.mark.parametrize("change", [{"context_tokens": CONTEXT + 1}, {"num_ids": VOCAB + 1}])
def test_sizes_that_do_not_fit_the_model_are_refused(load: Load, change: dict[str, int]) -> None:
    (name,) = change
    with pytest.raises(ConfigError, match=f"^{name}: ") as caught:
        load(**change)
    assert caught.value.field == name


def test_the_fast_engine_refuses_other_architectures(tmp_path: Path) -> None:
    MistralConfig(**SIZES, num_key_value_heads=1, sliding_window=16).save_pretrained(tmp_path)
    for engine in (FastEngine, GeneralEngine):
        with pytest.raises(EngineError):
            engine.load(
                tmp_path,
                dtype=Dtype.FP32,
                device="cpu",
                context_tokens=None,
                kv_tokens=512,
                max_sessions=1,
                num_ids=None,
                exact=True,
            )
