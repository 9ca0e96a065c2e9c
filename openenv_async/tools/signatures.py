"""Tools made of functions: a schema from signature and docstring, and the call."""

from __future__ import annotations

import copy
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec

from ..errors import LocalProtocolError
from .models import ToolDescription

__all__ = ["RESERVED", "Tool", "make_tool"]

RESERVED: Final = frozenset({"reset", "step", "state", "close"})
"""Names that tools may not have: they are the trainer's, not the agent's."""

_SECTION: Final = re.compile(r"(\w[\w ]*):\s*")
_PARAMETER: Final = re.compile(r"(\w+)(?:\s*\([^)]*\))?:\s*(.*)")


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that a model may call.

    Args:
        attribute: Name of the method.
        arguments: What its arguments are decoded into.
        timeout: Seconds that a call may take; None has no bound of its own.
    """

    description: ToolDescription
    attribute: str
    arguments: type[msgspec.Struct]
    is_async: bool
    timeout: float | None

    def decode(self, arguments: Mapping[str, object]) -> dict[str, Any]:
        """Check arguments, and convert them to their types.

        As models write them: text that is a number counts as one.

        Raises:
            msgspec.ValidationError: They do not fit.
        """
        found = msgspec.convert(dict(arguments), self.arguments, strict=False)
        return {name: getattr(found, name) for name in self.arguments.__struct_fields__}


def make_tool(
    function: Callable[..., object],
    *,
    attribute: str,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
) -> Tool:
    """Make a tool of a method.

    Args:
        function: The method; all its parameters need type hints.
        attribute: The method's name in its class.
        name: The tool's name; by default the method's.
        description: For the model; by default the docstring up to its first section.
        timeout: Seconds for a call of a coroutine function.

    Raises:
        LocalProtocolError: It cannot be a tool; the message says why.
    """
    name = name or attribute
    if name in RESERVED:
        raise LocalProtocolError(
            f"expected a tool whose name is none of {sorted(RESERVED)!r}, got {name!r}"
        )
    is_async = inspect.iscoroutinefunction(function)
    if timeout is not None and not is_async:
        raise LocalProtocolError(
            f"expected a coroutine function for the tool {name!r} with a timeout: a "
            "blocking call cannot be stopped"
        )
    said, parameters = _docstring(function)
    arguments = _arguments(function, name, parameters)
    return Tool(
        description=ToolDescription(
            name=name,
            description=description or said,
            input_schema=_schema(arguments),
        ),
        attribute=attribute,
        arguments=arguments,
        is_async=is_async,
        timeout=timeout,
    )


def _arguments(
    function: Callable[..., object], name: str, described: Mapping[str, str]
) -> type[msgspec.Struct]:
    """A struct with a field for each parameter but the first."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise LocalProtocolError(
            f"expected type hints of the tool {name!r} that can be resolved: {error}"
        ) from error
    fields: list[Any] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind not in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            raise LocalProtocolError(
                f"expected parameters with names for the tool {name!r}, "
                f"got {str(parameter)!r}"
            )
        if parameter.name not in hints:
            raise LocalProtocolError(
                f"expected a type hint for {parameter.name!r} of the tool {name!r}"
            )
        hint: Any = hints[parameter.name]
        if parameter.name in described:
            hint = Annotated[hint, msgspec.Meta(description=described[parameter.name])]
        fields.append((parameter.name, hint, *_default(parameter.default)))
    try:
        return msgspec.defstruct(
            name, fields, kw_only=True, forbid_unknown_fields=True, frozen=True
        )
    except (TypeError, ValueError) as error:
        raise LocalProtocolError(
            f"expected parameters that JSON can carry for the tool {name!r}: {error}"
        ) from error


def _default(default: object) -> tuple[object, ...]:
    if default is inspect.Parameter.empty:
        return ()
    if type(default) in (list, dict, set, bytearray):
        # A fresh one for each call, as nobody expects them to be shared.
        return (msgspec.field(default_factory=lambda: copy.deepcopy(default)),)
    return (default,)


def _schema(arguments: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a struct, with its own part at the top."""
    name = arguments.__name__
    try:
        (top,), shared = msgspec.json.schema_components(
            [arguments], ref_template="#/$defs/{name}"
        )
    except TypeError as error:
        raise LocalProtocolError(
            f"expected parameters that have a JSON Schema for the tool {name!r}: "
            f"{error}"
        ) from error
    own = shared.pop(str(top["$ref"]).rpartition("/")[2])
    own.pop("title", None)
    return {**own, "$defs": shared} if shared else own


def _docstring(function: Callable[..., object]) -> tuple[str, dict[str, str]]:
    """The text before the first section, and what `Args:` says of each parameter."""
    said: list[str] = []
    parameters: dict[str, str] = {}
    section, last = "", ""
    for line in (inspect.getdoc(function) or "").splitlines():
        heading = _SECTION.fullmatch(line)
        if heading is not None:
            section, last = heading[1], ""
        elif not section:
            said.append(line)
        elif section in ("Args", "Arguments", "Parameters") and line.strip():
            found = _PARAMETER.fullmatch(line.strip())
            indent = len(line) - len(line.lstrip())
            if found is not None and (indent <= 4 or not last):
                last = found[1]
                parameters[last] = found[2]
            elif last:
                parameters[last] = f"{parameters[last]} {line.strip()}".strip()
    return "\n".join(said).strip(), parameters
