"""The bytes that each token id stands for.

The decoders of this field's tokenizers are, but for one leading space, maps from tokens to
bytes. With the map as a table, text appears token by token, exactly and in constant time.
"""

import json
from collections.abc import Mapping

from specrouter_dist.errors import EngineError

_BYTE_FALLBACK_STEPS = ("Replace", "ByteFallback", "Fuse", "Strip")


def build_token_bytes(
    vocabulary: Mapping[int, str], special_ids: frozenset[int], decoder: bytes
) -> tuple[list[bytes], bool]:
    """Bytes by id, and whether a text's one leading space belongs to the tokenizer.

    ``decoder`` is the JSON of the tokenizer's decoder. Special tokens and ids without a string
    give no bytes.

    Raises:
        EngineError: a decoder that is no map from tokens to bytes.
    """
    steps = _steps(json.loads(decoder))
    kinds = tuple(step["type"] for step in steps)
    if kinds == ("ByteLevel",):
        convert = _byte_level
    elif kinds in (_BYTE_FALLBACK_STEPS, _BYTE_FALLBACK_STEPS[:-1]):
        convert = _byte_fallback
    else:
        raise EngineError(
            f"tokenizer.json: decoder {' + '.join(kinds) or 'none'} is not supported; accepted: "
            f"ByteLevel, or {' + '.join(_BYTE_FALLBACK_STEPS)}"
        )
    table = [b""] * (max(vocabulary) + 1)
    for i, token in vocabulary.items():
        if i not in special_ids:
            table[i] = convert(token)
    return table, kinds[-1] == "Strip"


def _steps(decoder: dict[str, object] | None) -> list[dict[str, str]]:
    if decoder is None:
        return []
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    assert isinstance(steps, list)
    return steps


def _byte_alphabet() -> dict[str, int]:
    """The byte that each printable character of GPT-2's byte-level alphabet stands for."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return alphabet


_BYTE_OF = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    # An added token is written as it is; it may hold characters that are not in the alphabet.
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()


def _byte_fallback(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()
