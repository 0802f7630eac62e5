"""The JSON of OpenAI's answers, whole and as events of a stream.

Two keys are ours: ``seed`` in every object, with which the text can be had again, and
``metrics``, in vLLM's shape with our ``levels``, where the output is whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.serving.client import Chunk
from specrouter_dist.serving.results import GenerateResult
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
    seed: int
    num_prompt_tokens: int


class Answer(ABC):
    """One request's output as JSON; holds what an event needs to know of those before it."""

    whole_object: str
    event_object: str

    def __init__(self, head: Head, tokenizer: Tokenizer) -> None:
        self._head = head
        self._tokenizer = tokenizer

    def whole(self, result: GenerateResult) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        return {
            **self._common(self.whole_object),
            "choices": [
                {
                    "index": 0,
                    **self._whole_content(result),
                    "logprobs": self._logprobs_of(result.logprobs),
                    "finish_reason": result.finish_reason,
                }
            ],
            "usage": self.usage(len(result.token_ids)),
            "metrics": _metrics(result),
        }

    def event(self, chunk: Chunk) -> dict[str, Any]:
        """One round of the target; events are to be made in order."""
        return {
            **self._common(self.event_object),
            "choices": [
                {
                    "index": 0,
                    **self._event_content(chunk),
                    "logprobs": self._logprobs_of(chunk.logprobs),
                    "finish_reason": chunk.result.finish_reason if chunk.result else None,
                }
            ],
        }

    def last_event(self, result: GenerateResult) -> dict[str, Any]:
        """What follows the rounds when usage is wanted."""
        return {
            **self._common(self.event_object),
            "choices": [],
            "usage": self.usage(len(result.token_ids)),
            "metrics": _metrics(result),
        }

    def usage(self, num_output_tokens: int) -> dict[str, int]:
        """Token counts."""
        return {
            "prompt_tokens": self._head.num_prompt_tokens,
            "completion_tokens": num_output_tokens,
            "total_tokens": self._head.num_prompt_tokens + num_output_tokens,
        }

    def _common(self, kind: str) -> dict[str, Any]:
        head = self._head
        return {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "seed": head.seed,
        }

    def _logprobs_of(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        return self._logprobs(logprobs) if logprobs else None

    def _bytes_and_text(self, token: int) -> tuple[bytes, str]:
        """A token alone; parts of characters are written as OpenAI writes them."""
        raw = self._tokenizer.token_bytes(token)
        try:
            return raw, raw.decode()
        except UnicodeDecodeError:
            return raw, "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    @abstractmethod
    def _whole_content(self, result: GenerateResult) -> dict[str, Any]: ...

    @abstractmethod
    def _event_content(self, chunk: Chunk) -> dict[str, Any]: ...

    @abstractmethod
    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]: ...


class CompletionAnswer(Answer):
    """``/v1/completions``."""

    whole_object = "text_completion"
    event_object = "text_completion"

    def __init__(self, head: Head, tokenizer: Tokenizer) -> None:
        super().__init__(head, tokenizer)
        self._text_offset = 0

    def _whole_content(self, result: GenerateResult) -> dict[str, Any]:
        return {"text": result.text}

    def _event_content(self, chunk: Chunk) -> dict[str, Any]:
        return {"text": chunk.text}

    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        texts = [self._bytes_and_text(entry.token)[1] for entry in logprobs]
        offsets = []
        for text in texts:
            offsets.append(self._text_offset)
            self._text_offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [_finite(entry.logprob) for entry in logprobs],
            "top_logprobs": [
                {
                    self._bytes_and_text(token)[1]: _finite(logprob)
                    # The drawn token belongs to them, whether or not it is among the likeliest.
                    for token, logprob in (*entry.top, (entry.token, entry.logprob))
                }
                for entry in logprobs
            ],
            "text_offset": offsets,
        }


class ChatAnswer(Answer):
    """``/v1/chat/completions``."""

    whole_object = "chat.completion"
    event_object = "chat.completion.chunk"

    def __init__(self, head: Head, tokenizer: Tokenizer) -> None:
        super().__init__(head, tokenizer)
        self._begun = False

    def _whole_content(self, result: GenerateResult) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": result.text}}

    def _event_content(self, chunk: Chunk) -> dict[str, Any]:
        role = {} if self._begun else {"role": "assistant"}
        self._begun = True
        return {"delta": {**role, "content": chunk.text}}

    def _logprobs(self, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self._chat_logprob(entry.token, entry.logprob),
                    "top_logprobs": [self._chat_logprob(*candidate) for candidate in entry.top],
                }
                for entry in logprobs
            ]
        }

    def _chat_logprob(self, token: int, logprob: float) -> dict[str, Any]:
        raw, text = self._bytes_and_text(token)
        return {"token": text, "logprob": _finite(logprob), "bytes": list(raw)}


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)


def _metrics(result: GenerateResult) -> dict[str, Any]:
    metrics: dict[str, Any] = result.to_json()["metrics"]
    return {"chain": list(result.chain), **metrics}
