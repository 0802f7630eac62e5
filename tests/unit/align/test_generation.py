"""The batched generator writes what transformers writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from specrouter_dist.align.generation import BatchGenerator, similar_length_batches
from specrouter_dist.errors import ConfigError
from tests.unit.align.models import tiny_target

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [20, 21, 22, 23], [40] * 9, [30, 31, 32]]


def test_greedy_continuations_equal_those_of_one_prompt_alone_in_transformers() -> None:
    model = tiny_target(64)
    temperatures = torch.zeros(len(PROMPTS))
    written = BatchGenerator(model).generate(PROMPTS, temperatures, 12, torch.Generator())
    for prompt, continuation in zip(PROMPTS, written, strict=True):
        tokens = list(prompt)
        for token, top in zip(continuation.tokens, continuation.top.ids, strict=True):
            with torch.inference_mode():
                expected = int(model(torch.tensor([tokens])).logits[0, -1].argmax())
            assert token == expected == top[0]
            tokens.append(token)
        assert len(continuation.tokens) == 12 or continuation.tokens[-1] == 0


def test_scores_equal_the_distributions_that_were_sampled_from() -> None:
    model = tiny_target(64)
    generator = BatchGenerator(model)
    warm = torch.ones(len(PROMPTS))
    written = generator.generate(PROMPTS, warm, 6, torch.Generator().manual_seed(1))
    texts = [[*prompt, *new.tokens] for prompt, new in zip(PROMPTS, written, strict=True)]
    for prompt, new, scores in zip(PROMPTS, written, generator.score(texts), strict=True):
        scored = scores[len(prompt) - 1 : -1]
        np.testing.assert_allclose(scored.log_probs, new.top.log_probs, atol=0.02)


def test_rows_sampled_at_temperature_zero_ignore_the_noise() -> None:
    generator = BatchGenerator(tiny_target(64))
    temperatures = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    first, second = (
        generator.generate(PROMPTS, temperatures, 8, torch.Generator().manual_seed(seed))
        for seed in (1, 2)
    )
    same = [a.tokens == b.tokens for a, b in zip(first, second, strict=True)]
    assert same[0] and same[2] and same[4]
    assert not (same[1] and same[3])


def test_any_of_several_ids_ends_a_text() -> None:
    model = tiny_target(64)
    greedy, noise = torch.zeros(len(PROMPTS)), torch.Generator()
    whole = [new.tokens for new in BatchGenerator(model).generate(PROMPTS, greedy, 12, noise)]
    ends = [whole[0][3], whole[1][5]]
    # In either of the files that say so.
    model.config.eos_token_id, model.generation_config.eos_token_id = [63, ends[0]], ends[1]
    written = BatchGenerator(model).generate(PROMPTS, greedy, 12, noise)
    for tokens, new in zip(whole, written, strict=True):
        first = min((tokens.index(end) for end in ends if end in tokens), default=len(tokens))
        assert new.tokens == tokens[: first + 1]
    assert len(written[0].tokens) <= 4


def test_texts_end_where_the_context_does() -> None:
    model = tiny_target(64)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    greedy, noise = torch.zeros(len(PROMPTS)), torch.Generator()
    whole = [new.tokens for new in BatchGenerator(model).generate(PROMPTS, greedy, 12, noise)]
    model.config.max_position_embeddings = 10
    written = BatchGenerator(model).generate(PROMPTS, greedy, 12, noise)
    assert [new.tokens for new in written] == [
        tokens[: 10 - len(prompt)] for prompt, tokens in zip(PROMPTS, whole, strict=True)
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attention_bias": True}, "attention_bias False, got attention_bias True"),
        ({"mlp_bias": True}, "mlp_bias False, got mlp_bias True"),
        ({"hidden_act": "gelu"}, "hidden_act 'silu', got hidden_act 'gelu'"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "'default', got rope_type 'linear'"),
    ],
)
def test_what_it_would_not_compute_is_refused(settings: dict[str, object], said: str) -> None:
    values = tiny_target(64).config.to_dict() | settings
    if "rope_scaling" in settings:
        del values["rope_parameters"]
    with pytest.raises(ConfigError, match=said):
        BatchGenerator(LlamaForCausalLM(LlamaConfig(**values)))


def test_batches_cover_every_prompt_once() -> None:
    batches = list(similar_length_batches(PROMPTS, 2))
    assert sorted(index for batch in batches for index in batch) == list(range(len(PROMPTS)))
    assert [len(PROMPTS[i]) for batch in batches for i in batch] == [3, 3, 4, 6, 9]
