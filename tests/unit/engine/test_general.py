"""What only the general engine promises; the rest is in test_engines_agree.py."""

from array import array
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    T5Config,
)

from specrouter_dist.config import Dtype, SamplingParams
from specrouter_dist.engine.general import GeneralEngine
from specrouter_dist.engine.interface import Extension, TokenLogprobs
from specrouter_dist.errors import SpecRouterError
from specrouter_dist.speculation.messages import TokenArray

SAMPLING = SamplingParams(temperature=0.8, seed=9, logprobs=20)
TOKENS = array("I", [(7 * i * i + 3 * i + 1) % 64 for i in range(300)])
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}

OTHER_FAMILIES: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=302),
    "bloom": BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2),
    "moe": Qwen2MoeConfig(
        vocab_size=64,
        **SIZES,
        num_key_value_heads=2,
        intermediate_size=48,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=302,
    ),
}


def save(config: PretrainedConfig, directory: Path) -> Path:
    torch.manual_seed(1)
    config.initializer_range = 0.4
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(directory)
    return directory


def load(
    directory: Path,
    *,
    exact: bool = True,
    context_tokens: int | None = 302,
    dtype: Dtype = Dtype.BF16,
) -> GeneralEngine:
    return GeneralEngine.load(
        directory,
        dtype=dtype,
        device="cpu",
        context_tokens=context_tokens,
        kv_tokens=4096,
        max_sessions=8,
        num_ids=None,
        exact=exact,
    )


def feed_in_pieces(
    engine: GeneralEngine, pieces: list[int], prompt: int, text: TokenArray
) -> list[TokenLogprobs]:
    """The log-probabilities after every token of a text, fed in pieces of those sizes in turn."""
    slot = engine.open(SAMPLING, prompt, len(text))
    found: list[TokenLogprobs] = []
    start = turn = 0
    while start < len(text):
        tokens = text[start : start + pieces[turn % len(pieces)]]
        found += engine.extend([Extension(slot, start, tokens, len(tokens))])[0].logprobs
        start += len(tokens)
        turn += 1
    engine.close(slot)
    return found


@pytest.fixture(scope="module", params=list(OTHER_FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(OTHER_FAMILIES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture
def text(family: Path) -> TokenArray:
    """Shorter where every position is a forward of its own."""
    return TOKENS[:80] if family.name.startswith("moe") else TOKENS


def test_exact_mode_is_bit_equal_however_the_tokens_are_cut(family: Path, text: TokenArray) -> None:
    engine = load(family)
    whole = feed_in_pieces(engine, [300], 140, text)
    for pieces in ([3, 8, 1, 30], [129, 5], [4]):
        assert feed_in_pieces(engine, pieces, 140, text) == whole


def test_exact_mode_stays_bit_equal_after_rollbacks_and_forks(
    family: Path, text: TokenArray
) -> None:
    engine = load(family)
    whole = feed_in_pieces(engine, [300], 3, text)
    slot = engine.open(SAMPLING, 3, 300)
    engine.extend([Extension(slot, 0, text[:50] + array("I", [9] * 20), 0)])
    engine.extend([Extension(slot, 43, array("I", [8] * 3), 3)])
    fork = engine.fork(slot, 41)
    for each, start in ((slot, 42), (fork, 41)):
        (picks,) = engine.extend([Extension(each, start, text[start:80], 80 - start)])
        assert list(picks.logprobs) == whole[start:80]


@pytest.mark.parametrize("exact", [True, False])
def test_both_modes_compute_the_model(family: Path, text: TokenArray, exact: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(family, dtype=torch.float32)
    with torch.inference_mode():
        laws = torch.log_softmax(model(torch.tensor([text])).logits[0], dim=1)
    engine = load(family, exact=exact, dtype=Dtype.FP32)
    for position, found in enumerate(feed_in_pieces(engine, [17, 1], 20, text)):
        assert found.logprob == pytest.approx(float(laws[position, found.token]), abs=2e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            MistralConfig(
                vocab_size=64,
                **SIZES,
                intermediate_size=48,
                num_key_value_heads=2,
                sliding_window=8,
            ),
            "DynamicSlidingWindowLayer",
        ),
        (MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2), "LinearAttentionLayer"),
        (T5Config(vocab_size=64), "encoder-decoders are not supported"),
        (BloomConfig(), "context_tokens: must be given"),
        (LlamaConfig(**SIZES, max_position_embeddings=100), "at most 100, got 302"),
        (
            LlamaConfig(
                **SIZES,
                max_position_embeddings=400,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0] * 8,
                    "long_factor": [2.0] * 8,
                    "original_max_position_embeddings": 200,
                },
            ),
            "change with the length beyond 200 tokens",
        ),
    ],
)
def test_what_cannot_be_run_exactly_is_refused(
    config: PretrainedConfig, message: str, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    context = None if isinstance(config, BloomConfig) else 302
    with pytest.raises(SpecRouterError, match=message):
        load(tmp_path, context_tokens=context)
