"""What OpenAI's clients send: fields, types, and the sampling parameters they come to.

Types are strict: JSON numbers are no texts and no flags. Ranges are those of
:class:`~specrouter_dist.config.SamplingParams`. ``null`` means that a field is absent.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from specrouter_dist.config import SamplingParams
from specrouter_dist.errors import RequestError
from specrouter_dist.validation import validated

_TOKEN_ID_LIMIT = 1 << 32
_MAX_LISTED = 1024
"""Most elements of a list, and most characters of a stop string: a request has to fit a frame of
the links whatever it says."""
_MAX_SHOWN_CHARS = 60

_SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "min_tokens",
)
"""Those that have the same name and meaning in SamplingParams."""


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {name: value for name, value in values.items() if value is not None}


class StreamOptions(_Object):
    """What a stream carries besides text."""

    include_usage: bool = False
    """One more event at the end, without choices, with ``usage`` and ``metrics``."""
    continuous_usage_stats: bool = False
    """``usage`` so far in every event; counts only with ``include_usage``."""


class _GenerationRequest(_Object):
    """The fields that both endpoints take."""

    model: str | None = None
    """None: the one model there is."""
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    """None: one is drawn. Every response carries its seed."""
    stop: list[Annotated[str, Field(max_length=_MAX_LISTED)]] | None = None
    stop_token_ids: list[int] | None = Field(default=None, max_length=_MAX_LISTED)
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = Field(default=None, max_length=_MAX_LISTED)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = None
    """Whom the client serves; nothing depends on it."""
    speculative: bool | tuple[str, ...] = True
    """False: the target alone. A tuple: the members of the chain, from ``{"chain": [...]}``."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("n", mode="before")
    @classmethod
    def _one_choice(cls, value: Any) -> Any:
        if value != 1 or isinstance(value, bool):
            raise ValueError(f"one choice per request is served, got {_shown(value)}")
        return value

    @field_validator("speculative", mode="before")
    @classmethod
    def _flag_or_chain(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return value
        if isinstance(value, dict) and set(value) == {"chain"}:
            chain = value["chain"]
            if isinstance(chain, list) and chain and all(isinstance(name, str) for name in chain):
                return tuple(chain)
        raise ValueError(
            'must be false, or {"chain": [names of members, drafter first, target last]}, '
            f"got {_shown(value)}"
        )

    def check(self) -> None:
        """What concerns several fields.

        Raises:
            RequestError: names the field that cannot stand with the others.
        """
        if "stream_options" in self.model_fields_set and not self.stream:
            _refuse("stream_options", 'needs "stream": true')

    @property
    def num_logprobs(self) -> int | None:
        """None: no log-probabilities; n: those of the token and of the n likeliest."""
        raise NotImplementedError

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens to generate; None: as many as fit the context."""
        raise NotImplementedError

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with an event that holds usage and metrics."""
        return self.stream_options.include_usage

    @property
    def includes_usage_always(self) -> bool:
        """Whether every event of a stream holds the usage so far."""
        return self.includes_usage and self.stream_options.continuous_usage_stats

    def to_sampling(self, *, seed: int, max_tokens: int) -> SamplingParams:
        """The parameters; ``seed`` and ``max_tokens`` stand in where the request has none.

        Raises:
            RequestError: a value out of range; names its field.
        """
        fields = {name: getattr(self, name) for name in _SAMPLING_FIELDS}
        fields["seed"] = seed if self.seed is None else self.seed
        fields["max_tokens"] = max_tokens if self.wanted_tokens is None else self.wanted_tokens
        fields["logprobs"] = self.num_logprobs
        given = {name: value for name, value in fields.items() if value is not None}
        return validated(SamplingParams, given, error=RequestError)


class CompletionRequest(_GenerationRequest):
    """The body of ``POST /v1/completions``."""

    prompt: str | tuple[int, ...]
    """A text or token ids; both may also stand in a list of their own."""
    logprobs: int | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], str | list):
            if len(value) > 1:
                raise ValueError(f"one prompt per request is served, got {len(value)}")
            value = value[0]
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or not all(_is_token_id(token) for token in value):
            raise ValueError(
                "must be a text, a list of token ids, or a list of one of these, "
                f"got {_shown(value)}"
            )
        if not value:
            raise ValueError("empty; at least one token is needed")
        return tuple(value)

    @property
    def num_logprobs(self) -> int | None:
        """As the field says."""
        return self.logprobs

    @property
    def wanted_tokens(self) -> int | None:
        """As the field says, or OpenAI's 16."""
        return 16 if self.max_tokens is None else self.max_tokens


class ChatMessage(_Object):
    """One turn of a conversation."""

    role: str
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _joined_parts(cls, value: Any) -> Any:
        """OpenAI's list of text parts is one text."""
        if not isinstance(value, list):
            return value
        for part in value:
            is_text = isinstance(part, dict) and part.get("type") == "text"
            if not is_text or not isinstance(part.get("text"), str):
                raise ValueError(f"parts must be texts, got {_shown(part)}")
        return "".join(part["text"] for part in value)


class ChatRequest(_GenerationRequest):
    """The body of ``POST /v1/chat/completions``."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The newer name of ``max_tokens``."""
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    def check(self) -> None:
        """As for every request, and the fields of conversations."""
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            _refuse("top_logprobs", 'needs "logprobs": true')
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            _refuse("max_completion_tokens", "is the newer name of max_tokens; give one of them")

    @property
    def num_logprobs(self) -> int | None:
        """``top_logprobs`` where log-probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def wanted_tokens(self) -> int | None:
        """Either spelling; None: the rest of the context."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens


RequestT = TypeVar("RequestT", CompletionRequest, ChatRequest)


def parse_body(model: type[RequestT], body: bytes) -> RequestT:
    """The request in a body.

    Raises:
        RequestError: no JSON, or a field that is wrong; names the field.
    """
    try:
        values = json.loads(body.decode())
    except UnicodeDecodeError as problem:
        raise RequestError(f"body: not UTF-8 at byte {problem.start + 1}") from None
    except json.JSONDecodeError as problem:
        raise RequestError(
            f"body: no valid JSON at line {problem.lineno}, column {problem.colno}: {problem.msg}"
        ) from None
    except (ValueError, RecursionError) as problem:
        # Numbers of thousands of digits, thousands of nested brackets.
        raise RequestError(f"body: no usable JSON: {problem}") from None
    if not isinstance(values, dict):
        raise RequestError(f"body: must be a JSON object, got {_shown(values)}")
    if b"\\u" in body:
        _check_unicode(values, "")
    request = validated(model, values, error=RequestError)
    request.check()
    return request


def _refuse(field: str, line: str) -> NoReturn:
    raise RequestError(f"{field}: {line}", field=field)


def _check_unicode(value: Any, path: str) -> None:
    """JSON can spell halves of surrogate pairs, which are no text and cannot be sent on."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as problem:
            raise RequestError(
                f"{path}: no valid Unicode: a lone surrogate at character {problem.start}",
                field=path,
            ) from None
    elif isinstance(value, list):
        for i, element in enumerate(value):
            _check_unicode(element, f"{path}[{i}]")
    elif isinstance(value, dict):
        for name, element in value.items():
            _check_unicode(name, f"{path}.<name>" if path else "body")
            _check_unicode(element, f"{path}.{name}" if path else name)


def _is_token_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _TOKEN_ID_LIMIT


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
