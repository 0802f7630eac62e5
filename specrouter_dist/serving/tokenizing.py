"""``/tokenize`` and ``/detokenize``, with vLLM's fields."""

from array import array
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pydantic import field_validator

from specrouter_dist.errors import RequestError
from specrouter_dist.serving.conversations import ChatMessage, Messages
from specrouter_dist.serving.json_body import Body, is_token_ids, refuse
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.text.tokenizer import Tokenizer
from specrouter_dist.validation import shown


class TokenizeRequest(Body):
    """The body of ``POST /tokenize``: a text or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    """None: with a text; in a conversation the template writes them."""
    add_generation_prompt: bool | None = None
    """Whether a conversation ends with the beginning of the assistant's turn; None: it does."""
    return_token_strs: bool = False

    def check(self) -> None:
        """A text or a conversation, and the fields that go with it."""
        if (self.prompt is None) == (self.messages is None):
            refuse("prompt", "give it or messages, one of them")
        if self.add_generation_prompt is not None and self.messages is None:
            refuse("add_generation_prompt", "goes with messages")


class DetokenizeRequest(Body):
    """The body of ``POST /detokenize``."""

    model: str | None = None
    tokens: tuple[int, ...]

    @field_validator("tokens", mode="before")
    @classmethod
    def _token_ids(cls, value: Any) -> Any:
        if not is_token_ids(value):
            raise ValueError(f"must be a list of token ids, got {shown(value)}")
        return tuple(value)


class Tokenizing:
    """The target's tokenizer, for clients. May block: long texts take their time.

    Args:
        tokenizer: the target's.
        num_ids: ids below it are known.
        context_tokens: the target's longest sequence.
        check_model: raises if there is no such model.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        num_ids: int,
        context_tokens: int,
        check_model: Callable[[str | None], None],
    ) -> None:
        self._tokenizer = tokenizer
        self._num_ids = num_ids
        self.context_tokens = context_tokens
        self.check_model = check_model

    def tokenize(self, request: TokenizeRequest) -> dict[str, Any]:
        """The ids of a text or a conversation.

        Raises:
            InputError: names the field that is wrong.
        """
        self.check_model(request.model)
        tokens = self._encode(request)
        names = self._tokenizer.token_names(tokens) if request.return_token_strs else None
        return {
            "count": len(tokens),
            "max_model_len": self.context_tokens,
            "tokens": tokens.tolist(),
            "token_strs": names,
        }

    def detokenize(self, request: DetokenizeRequest) -> dict[str, Any]:
        """The text of ids, special tokens among them; raises as :meth:`tokenize`."""
        self.check_model(request.model)
        self.check_ids(request.tokens, "tokens")
        return {"prompt": self._tokenizer.decode_all(request.tokens)}

    def encode(self, prompt: str | tuple[int, ...]) -> TokenArray:
        """The ids of a prompt, which may be ids already.

        Raises:
            RequestError: a text that cannot fit the context, or ids that the target does not have.
        """
        if isinstance(prompt, str):
            return self._tokenizer.encode(prompt, context_tokens=self.context_tokens)
        self.check_ids(prompt, "prompt")
        return array(TOKEN_TYPECODE, prompt)

    def encode_chat(self, messages: Sequence[ChatMessage]) -> TokenArray:
        """The ids of a conversation that is to be answered.

        Raises:
            RequestError: it cannot be written down, or cannot fit the context.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return self._tokenizer.encode_chat(turns, context_tokens=self.context_tokens)

    def check_ids(self, ids: Collection[int], field: str) -> None:
        """
        Raises:
            RequestError: the target does not have all of these; names the field.
        """
        highest = max(ids, default=0)
        if highest >= self._num_ids:
            raise RequestError(
                f"{field}: token ids lie in [0, {self._num_ids}), got {highest}", field=field
            )

    def _encode(self, request: TokenizeRequest) -> TokenArray:
        special = request.add_special_tokens
        if request.messages is None:
            assert request.prompt is not None
            return self._tokenizer.encode(
                request.prompt, add_special_tokens=True if special is None else special
            )
        return self._tokenizer.encode_chat(
            [message.model_dump() for message in request.messages],
            add_generation_prompt=request.add_generation_prompt is not False,
            add_special_tokens=special is True,
        )
