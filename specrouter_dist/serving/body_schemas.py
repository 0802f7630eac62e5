"""JSON schemas of the bodies as they are sent, from the models that check them.

The models say what is left when a body has been looked at. What is taken before that (one text for
a list of them, ``null`` for an absent field, fields that change nothing) and what is checked after
it (ranges) is put in here.
"""

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from specrouter_dist.config import SamplingParams
from specrouter_dist.serving.conversations import MAX_MESSAGES
from specrouter_dist.serving.json_body import Body
from specrouter_dist.serving.openai_schema import MAX_LISTED, ChatRequest, CompletionRequest
from specrouter_dist.serving.tokenizing import DetokenizeRequest, TokenizeRequest
from specrouter_dist.serving.unsupported import WITHOUT_EFFECT

Schema = dict[str, Any]

BODIES: tuple[type[Body], ...] = (
    CompletionRequest,
    ChatRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
_REF = "#/components/schemas/{model}"
_GENERATION = ("CompletionRequest", "ChatRequest")
_RANGES = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "maxItems")

_TOKEN_IDS: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": 1 << 32},
}
_TEXT: Schema = {"type": "string", "minLength": 1}
_STOP: Schema = {**_TEXT, "maxLength": MAX_LISTED}
_PART: Schema = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_SOME_TOKEN_IDS: Schema = {**_TOKEN_IDS, "minItems": 1}
_MESSAGES: Schema = {
    "type": "array",
    "items": {"$ref": _REF.format(model="ChatMessage")},
    "minItems": 1,
    "maxItems": MAX_MESSAGES,
}
_SPECULATION: Schema = {"$ref": _REF.format(model="Speculation")}

_AS_SENT: Mapping[str, Mapping[str, Schema]] = {
    "CompletionRequest": {
        "prompt": {
            "anyOf": [
                _TEXT,
                _SOME_TOKEN_IDS,
                {"type": "array", "items": _TEXT, "minItems": 1},
                {"type": "array", "items": _SOME_TOKEN_IDS, "minItems": 1},
            ]
        }
    },
    "ChatMessage": {
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]},
    },
    "ChatRequest": {"messages": _MESSAGES},
    "TokenizeRequest": {"messages": _MESSAGES},
    "DetokenizeRequest": {"tokens": _TOKEN_IDS},
}
_AS_SENT_TO_GENERATE: Mapping[str, Schema] = {
    "stop": {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": 16}]},
    "stop_token_ids": {**_TOKEN_IDS, "maxItems": MAX_LISTED},
    "logit_bias": {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]{1,10}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "maxProperties": MAX_LISTED,
    },
    "speculative": {"anyOf": [{"type": "boolean"}, _SPECULATION]},
}


def body_schemas(model: str) -> dict[str, Schema]:
    """By name: those of the bodies, and of the objects in them.

    Conditions between fields are not in them (``stream_options`` needs ``stream``).
    """
    _, made = models_json_schema([(body, "validation") for body in BODIES], ref_template=_REF)
    schemas: dict[str, Schema] = made["$defs"]
    ranges = SamplingParams.model_json_schema()["properties"]
    for name, schema in schemas.items():
        properties: dict[str, Schema] = schema["properties"]
        if name in _GENERATION:
            for field in properties.keys() & ranges.keys():
                _narrow(properties[field], ranges[field])
            properties.update(_AS_SENT_TO_GENERATE)
            properties |= {field: {"enum": list(WITHOUT_EFFECT[field])} for field in WITHOUT_EFFECT}
        properties |= _AS_SENT.get(name, {})
        if "model" in properties:
            properties["model"] = {"enum": [model]}
        required = schema.get("required", ())
        for field, described in properties.items():
            properties[field] = described if field in required else _or_null(described)
    return schemas


def _narrow(schema: Schema, range_: Schema) -> None:
    """The range belongs to the one type there is besides null."""
    for option in schema.get("anyOf", [schema]):
        if option.get("type") in ("integer", "number"):
            source: Schema = next(
                (o for o in range_.get("anyOf", [range_]) if o.get("type") != "null"), {}
            )
            option |= {key: source[key] for key in _RANGES if key in source}


def _or_null(schema: Schema) -> Schema:
    """``null`` is as good as absent, wherever a field needs not be there."""
    kept = {key: value for key, value in schema.items() if key not in ("default", "title")}
    if "enum" in kept:
        return {"enum": [*kept["enum"], None]}
    options = kept.pop("anyOf", None) or [kept]
    notes = {"description": kept["description"]} if "description" in kept else {}
    null: Schema = {"type": "null"}
    return {**notes, "anyOf": [*(option for option in options if option != null), null]}
