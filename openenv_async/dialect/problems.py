"""What is wrong with a client's frame, told as OpenEnv tells it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

__all__ = [
    "FrameProblem",
    "explain",
    "invalid_json",
    "validation_error",
    "validation_errors",
]

_INPUT: Final = 1024
"""Characters of a wrong value that are sent back."""
_WHERE: Final = re.compile(r" - at `(?:key in )?\$(?P<path>.*?)`\.?$")
_PART: Final = re.compile(r"\.(?P<name>[^.\[\]]+)|\[(?P<index>[^\]]*)\]")
_MISSING: Final = re.compile(r"missing required field `(?P<name>.*?)`")
_UNKNOWN: Final = re.compile(r"contains unknown field `(?P<name>.*?)`")
_EXPECTED: Final = re.compile(r"Expected `(?P<kind>\w+)[^`]*`(?P<bound> [<>]=?| of)?")
_BOUNDS: Final = {
    " <=": "less_than_equal",
    " <": "less_than",
    " >=": "greater_than_equal",
    " >": "greater_than",
    " of": "length",
}
"""pydantic's name of an error, by the bound that a value does not keep."""
_KINDS: Final = {
    "int": "int_type",
    "float": "float_type",
    "str": "string_type",
    "bool": "bool_type",
    "array": "list_type",
    "object": "dict_type",
    "bytes": "bytes_type",
}
"""pydantic's name of an error, by the type that was expected."""


class FrameProblem(Exception):
    """A frame that cannot be taken, with the error that answers it.

    Args:
        code: OpenEnv's code.
        message: OpenEnv's text.
        errors: What does not fit, in pydantic's form.
    """

    def __init__(
        self, code: str, message: str, errors: list[dict[str, object]] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.errors = errors


def invalid_json(error: Exception) -> FrameProblem:
    """The answer to what is no JSON; `NaN` and infinities are none either."""
    return FrameProblem("INVALID_JSON", f"Invalid JSON: {error}")


def explain(found: object, fields: Mapping[str, bool | None]) -> FrameProblem | None:
    """Find what is wrong with a frame's keys; None if nothing is.

    Args:
        found: The decoded frame.
        fields: By type: whether `data` is required; None where it is not allowed.
    """
    if not isinstance(found, dict):
        return _invalid([validation_error("dict_type", [], found)])
    frame = cast(dict[str, object], found)
    kind = frame.get("type", "")
    if not isinstance(kind, str) or kind not in fields:
        text = f"Unknown message type: {kind}"
        return FrameProblem("UNKNOWN_TYPE", text[:_INPUT])
    required = fields[kind]
    errors: list[dict[str, object]] = []
    if required and "data" not in frame:
        errors.append(validation_error("missing", ["data"], frame))
    elif required is not None and not isinstance(frame.get("data", {}), dict):
        errors.append(validation_error("dict_type", ["data"], frame["data"]))
    allowed = {"type"} if required is None else {"type", "data"}
    errors.extend(
        validation_error("extra_forbidden", [key], value)
        for key, value in frame.items()
        if key not in allowed
    )
    return _invalid(errors) if errors else None


def _invalid(errors: list[dict[str, object]]) -> FrameProblem:
    return FrameProblem("VALIDATION_ERROR", "Invalid message", errors)


_TEXTS: Final = {
    "missing": "Field required",
    "extra_forbidden": "Extra inputs are not permitted",
    "dict_type": "Input should be a valid dictionary",
}


def validation_error(
    kind: str, where: list[str | int], found: object, text: str = ""
) -> dict[str, object]:
    """One problem in pydantic's form; a large value is left out."""
    small = found if len(repr(found)) <= _INPUT else f"<{type(found).__name__}>"
    return {
        "type": kind,
        "loc": where,
        "msg": text or _TEXTS.get(kind, "Input is not valid"),
        "input": small,
    }


def validation_errors(message: str, found: object) -> list[dict[str, object]]:
    """What a decoder said about an action, in pydantic's form.

    Args:
        message: Text of msgspec's `ValidationError`, whatever stands before it.
        found: The decoded action.
    """
    where, place = _place(message)
    text = _WHERE.sub("", message)
    kind = "value_error"
    if name := _MISSING.search(text):
        return [validation_error("missing", [*where, name["name"]], found)]
    if name := _UNKNOWN.search(text):
        where, kind = [*where, name["name"]], "extra_forbidden"
        text = ""
        place = [*place, name["name"]]
    elif expected := _EXPECTED.search(text):
        kind = _BOUNDS.get(expected["bound"] or "") or _KINDS.get(
            expected["kind"], kind
        )
        text = text[expected.start() :]
    return [validation_error(kind, where, _look_up(found, place), text)]


def _place(message: str) -> tuple[list[str | int], list[str | int]]:
    match = _WHERE.search(message)
    parts: list[str | int] = []
    for part in _PART.finditer(match["path"] if match else ""):
        if part["name"] is not None:
            parts.append(part["name"])
        elif part["index"].isdigit():
            parts.append(int(part["index"]))
        else:
            # msgspec does not say which item of an array it was.
            break
    return parts, list(parts)


def _look_up(found: object, place: list[str | int]) -> object:
    for part in place:
        try:
            found = cast(dict[object, object], found)[part]
        except (LookupError, TypeError):
            break
    return found
