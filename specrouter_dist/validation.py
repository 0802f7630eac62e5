"""What the user wrote, checked: pydantic's findings as one line that says what would be right."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from specrouter_dist.errors import InputError

ModelT = TypeVar("ModelT", bound=BaseModel)

_MAX_SHOWN_CHARS = 60


def validated(
    model: type[ModelT], values: Mapping[str, Any], *, error: type[InputError], where: str = ""
) -> ModelT:
    """``model`` made of ``values``.

    Raises:
        InputError: of the class ``error``; one line with ``where``, the field and what is accepted.
    """
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        field, line = describe(problem, model)
    raise error(f"{where}: {line}" if where else line, field=field)


def describe(problem: ValidationError, model: type[BaseModel]) -> tuple[str, str]:
    """The path of the first field that is wrong, and one line about it."""
    findings = problem.errors(include_url=False)
    first = findings[0]
    location, kind, context = first["loc"], first["type"], first.get("ctx", {})
    path = _short(_walk(model, location)[0])
    if kind == "extra_forbidden":
        accepted = _fields(_walk(model, location[:-1])[1])
        hint = did_you_mean(_short(str(location[-1])), accepted)
        line = f"unknown field{hint}; {one_of(accepted)}"
    elif kind == "missing":
        line = "missing"
    elif kind in ("union_tag_not_found", "union_tag_invalid"):
        discriminator = str(context["discriminator"]).strip("'")
        path = f"{path}.{discriminator}"
        options = _options(_walk(model, location)[1])
        tags = [repr(tag) for option in options for tag in _tags(option, discriminator)]
        given = f", got {context['tag']!r}" if "tag" in context else ", missing"
        line = f"must be {' or '.join(tags)}{given}"
    elif kind == "value_error":
        line = str(context["error"])
    else:
        line = f"{first['msg'][:1].lower()}{first['msg'][1:]}, got {shown(first['input'])}"
    # A collection with a wrong element is also reported as a whole (too short): not one more.
    others = [f for f in findings[1:] if f["loc"] != location[: len(f["loc"])]]
    more = f" (and {len(others)} more)" if others else ""
    return path, " ".join(f"{path}: {line}{more}".removeprefix(": ").split())


def did_you_mean(name: str, accepted: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the accepted name nearest to ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(accepted), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_of(accepted: Iterable[str]) -> str:
    """``accepted: a, b, c``."""
    return "accepted: " + ", ".join(accepted)


def shown(value: object) -> str:
    """A value as an error shows it: not longer than a line, and as soon, however large it is."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > _MAX_SHOWN_CHARS:
            break
    return _short(text)


def _pieces(value: object) -> Iterator[str]:
    """What ``repr`` would write, bit by bit; of a text no more than can be shown."""
    match value:
        case str():
            yield repr(value[: _MAX_SHOWN_CHARS + 1])
        case list():
            yield "["
            for index, one in enumerate(value):
                yield ", " if index else ""
                yield from _pieces(one)
            yield "]"
        case dict():
            yield "{"
            for index, (name, one) in enumerate(value.items()):
                yield ", " if index else ""
                yield from _pieces(name)
                yield ": "
                yield from _pieces(one)
            yield "}"
        case _:
            yield repr(value)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."


def _walk(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, Any]:
    """The path as a user would write it, and the type found there.

    pydantic puts a union's tag into its locations, and ``[key]`` behind a key that is wrong; no
    user wrote them, so they are left out.
    """
    path = ""
    here: Any = model
    for part in location:
        if part == "[key]":
            continue
        options = _options(here)
        if isinstance(part, int):
            path += f"[{part}]"
            here = get_args(options[0])[0] if get_args(options[0]) else Any
        elif len(options) > 1 and (tagged := [o for o in options if part in _tags(o, "kind")]):
            here = tagged[0]
        else:
            path += f".{part}" if path else part
            field = getattr(options[0], "model_fields", {}).get(part)
            here = field.annotation if field else Any
    return path, here


def _options(annotation: Any) -> list[Any]:
    """The types of a union without None, or the one type there is."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        given = (option for option in get_args(annotation) if option is not type(None))
        return [option for one in given for option in _options(one)]
    return [annotation]


def _tags(option: Any, discriminator: str) -> tuple[str, ...]:
    field = getattr(option, "model_fields", {}).get(discriminator)
    if field is None or get_origin(field.annotation) is not Literal:
        return ()
    return get_args(field.annotation)


def _fields(model: Any) -> list[str]:
    return list(_options(model)[0].model_fields)
