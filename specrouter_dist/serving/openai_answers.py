"""The JSON of OpenAI's answers, whole and as events of a stream.

Some keys are ours: ``seed`` in every object and choice, with which the text can be had again, and
``metrics``, in vLLM's shape with our ``levels``, where the output is whole. Only lossy answers have
``lossy``, in every object, and beside it ``tiers`` where a choice is whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.serving.client import Chunk
from specrouter_dist.serving.results import GenerateResult, SpeculationMetrics
from specrouter_dist.text.tokenizer import Tokenizer

_LEAST_LOGPROB = -9999.0
"""JSON has no infinity; OpenAI and vLLM write this for it."""


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one answer repeats."""

    id: str
    created: int
    """Unix time in seconds."""
    model: str
    seeds: tuple[int, ...]
    """Of the choices; the first is the request's."""
    num_prompt_tokens: int
    """Of all prompts."""
    is_lossy: bool = False
    """The text need not be the target's."""


@dataclass(frozen=True, slots=True)
class Echo:
    """What a choice repeats of its prompt."""

    text: str
    first_token: int | None
    """The one whose log-probability nobody has, where those of the prompt are wanted."""


class Answer(ABC):
    """One request's output as JSON; holds what an event needs to know of those before it."""

    whole_object: str
    event_object: str

    def __init__(self, head: Head, tokenizer: Tokenizer) -> None:
        self.head = head
        self._tokenizer = tokenizer

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts."""
        return self.head.num_prompt_tokens

    def text_before(self, index: int) -> str:
        """What a choice's text begins with before its first output; asked once, then empty."""
        return ""

    def whole(self, results: Sequence[GenerateResult]) -> dict[str, Any]:
        """The answer to a request that does not stream, from the results of its choices."""
        return {
            **self._common(self.whole_object),
            "choices": [
                {
                    "index": index,
                    **self._whole_content(index, result),
                    "logprobs": self._logprobs(index, result),
                    "finish_reason": result.finish_reason,
                    "seed": result.seed,
                    **result.lossy_json(),
                }
                for index, result in enumerate(results)
            ],
            **self._totals(results),
        }

    def event(self, index: int, chunk: Chunk) -> dict[str, Any]:
        """One round of the target; events of a choice are to be made in order."""
        return {
            **self._common(self.event_object),
            "choices": [
                {
                    "index": index,
                    **self._event_content(index, chunk),
                    "logprobs": self._logprobs(index, chunk),
                    "finish_reason": chunk.result.finish_reason if chunk.result else None,
                    "seed": self.head.seeds[index],
                    **(chunk.result.lossy_json() if chunk.result else {}),
                }
            ],
        }

    def last_event(self, results: Sequence[GenerateResult]) -> dict[str, Any]:
        """What follows the rounds when usage is wanted."""
        return {**self._common(self.event_object), "choices": [], **self._totals(results)}

    def _totals(self, results: Sequence[GenerateResult]) -> dict[str, Any]:
        num_output_tokens = sum(len(result.token_ids) for result in results)
        return {"usage": self.usage(num_output_tokens), "metrics": _metrics(results)}

    def usage(self, num_output_tokens: int) -> dict[str, int]:
        """Token counts."""
        return {
            "prompt_tokens": self.head.num_prompt_tokens,
            "completion_tokens": num_output_tokens,
            "total_tokens": self.head.num_prompt_tokens + num_output_tokens,
        }

    def _common(self, kind: str) -> dict[str, Any]:
        head = self.head
        return {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "seed": head.seeds[0],
            **({"lossy": True} if head.is_lossy else {}),
        }

    def _bytes_and_text(self, token: int) -> tuple[bytes, str]:
        """A token alone; parts of characters are written as OpenAI writes them."""
        raw = self._tokenizer.token_bytes(token)
        try:
            return raw, raw.decode()
        except UnicodeDecodeError:
            return raw, "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    @abstractmethod
    def _whole_content(self, index: int, result: GenerateResult) -> dict[str, Any]: ...

    @abstractmethod
    def _event_content(self, index: int, chunk: Chunk) -> dict[str, Any]: ...

    @abstractmethod
    def _logprobs(self, index: int, part: Chunk | GenerateResult) -> dict[str, Any] | None:
        """None where none were asked for."""


class CompletionAnswer(Answer):
    """``/v1/completions``."""

    whole_object = "text_completion"
    event_object = "text_completion"

    def __init__(self, head: Head, tokenizer: Tokenizer, echoes: Sequence[Echo] | None) -> None:
        """``echoes``: what the text of each choice begins with; None: with its output."""
        super().__init__(head, tokenizer)
        self._unsent_echoes = dict(enumerate(echo.text for echo in echoes or ()))
        self._unsent_firsts = dict(enumerate(echo.first_token for echo in echoes or ()))
        self._text_offsets = [0] * len(head.seeds)

    def text_before(self, index: int) -> str:
        """The echo."""
        return self._unsent_echoes.pop(index, "")

    def _whole_content(self, index: int, result: GenerateResult) -> dict[str, Any]:
        return {"text": self.text_before(index) + result.text}

    def _event_content(self, index: int, chunk: Chunk) -> dict[str, Any]:
        return {"text": self.text_before(index) + chunk.text}

    def _logprobs(self, index: int, part: Chunk | GenerateResult) -> dict[str, Any] | None:
        first = self._unsent_firsts.pop(index, None)
        entries = (*part.prompt_logprobs, *part.logprobs)
        if first is None and not entries:
            return None
        # Nothing stands before the first token, so nothing says how likely it was.
        firsts = () if first is None else (first,)
        tokens = [*firsts, *(entry.token for entry in entries)]
        texts = [self._bytes_and_text(token)[1] for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._text_offsets[index])
            self._text_offsets[index] += len(text)
        unknown = [None for _ in firsts]
        return {
            "tokens": texts,
            "token_logprobs": [*unknown, *(_finite(entry.logprob) for entry in entries)],
            "top_logprobs": [*unknown, *map(self._top_logprobs, entries)],
            "text_offset": offsets,
        }

    def _top_logprobs(self, entry: TokenLogprobs) -> dict[str, float]:
        return {
            self._bytes_and_text(token)[1]: _finite(logprob)
            # The token itself belongs to them, whether or not it is among the likeliest.
            for token, logprob in (*entry.top, (entry.token, entry.logprob))
        }


class ChatAnswer(Answer):
    """``/v1/chat/completions``."""

    whole_object = "chat.completion"
    event_object = "chat.completion.chunk"

    def __init__(self, head: Head, tokenizer: Tokenizer) -> None:
        super().__init__(head, tokenizer)
        self._begun: set[int] = set()

    def _whole_content(self, index: int, result: GenerateResult) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": result.text}}

    def _event_content(self, index: int, chunk: Chunk) -> dict[str, Any]:
        role = {} if index in self._begun else {"role": "assistant"}
        self._begun.add(index)
        return {"delta": {**role, "content": chunk.text}}

    def _logprobs(self, index: int, part: Chunk | GenerateResult) -> dict[str, Any] | None:
        if not part.logprobs:
            return None
        return {
            "content": [
                {
                    **self._chat_logprob(entry.token, entry.logprob),
                    "top_logprobs": [self._chat_logprob(*candidate) for candidate in entry.top],
                }
                for entry in part.logprobs
            ]
        }

    def _chat_logprob(self, token: int, logprob: float) -> dict[str, Any]:
        raw, text = self._bytes_and_text(token)
        return {"token": text, "logprob": _finite(logprob), "bytes": list(raw)}


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)


def _metrics(results: Sequence[GenerateResult]) -> dict[str, Any]:
    """Those of the one choice, or of all together with those of each beside them."""
    each = [{"chain": list(one.chain), **one.to_json()["metrics"]} for one in results]
    if len(each) == 1:
        return each[0]
    together = sum((one.metrics.speculation for one in results), SpeculationMetrics())
    return {"speculative_decoding": together.to_json(), "choices": each}
