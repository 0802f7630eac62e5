"""Text to token ids, as ``transformers`` would do it, and back."""

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specrouter_dist.errors import ConfigError, RequestError
from specrouter_dist.pools.model_files import read_json
from specrouter_dist.speculation.messages import TOKEN_TYPECODE, TokenArray
from specrouter_dist.text.detokenizer import Detokenizer
from specrouter_dist.text.token_bytes import build_token_bytes

_GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")

_SHRINKING = 4
"""How many times longer than its normal form a text is at most taken to be."""

ChatMessage = Mapping[str, str]
"""``role`` and ``content``."""


class Tokenizer:
    """The tokenizer of one model directory. Safe to use from several threads."""

    def __init__(self, backend: Any) -> None:
        """``backend``: a fast tokenizer of ``transformers``; see :meth:`load`."""
        self._backend = backend
        raw = backend.backend_tokenizer
        vocabulary = {i: token for token, i in raw.get_vocab(with_added_tokens=True).items()}
        special = frozenset(i for i, t in raw.get_added_tokens_decoder().items() if t.special)
        self.special_ids = special
        """Ids that are no text, e.g. marks of a conversation's turns."""
        self._longest_chars = max(map(len, vocabulary.values()))
        decoder = raw.decoder.__getstate__() if raw.decoder is not None else b"null"
        self._token_bytes, self._strips_space = build_token_bytes(vocabulary, special, decoder)

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """The tokenizer in a model directory.

        Raises:
            ConfigError: there is none, or it is damaged.
            EngineError: its decoder is of an unsupported kind.
        """
        if not (directory / "tokenizer.json").is_file():
            raise ConfigError(f"{directory / 'tokenizer.json'}: missing; a model directory has one")
        try:
            backend = _backend_class(directory).from_pretrained(directory, local_files_only=True)
        except Exception as problem:  # the library raises bare Exception
            line = " ".join(str(problem).split())
            raise ConfigError(f"{directory}: its tokenizer cannot be loaded: {line}") from problem
        return cls(backend)

    @property
    def num_ids(self) -> int:
        """One more than the highest id."""
        return len(self._token_bytes)

    @property
    def has_chat_template(self) -> bool:
        """Whether :meth:`encode_chat` can be called."""
        return bool(self._backend.chat_template)

    def encode(
        self, text: str, *, add_special_tokens: bool = True, context_tokens: int | None = None
    ) -> TokenArray:
        """Ids of a plain prompt, with the special tokens that the tokenizer's own policy adds.

        Args:
            text: of any length.
            add_special_tokens: whether that policy counts.
            context_tokens: a text that cannot fit so many is not tokenized; None: any is.

        Raises:
            RequestError: the text is empty, no Unicode text, or cannot fit.
        """
        if not text:
            raise RequestError("prompt: empty; at least one character is needed", field="prompt")
        _check_unicode(text, "prompt")
        self._check_fits(text, "prompt", context_tokens)
        return array(TOKEN_TYPECODE, self._ids(text, add_special_tokens))

    def encode_chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        add_special_tokens: bool = False,
        context_tokens: int | None = None,
    ) -> TokenArray:
        """Ids of a conversation in the model's chat template, up to the assistant's turn.

        The template writes the special tokens itself; ``context_tokens`` as for :meth:`encode`.

        Raises:
            RequestError: no messages, no template, messages the template refuses, or too many.
        """
        if not messages:
            raise RequestError("messages: empty; at least one is needed", field="messages")
        if not self.has_chat_template:
            raise RequestError(
                "messages: the target has no chat template; send a plain prompt", field="messages"
            )
        for i, message in enumerate(messages):
            _check_unicode(message["content"], f"messages[{i}].content")
        # Imported here: jinja2 is wanted by conversations only.
        from jinja2 import TemplateError

        try:
            text = self._backend.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except TemplateError as problem:
            raise RequestError(
                f"messages: the chat template refuses them: {problem}", field="messages"
            ) from None
        self._check_fits(text, "messages", context_tokens)
        return array(TOKEN_TYPECODE, self._ids(text, add_special_tokens))

    def _check_fits(self, text: str, field: str, context_tokens: int | None) -> None:
        """Ten megabytes take seconds to tokenize, only to be found too long."""
        if context_tokens is None:
            return
        most = context_tokens * self._longest_chars * _SHRINKING
        if len(text) > most:
            raise RequestError(
                f"{field}: {len(text)} characters; at most {most} can fit the context of "
                f"{context_tokens} tokens, of which the longest has {self._longest_chars} "
                f"characters (times {_SHRINKING}, for texts that are shortened first)",
                field=field,
            )

    def _ids(self, text: str, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._backend(text, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a whole sequence, special tokens left out."""
        detokenizer = self.detokenizer()
        return self._stripped(detokenizer.push(tokens) + detokenizer.finish())

    def decode_all(self, tokens: Sequence[int]) -> str:
        """The same, special tokens by their names."""
        return self._stripped(b"".join(map(self.token_bytes, tokens)).decode(errors="replace"))

    def _stripped(self, text: str) -> str:
        return text.removeprefix(" ") if self._strips_space else text

    def token_bytes(self, token: int) -> bytes:
        """What one id stands for; of a special token, its name."""
        name: str = self._backend.convert_ids_to_tokens(token) or ""
        return self._token_bytes[token] or name.encode()

    def token_names(self, tokens: Sequence[int]) -> list[str]:
        """What the vocabulary calls the ids; empty where it has no name."""
        return [name or "" for name in self._backend.convert_ids_to_tokens(list(tokens))]

    def detokenizer(self) -> Detokenizer:
        """A new incremental detokeniser for what follows a prompt."""
        return Detokenizer(self._token_bytes)


def _backend_class(directory: Path) -> Any:
    """The class that ``AutoTokenizer`` would take.

    Where that is known to be the generic one, it is taken directly: ``AutoTokenizer`` imports
    torch, which costs seconds and hundreds of MiB in processes that run no model.
    """
    config_path = directory / "tokenizer_config.json"
    declared = read_json(config_path).get("tokenizer_class") if config_path.exists() else None
    model_type = read_json(directory / "config.json").get("model_type")
    if declared in _GENERIC_CLASSES and model_type == "llama":
        from transformers.tokenization_utils_tokenizers import TokenizersBackend

        return TokenizersBackend
    from transformers import AutoTokenizer

    return AutoTokenizer


def _check_unicode(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise RequestError(
            f"{field}: no valid Unicode: a lone surrogate at character {problem.start}", field=field
        ) from None
