"""From a request of valid fields to a job: token ids, sampling, a plan, seeds."""

import secrets
import time
from collections.abc import Sequence

from specrouter_dist.config import SamplingParams
from specrouter_dist.errors import RequestError
from specrouter_dist.serving.calls import Call
from specrouter_dist.serving.deadlines import Deadline
from specrouter_dist.serving.job import Job
from specrouter_dist.serving.openai_answers import (
    Answer,
    ChatAnswer,
    CompletionAnswer,
    Echo,
    Head,
)
from specrouter_dist.serving.openai_schema import ChatRequest, CompletionRequest
from specrouter_dist.serving.results import GenerateRequest
from specrouter_dist.serving.speculative import Speculating
from specrouter_dist.serving.tasks import Tasks
from specrouter_dist.serving.tokenizing import Tokenizing
from specrouter_dist.speculation.messages import TokenArray
from specrouter_dist.speculation.noise import derive_seed
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.validation import shown


class Jobs:
    """Makes the jobs of a pool. Takes the time of a tokenizer, so not on an event loop.

    Args:
        model: name of the one model there is.
        tokenizer: the target's.
        tokenizing: its use for clients, with the checks.
        speculating: plans for requests that say how to speculate.
        tasks: say what prompts are about.
    """

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        tokenizing: Tokenizing,
        speculating: Speculating,
        tasks: Tasks,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._tokenizing = tokenizing
        self._speculating = speculating
        self._tasks = tasks

    def of(self, request: CompletionRequest | ChatRequest, call: Call, deadline: Deadline) -> Job:
        """The job of a request; how it speculates is not planned yet.

        Raises:
            InputError: names the field that is wrong.
        """
        if isinstance(request, ChatRequest):
            return self._chat(request, call, deadline)
        return self._completion(request, call, deadline)

    def _completion(self, request: CompletionRequest, call: Call, deadline: Deadline) -> Job:
        prompts = [self._tokenizing.encode(prompt) for prompt in request.prompt]
        choices, head = self._choices(request, prompts, "cmpl", call)
        echoes = None
        if request.echo:
            texts = [
                prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)
                for prompt in request.prompt
            ]
            firsts = [None if request.logprobs is None else ids[0] for ids in prompts]
            each = map(Echo, texts, firsts)
            echoes = [echo for echo in each for _ in range(request.n)]
        answer = CompletionAnswer(head, self._tokenizer, echoes)
        is_echo_alone = request.is_echo_alone
        return self._checked(request, call, deadline, choices, answer, is_echo_alone=is_echo_alone)

    def _chat(self, request: ChatRequest, call: Call, deadline: Deadline) -> Job:
        prompts = [self._tokenizing.encode_chat(request.messages)]
        choices, head = self._choices(request, prompts, "chatcmpl", call)
        return self._checked(request, call, deadline, choices, ChatAnswer(head, self._tokenizer))

    def _checked(
        self,
        request: CompletionRequest | ChatRequest,
        call: Call,
        deadline: Deadline,
        choices: tuple[GenerateRequest, ...],
        answer: Answer,
        *,
        is_echo_alone: bool = False,
    ) -> Job:
        return Job(
            call=call,
            choices=choices,
            answer=answer,
            is_echo_alone=is_echo_alone,
            stream=request.stream,
            includes_usage=request.includes_usage,
            includes_usage_always=request.includes_usage_always,
            deadline=deadline,
        )

    def _choices(
        self,
        request: CompletionRequest | ChatRequest,
        prompts: Sequence[TokenArray],
        prefix: str,
        call: Call,
    ) -> tuple[tuple[GenerateRequest, ...], Head]:
        self._tokenizing.check_model(request.model)
        field = "messages" if isinstance(request, ChatRequest) else "prompt"
        longest = max(map(len, prompts))
        room = self._room(longest, field)
        _check_wanted(request, longest, room)
        sampling = request.to_sampling(seed=secrets.randbits(63), max_tokens=room)
        self._tokenizing.check_ids(sampling.logit_bias, "logit_bias")
        self._tokenizing.check_ids(sampling.stop_token_ids, "stop_token_ids")
        self._speculating.check(request.speculative, sampling)
        tasks = [self._tasks.of_prompt(prompt_ids) for prompt_ids in prompts]
        trace = call.traceparent
        choices = tuple(
            GenerateRequest(
                prompt_ids,
                _reseeded(sampling, choice, number),
                task=task,
                name=call.id,
                trace=trace,
                lossy=request.speculative.lossy,
            )
            for number, (prompt_ids, task) in enumerate(zip(prompts, tasks, strict=True))
            for choice in range(request.n)
        )
        head = Head(
            id=f"{prefix}-{call.id}",
            created=int(time.time()),
            model=self._model,
            seeds=tuple(choice.sampling.seed for choice in choices),
            num_prompt_tokens=sum(map(len, prompts)),
            is_lossy=request.speculative.lossy is not None,
        )
        call.num_prompt_tokens = head.num_prompt_tokens
        return choices, head

    def _room(self, num_prompt_tokens: int, field: str) -> int:
        """How many tokens fit behind the longest prompt."""
        context_tokens = self._tokenizing.context_tokens
        room = context_tokens - num_prompt_tokens
        if room < 1:
            raise RequestError(
                f"{field}: {num_prompt_tokens} tokens; at most {context_tokens - 1} fit the "
                f"context of {context_tokens} with one token to generate",
                field=field,
            )
        return room


def _check_wanted(
    request: CompletionRequest | ChatRequest, num_prompt_tokens: int, room: int
) -> None:
    """
    Raises:
        RequestError: more is asked for than fits; as with vLLM, it is not cut.
    """
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        wanted = getattr(request, name, None)
        if wanted is not None and wanted > room:
            raise RequestError(
                f"{name}: {shown(wanted)} tokens behind a prompt of {num_prompt_tokens}; the "
                f"context of {num_prompt_tokens + room} has room for {room}",
                field=name,
            )


def _reseeded(sampling: SamplingParams, choice: int, prompt: int) -> SamplingParams:
    return sampling.model_copy(update={"seed": derive_seed(sampling.seed, choice, prompt)})
