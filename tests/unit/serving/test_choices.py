"""Several choices of one request: their order, seeds, sums, failures and ends."""

import threading
from collections.abc import Iterable
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from specrouter_dist.links.control import Failed, Submit
from specrouter_dist.serving.results import SpeculationMetrics
from specrouter_dist.speculation.noise import derive_seed
from specrouter_dist.text.tokenizer import Tokenizer
from tests.unit.serving.asgi import call_and_hang_up
from tests.unit.serving.calls import COMPLETIONS, chat, complete, error
from tests.unit.serving.scripted import Message, ScriptedClient, output, plain_answer


def told_by_seed(submit: Submit) -> Iterable[Message]:
    """Two rounds that tell the request's prompt and seed from others'."""
    yield output(submit, 0, [submit.prompt[0]])
    yield output(submit, 1, [300 + submit.sampling.seed % 50], "length")


def test_choices_stand_prompt_by_prompt_with_seeds_of_their_own(
    app: FastAPI, client: ScriptedClient, tokenizer: Tokenizer
) -> None:
    client.script = told_by_seed
    answer = complete(app, prompt=[[40, 7], [41], [42]], n=2, seed=5).json()
    seeds = [derive_seed(5, choice, prompt) for prompt in range(3) for choice in range(2)]
    assert len(set(seeds)) == 6
    assert answer["seed"] == seeds[0] == 5
    choices = answer["choices"]
    assert [choice["seed"] for choice in choices] == seeds
    assert [choice["index"] for choice in choices] == list(range(6))
    firsts = [40, 40, 41, 41, 42, 42]
    assert [choice["text"] for choice in choices] == [
        tokenizer.detokenizer().push([first, 300 + seed % 50])
        for first, seed in zip(firsts, seeds, strict=True)
    ]
    # A prompt counts once, however many choices it has.
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 12, "total_tokens": 16}


def test_a_choice_can_be_had_alone(app: FastAPI, client: ScriptedClient) -> None:
    client.script = told_by_seed
    both = chat(app, n=2).json()["choices"]
    alone = chat(app, seed=both[1]["seed"]).json()["choices"]
    assert alone == [{**both[1], "index": 0}]


def test_several_texts_are_prompts_each(
    app: FastAPI, client: ScriptedClient, tokenizer: Tokenizer
) -> None:
    assert len(complete(app, prompt=["Hello", "Open the file."]).json()["choices"]) == 2
    prompts = [submit.prompt for submit in client.submits]
    assert prompts == [tokenizer.encode("Hello"), tokenizer.encode("Open the file.")]


def test_metrics_are_of_all_together_and_of_each(app: FastAPI) -> None:
    metrics = complete(app, n=2).json()["metrics"]
    assert metrics["speculative_decoding"]["acceptance_histogram"] == [2, 0, 4, 0]
    assert metrics["speculative_decoding"]["num_draft_tokens"] == 18
    (first, _) = metrics["choices"]
    assert first["speculative_decoding"]["num_draft_tokens"] == 9
    assert first["chain"] == ["small", "target"]


@given(st.lists(st.dictionaries(st.integers(1, 4), st.integers(0, 9), max_size=3), max_size=5))
def test_together_nothing_is_lost(rounds: list[dict[int, int]]) -> None:
    """``rounds``: of each, by their proposals, all of which were accepted but one."""
    each = [
        SpeculationMetrics(tuple((num, (*(0,) * (num - 1), one[num], 0)) for num in sorted(one)))
        for one in rounds
    ]
    together = sum(each, SpeculationMetrics())
    for count in ("num_draft_tokens", "num_spec_steps", "num_accepted_draft_tokens"):
        assert getattr(together, count) == sum(getattr(one, count) for one in each)


def test_a_stream_interleaves_the_choices(app: FastAPI, client: ScriptedClient) -> None:
    barrier = threading.Barrier(2)

    def in_turns(submit: Submit) -> Iterable[Message]:
        for message in plain_answer(submit):
            barrier.wait(10)
            yield message

    client.script = in_turns
    options = {"include_usage": True, "continuous_usage_stats": True}
    reply = complete(app, stream=True, n=2, seed=5, stream_options=options)
    *events, last, done = reply.events()
    assert done == "[DONE]"
    indices = [event["choices"][0]["index"] for event in events]
    assert [sorted(indices[i : i + 2]) for i in (0, 2, 4)] == [[0, 1]] * 3
    whole = complete(app, n=2, seed=5).json()
    for index, choice in enumerate(whole["choices"]):
        own = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert "".join(part["text"] for part in own) == choice["text"]
        assert {part["seed"] for part in own} == {choice["seed"]}
        assert [part["finish_reason"] for part in own] == [None, None, "length"]
    assert [event["usage"]["completion_tokens"] for event in events] == sorted(
        event["usage"]["completion_tokens"] for event in events
    )
    assert last["usage"] == events[-1]["usage"] == whole["usage"]
    assert len(last["metrics"]["choices"]) == 2


def test_every_streamed_message_names_its_role_once(app: FastAPI) -> None:
    *events, _ = chat(app, stream=True, n=3).events()
    roles = [
        event["choices"][0]["index"] for event in events if "role" in event["choices"][0]["delta"]
    ]
    assert sorted(roles) == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
def test_one_choice_that_fails_ends_all(app: FastAPI, client: ScriptedClient, stream: bool) -> None:
    never = threading.Event()

    def second_fails(submit: Submit) -> Iterable[Message]:
        if submit is client.submits[0]:
            never.wait(10)
        else:
            yield Failed(submit.request, "NoRoomError", "no room")
            never.set()

    client.script = second_fails
    wrong = error(complete(app, stream=stream, n=2), 429)
    assert wrong["message"] == "choice 1: no room"
    assert client.cancelled == [client.submits[0].request]


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_connection_cancels_every_choice(
    app: FastAPI, client: ScriptedClient, stream: bool
) -> None:
    never = threading.Event()

    def second_goes_on(submit: Submit) -> Iterable[Message]:
        if submit.prompt[0] == 40:
            yield output(submit, 0, [10], "length")
        never.wait(10)

    client.script = second_goes_on
    body: dict[str, Any] = {"prompt": [[40], [41], [42]], "stream": stream}
    reply = call_and_hang_up(app, COMPLETIONS, body, after_parts=int(stream))
    never.set()
    assert not reply.complete
    running = [submit.request for submit in client.submits if submit.prompt[0] != 40]
    assert sorted(client.cancelled) == sorted(running)
