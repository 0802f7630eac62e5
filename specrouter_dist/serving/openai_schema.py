"""What OpenAI's clients send: fields, types, and the sampling parameters they come to.

Ranges are those of :class:`~specrouter_dist.config.SamplingParams`.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator

from specrouter_dist.config import LossyParams, SamplingParams
from specrouter_dist.errors import RequestError
from specrouter_dist.routing.costs import MAX_DRAFT_TOKENS
from specrouter_dist.serving.conversations import Messages
from specrouter_dist.serving.json_body import Body, JsonObject, is_token_ids, refuse
from specrouter_dist.serving.unsupported import without_unsupported
from specrouter_dist.validation import shown, validated

MAX_CHOICES = 128
"""Most outputs of one request: prompts times ``n``."""
MAX_LISTED = 1024
"""Most elements of a list, and most characters of a stop string: a request has to fit a frame of
the links whatever it says."""

_TokenIdText = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]

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


class StreamOptions(JsonObject):
    """What a stream carries besides text."""

    include_usage: bool = False
    """One more event at the end, without choices, with ``usage`` and ``metrics``."""
    continuous_usage_stats: bool = False
    """``usage`` so far in every event; counts only with ``include_usage``."""


class Lossy(LossyParams, JsonObject):
    """The text need not be the target's: where the tiers begin, and how much of it."""


class Speculation(JsonObject):
    """How to draft; without fields, as the router chooses."""

    chain: list[str] | None = Field(default=None, min_length=1, max_length=MAX_LISTED)
    """Members, drafter first and target last."""
    num_speculative_tokens: int | None = Field(default=None, ge=0, le=MAX_DRAFT_TOKENS)
    """Length of the blocks on every edge; 0: the target alone."""
    lossy: Lossy | None = None
    """The slim member before the target in ``chain`` commits tokens by itself."""

    def check(self) -> None:
        """A chain has blocks if it has drafters.

        Raises:
            RequestError: names the field.
        """
        num_tokens = self.num_speculative_tokens
        if self.chain is None or num_tokens is None:
            return
        if (len(self.chain) > 1) != (num_tokens > 0):
            refuse(
                "speculative.num_speculative_tokens",
                f"0 goes with the target alone, got {num_tokens} with a chain of {len(self.chain)}",
            )


class GenerationRequest(Body):
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
    """None: one is drawn. Every response carries its seed, and every choice its own."""
    stop: list[Annotated[str, Field(max_length=MAX_LISTED)]] | None = Field(
        default=None, max_length=MAX_LISTED
    )
    stop_token_ids: list[int] | None = Field(default=None, max_length=MAX_LISTED)
    ignore_eos: bool | None = None
    logit_bias: dict[_TokenIdText, float] | None = Field(default=None, max_length=MAX_LISTED)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    n: int = Field(default=1, ge=1, le=MAX_CHOICES)
    """Choices per prompt, each with a seed of its own that ``seed`` determines."""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    timeout: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """Seconds for all of it, waiting included; None: the service's own. Neither OpenAI's nor vLLM's
    bodies have it; the name is that of their clients' option, which the server never sees."""
    user: str | None = None
    """Whom the client serves; nothing depends on it."""
    speculative: Speculation = Speculation()
    """In a body also ``true``, which is the same as nothing, or ``false``: the target alone."""

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _not_too_many(cls, value: Any) -> Any:
        # The field's own limit is looked at when every element has been.
        if isinstance(value, dict) and len(value) > MAX_LISTED:
            raise ValueError(f"at most {MAX_LISTED} token ids, got {len(value)}")
        return value

    @field_validator("speculative", mode="before")
    @classmethod
    def _flag_or_object(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return Speculation() if value else Speculation(num_speculative_tokens=0)
        if isinstance(value, dict | Speculation):
            return value
        raise ValueError(
            'must be false, or {"chain": [names of members, drafter first, target last], '
            f'"num_speculative_tokens": n}}, got {shown(value)}'
        )

    @classmethod
    def prepared(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without what other services have and what changes nothing."""
        return without_unsupported(values)

    def check(self) -> None:
        """As for every body, and the fields of all requests for text."""
        if "stream_options" in self.model_fields_set and not self.stream:
            refuse("stream_options", 'needs "stream": true')
        self.speculative.check()

    @property
    def num_logprobs(self) -> int | None:
        """None: no log-probabilities; n: those of the token and of the n likeliest."""
        raise NotImplementedError

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The same of the prompt's tokens."""
        return None

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens to generate; None: it does not say."""
        raise NotImplementedError

    @property
    def default_tokens(self) -> int | None:
        """What then holds, if so many fit the context; None: as many as fit."""
        return None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with an event that holds usage and metrics."""
        return self.stream_options.include_usage

    @property
    def includes_usage_always(self) -> bool:
        """Whether every event of a stream holds the usage so far."""
        return self.includes_usage and self.stream_options.continuous_usage_stats

    def to_sampling(self, *, seed: int, max_tokens: int) -> SamplingParams:
        """The parameters.

        Args:
            seed: of a request that has none.
            max_tokens: how many fit the context.

        Raises:
            RequestError: a value out of range; names its field.
        """
        fields = {name: getattr(self, name) for name in _SAMPLING_FIELDS}
        fields["seed"] = seed if self.seed is None else self.seed
        fields["max_tokens"] = self.wanted_tokens
        if self.wanted_tokens is None:
            fields["max_tokens"] = min(max_tokens, self.default_tokens or max_tokens)
        fields["logprobs"] = self.num_logprobs
        fields["prompt_logprobs"] = self.num_prompt_logprobs
        given = {name: value for name, value in fields.items() if value is not None}
        return validated(SamplingParams, given, error=RequestError)


class CompletionRequest(GenerationRequest):
    """The body of ``POST /v1/completions``."""

    prompt: tuple[str | tuple[int, ...], ...]
    """Texts, or lists of token ids; one prompt may also stand without a list around it."""
    logprobs: int | None = None
    echo: bool = False
    """The text of a choice begins with its prompt's, and so do its log-probabilities; with
    ``max_tokens`` 0 that is all."""

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt_or_several(cls, value: Any) -> Any:
        is_list = isinstance(value, list) and value and isinstance(value[0], str | list)
        prompts = value if is_list else [value]
        if len(prompts) > MAX_CHOICES:
            raise ValueError(f"at most {MAX_CHOICES} choices per request, got {len(prompts)}")
        if not all(isinstance(one, str) for one in prompts) and not all(map(is_token_ids, prompts)):
            raise ValueError(
                f"must be a text, a list of token ids, or a list of either, got {shown(value)}"
            )
        empty = [i for i, one in enumerate(prompts) if not one]
        if empty:
            which = f"number {empty[0]} of the list is " if is_list else ""
            raise ValueError(f"{which}empty; at least one character or token is needed")
        return tuple(one if isinstance(one, str) else tuple(one) for one in prompts)

    def check(self) -> None:
        """As for every request, and the fields of completions."""
        super().check()
        if self.n * len(self.prompt) > MAX_CHOICES:
            refuse(
                "n" if self.n > 1 else "prompt",
                f"at most {MAX_CHOICES} choices per request, "
                f"got {len(self.prompt)} prompts with {self.n} each",
            )
        if self.is_echo_alone and self.min_tokens:
            refuse("min_tokens", f"must not be above max_tokens (0), got {self.min_tokens}")

    @property
    def num_logprobs(self) -> int | None:
        """As the field says."""
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        """Those of an echo."""
        return self.logprobs if self.echo else None

    @property
    def is_echo_alone(self) -> bool:
        """Whether nothing is to be generated."""
        return self.echo and self.max_tokens == 0

    @property
    def wanted_tokens(self) -> int | None:
        """As the field says."""
        # Nothing of what is drawn is given; the parameters are checked as if it were.
        return 1 if self.is_echo_alone else self.max_tokens

    @property
    def default_tokens(self) -> int:
        """OpenAI's."""
        return 16


class ChatRequest(GenerationRequest):
    """The body of ``POST /v1/chat/completions``."""

    messages: Messages
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The newer name of ``max_tokens``."""
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    def check(self) -> None:
        """As for every request, and the fields of conversations."""
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            refuse("top_logprobs", 'needs "logprobs": true')
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            refuse("max_completion_tokens", "is the newer name of max_tokens; give one of them")

    @property
    def num_logprobs(self) -> int | None:
        """``top_logprobs`` where log-probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def wanted_tokens(self) -> int | None:
        """Either spelling."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens
