"""The messages of a conversation, as OpenAI's clients send them."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from specrouter_dist.serving.json_body import JsonObject
from specrouter_dist.validation import shown

MAX_MESSAGES = 16384
"""Most turns of a conversation: more than any context has room for."""


class ChatMessage(JsonObject):
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
                raise ValueError(f"parts must be texts, got {shown(part)}")
        return "".join(part["text"] for part in value)


Messages = Annotated[list[ChatMessage], Field(max_length=MAX_MESSAGES, fail_fast=True)]
"""A conversation. One message that is wrong is enough."""
