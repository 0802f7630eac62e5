"""Messages of gRPC as the fields that HTTP's bodies have, and answers as messages.

What a message may say is checked where a body's fields are checked; here only that it says nothing
else: fields of a newer service come without a name, and would be dropped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from specrouter_dist.engine.interface import TokenLogprobs
from specrouter_dist.links.control import FinishReason
from specrouter_dist.serving._proto import service_pb2 as pb
from specrouter_dist.serving.json_body import BodyT, parse_fields, refuse
from specrouter_dist.serving.openai_schema import ChatRequest, CompletionRequest
from specrouter_dist.serving.results import GenerateResult

FINISH_REASONS: Mapping[FinishReason, pb.FinishReason] = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
}


def fields_of(message: Message) -> dict[str, Any]:
    """The fields that are set, by name, as JSON would have them.

    Raises:
        RequestError: there are fields, in it or in a message within, that it does not have.
    """
    unknown = UnknownFieldSet(message)
    if len(unknown):
        refuse(message.DESCRIPTOR.name, f"unknown field with number {unknown[0].field_number}")
    return {field.name: _value(value) for field, value in message.ListFields()}


def parse_message(model: type[BodyT], message: Message, **defaults: Any) -> BodyT:
    """The checked request of a message whose fields are those of the model.

    Raises:
        RequestError: names the field that is wrong.
    """
    return parse_fields(model, {**defaults, **fields_of(message)})


def request_of(message: pb.GenerateRequest, *, stream: bool) -> CompletionRequest | ChatRequest:
    """The checked request.

    Raises:
        RequestError: names the field that is wrong.
    """
    fields = fields_of(message)
    fields["stream"] = stream
    ids = fields.pop("prompt_token_ids", None)
    if ids is not None:
        fields["prompt"] = ids.get("ids", [])
    if ("prompt" in fields) == ("messages" in fields):
        refuse("prompt", "give it, prompt_token_ids or messages, one of them")
    if "prompt" in fields:
        return parse_fields(CompletionRequest, fields)
    if "logprobs" in fields:
        # A conversation has a flag and a number for it.
        fields["top_logprobs"], fields["logprobs"] = fields["logprobs"], True
    return parse_fields(ChatRequest, fields)


def choice_of(index: int, text: str, result: GenerateResult) -> pb.Choice:
    """A whole output; ``text`` is what the client shall read."""
    return pb.Choice(
        index=index,
        text=text,
        token_ids=result.token_ids,
        finish_reason=FINISH_REASONS[result.finish_reason],
        seed=result.seed,
        logprobs=logprobs_of(result.logprobs),
        metrics=metrics_of(result),
        prompt_logprobs=logprobs_of(result.prompt_logprobs),
        tiers=tiers_of(result),
    )


def metrics_of(result: GenerateResult) -> pb.Metrics:
    """How an output came to be."""
    values = {"chain": list(result.chain), **result.to_json()["metrics"]}
    return ParseDict(values, pb.Metrics())


def tiers_of(result: GenerateResult) -> pb.Tiers | None:
    """Who has decided the tokens of a lossy output; None: it is the target's."""
    return None if result.tiers is None else ParseDict(result.tiers.to_json(), pb.Tiers())


def logprobs_of(rows: Sequence[TokenLogprobs]) -> list[pb.TokenLogprobs]:
    """The log-probabilities of tokens, if any were asked for."""
    return [
        pb.TokenLogprobs(
            token_id=row.token,
            logprob=row.logprob,
            top=[pb.TokenLogprob(token_id=token, logprob=logprob) for token, logprob in row.top],
        )
        for row in rows
    ]


def _value(value: Any) -> Any:
    match value:
        case Message():
            return fields_of(value)
        case Mapping():
            # Keys of JSON's objects are texts.
            return {str(key): _value(one) for key, one in value.items()}
        case str():
            return value
        case Sequence():
            return [_value(one) for one in value]
        case _:
            return value
