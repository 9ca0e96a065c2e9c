"""What the author of an environment with tools subclasses."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeVar, assert_never, cast, overload

import msgspec

from ..environment import Environment, State
from ..errors import LocalProtocolError, OpenEnvError
from .models import (
    CallTool,
    EpisodeBegun,
    ListTools,
    ToolAction,
    ToolCalled,
    ToolError,
    ToolErrorType,
    ToolFailure,
    ToolObservation,
    ToolResult,
    ToolsListed,
)
from .signatures import Tool, make_tool

__all__ = ["ToolEnvironment", "tool"]

_MARK: Final = "_openenv_async_tool"

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])


@dataclasses.dataclass(frozen=True)
class _Marked:
    """What `tool` was told about a method."""

    name: str | None
    description: str | None
    timeout: float | None


@overload
def tool(function: FunctionT, /) -> FunctionT: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
) -> Callable[[FunctionT], FunctionT]: ...


def tool(
    function: FunctionT | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
) -> FunctionT | Callable[[FunctionT], FunctionT]:
    """Make a method of a `ToolEnvironment` a tool that its agent may call.

    Args:
        function: The method; plain or a coroutine function.
        name: What the agent calls it; by default the method's name.
        description: For the agent; by default the docstring up to its first section.
        timeout: Seconds for a call of a coroutine function, after which the agent is
            told that the call took too long.
    """

    def mark(method: FunctionT) -> FunctionT:
        setattr(method, _MARK, _Marked(name, description, timeout))
        return method

    return mark if function is None else mark(function)


class ToolEnvironment(Environment[ToolAction, ToolObservation, State]):
    """An environment whose actions are calls of its methods.

    Mark methods with `@tool`. Their parameters' type hints are what arguments are
    checked against and what the schema is made of; docstrings describe them. A tool
    returns a value, or a `ToolResult` to give a reward or to end the episode.

    An exception in a tool is an answer to the agent, an error of type
    `execution_error`; it raises `ToolFailure` to say more. Those in `fatal` are none:
    they end the episode, like those of any environment, because what they tell of is
    not the agent's doing.

    By default it runs on the event loop if all its tools are coroutine functions, and
    in threads otherwise.
    """

    tools: ClassVar[Mapping[str, Tool]] = MappingProxyType({})
    """Its tools by name; filled in from the marked methods."""
    fatal: ClassVar[tuple[type[Exception], ...]] = (OpenEnvError,)
    """Exceptions that are not the agent's business."""

    _chosen: ClassVar[bool] = False
    """Whether an author said where to run."""
    _episode_id: str | None = None
    _calls: int = 0

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        found: dict[str, Tool] = {}
        for attribute in dir(cls):
            method: object = getattr(cls, attribute, None)
            marked: object = getattr(method, _MARK, None)
            if not isinstance(marked, _Marked):
                continue
            made = make_tool(
                cast(Callable[..., object], method),
                attribute=attribute,
                **dataclasses.asdict(marked),
            )
            name = made.description.name
            if name in found:
                raise LocalProtocolError(
                    f"expected tools of {cls.__qualname__!r} with different names, "
                    f"got {name!r} twice"
                )
            found[name] = made
        cls.tools = MappingProxyType(found)
        if "execution" in vars(cls):
            cls._chosen = True
        elif not cls._chosen and found:
            is_async = all(each.is_async for each in found.values())
            cls.execution = "inline" if is_async else "thread"

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> ToolObservation | Awaitable[ToolObservation]:
        """Start an episode; overriding methods call this one."""
        self._episode_id, self._calls = episode_id, 0
        return EpisodeBegun()

    def step(self, action: ToolAction) -> ToolObservation | Awaitable[ToolObservation]:
        """List the tools, or call one."""
        match action:
            case ListTools():
                return ToolsListed(
                    tools=[each.description for each in self.tools.values()]
                )
            case CallTool():
                return self._call(action)
            case _:
                assert_never(action)

    def state(self) -> State | Awaitable[State]:
        """The episode's id, and how many calls there were."""
        return State(episode_id=self._episode_id, step_count=self._calls)

    def _call(self, call: CallTool) -> ToolCalled | Awaitable[ToolCalled]:
        self._calls += 1
        name = call.tool_name
        found = self.tools.get(name)
        if found is None:
            text = f"expected one of {sorted(self.tools)!r}, got {name!r}"
            return _failed(name, "tool_not_found", text)
        try:
            arguments = found.decode(call.arguments)
        except msgspec.ValidationError as error:
            return _failed(name, "invalid_args", str(error))
        method: Callable[..., Any] = getattr(self, found.attribute)
        if found.is_async:
            return self._awaited(found, method(**arguments))
        try:
            value: object = method(**arguments)
        except Exception as error:  # noqa: BLE001 (an author's; it becomes an answer)
            return self._raised(name, error)
        return _answered(name, value)

    async def _awaited(self, found: Tool, running: Awaitable[object]) -> ToolCalled:
        name = found.description.name
        limit = asyncio.timeout(found.timeout)
        try:
            async with limit:
                value = await running
        except Exception as error:  # noqa: BLE001 (an author's; it becomes an answer)
            if isinstance(error, TimeoutError) and limit.expired():
                text = f"expected a result within {found.timeout} s"
                return _failed(name, "timeout", text)
            return self._raised(name, error)
        return _answered(name, value)

    def _raised(self, name: str, error: Exception) -> ToolCalled:
        """The answer that an exception of a tool is.

        Raises:
            Exception: The same, where it is not the agent's business.
        """
        if isinstance(error, ToolFailure):
            return _failed(name, error.error_type, str(error), reward=error.reward)
        if isinstance(error, self.fatal):
            raise error
        text = str(error)
        kind = type(error).__name__
        return _failed(name, "execution_error", f"{kind}: {text}" if text else kind)


def _answered(name: str, value: object) -> ToolCalled:
    if not isinstance(value, ToolResult):
        return ToolCalled(tool_name=name, result=value)
    return ToolCalled(
        tool_name=name,
        result=value.value,
        reward=value.reward,
        terminated=value.terminated,
        truncated=value.truncated,
        metadata=value.metadata,
    )


def _failed(
    name: str, kind: ToolErrorType, text: str, *, reward: float | None = None
) -> ToolCalled:
    error = ToolError(error_type=kind, message=text)
    return ToolCalled(tool_name=name, error=error, reward=reward)
