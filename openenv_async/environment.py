"""What an environment author subclasses, and how a server finds it.

An environment is a class with `reset`, `step` and `state`, typed by three structs.
The same types drive decoding, validation, JSON Schema and the typed client, so there
is nothing else to write.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import (
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    TypeGuard,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)
from urllib.parse import parse_qsl

import msgspec

from .errors import LocalProtocolError

__all__ = [
    "ENTRY_POINTS",
    "Action",
    "Affinity",
    "AnyEnvironment",
    "Environment",
    "EnvironmentMetadata",
    "EnvironmentSpec",
    "Execution",
    "Observation",
    "State",
    "find_spec",
    "type_arguments",
]

ENTRY_POINTS: Final = "openenv_async.environments"
"""The entry point group in which an environment's distribution announces itself."""

Execution = Literal["inline", "thread", "process", "isolated"]
"""Where an environment runs: on the event loop, in a thread, in a worker process that
it shares with other sessions, or in one that its session has for itself."""

Affinity = Literal["none", "session", "all"]
"""Whether blocking calls may come from any thread, always come from one thread of the
session's own, or from one thread for all sessions."""

_SCHEMES: Final = {"openenv": "openenv_async.openenv.hosting:host"}
"""Factories of specs for environments of other frameworks, by the word before the first
of two colons in what to serve. Import paths, because most servers need none of them."""

# The plain type, because msgspec builds its instances without calling anything.
_fields = cast(Callable[[], dict[str, Any]], dict)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,)
)
class _Record(msgspec.Struct, frozen=True):
    """A struct whose subclasses are frozen, and keyword-only for type checkers.

    A metaclass of our own could enforce the latter at run time too, but it makes
    building a struct three times slower, which is a twentieth of a step.
    """


class Action(_Record, kw_only=True, forbid_unknown_fields=True):
    """What an agent does: subclass it and add fields.

    A field that the type does not have is an error, so that a typo is not silently
    an action with a default. Give subclasses a `tag` to use several in a union.
    """


class Observation(_Record, kw_only=True, omit_defaults=True):
    """What an agent sees: subclass it and add fields."""

    reward: float | None = None
    """Reward of the step that led here; None where there is none, as after reset."""
    terminated: bool = False
    """The task reached its end: no value follows this observation."""
    truncated: bool = False
    """The episode was cut off: the task would have gone on."""
    metadata: dict[str, Any] = msgspec.field(default_factory=_fields)
    """Whatever else is worth recording; not meant for the policy."""

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


class State(_Record, kw_only=True, omit_defaults=True):
    """What describes an environment's episode: subclass it and add fields."""

    episode_id: str | None = None
    step_count: int = 0


class EnvironmentMetadata(_Record, kw_only=True):
    """What a server tells about an environment at `/metadata`."""

    name: str
    description: str = ""
    version: str = ""
    author: str = ""
    readme: str = ""
    documentation_url: str = ""
    execution: Execution = "thread"
    extra: dict[str, Any] = msgspec.field(default_factory=_fields)
    """Facts of the environment's own, such as what fences its code."""


ActT = TypeVar("ActT")
ObsT = TypeVar("ObsT", bound=Observation)
StateT = TypeVar("StateT", bound=State)


class Environment(ABC, Generic[ActT, ObsT, StateT]):
    """One environment: one episode at a time, one call at a time.

    Subclass it with three types, `Environment[MyAction, MyObservation, MyState]`.
    Every method may be `async` or not. By default an environment with an async `step`
    runs on the event loop and one with a blocking `step` in a thread; `execution`
    says otherwise, and the operator has the last word.

    A session has an instance of its own, built at its first reset. Calls never
    overlap. An exception in `step` or `reset` reaches the caller with its traceback
    and ends the episode, because nobody knows what state it left; raise
    `InvalidAction` before changing anything to refuse an action and go on.
    """

    name: ClassVar[str] = ""
    """What clients open it by; the class's name in snake case where it is empty."""
    execution: ClassVar[Execution | None] = None
    """Where to run; None chooses by whether `step` is async."""
    affinity: ClassVar[Affinity] = "none"
    """Whether its blocking calls, its constructor's too, have to be on one thread."""
    any_order: ClassVar[bool] = False
    """Whether OpenEnv's clients may step before a reset, after the end or an error."""
    action_type: ClassVar[Any] = None
    """Filled in from the type arguments."""
    observation_type: ClassVar[Any] = None
    """Filled in from the type arguments."""
    state_type: ClassVar[Any] = None
    """Filled in from the type arguments."""

    _report: Callable[[float | None, str], None] | None = None
    _building: bool = False
    """Whether what it stands for is still to be built; failing until then is told."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        found = type_arguments(cls, Environment)
        if found is not None:
            cls.action_type, cls.observation_type, cls.state_type = found

    @abstractmethod
    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> ObsT | Awaitable[ObsT]:
        """Start an episode and return its first observation.

        Args:
            seed: Makes the episode repeatable; None chooses any.
            episode_id: The caller's name for the episode.
            options: What this environment documents, such as the choice of a task.
        """

    @abstractmethod
    def step(self, action: ActT) -> ObsT | Awaitable[ObsT]:
        """Perform an action and return what follows.

        An async `step` may be cancelled at any `await` by a deadline or by its caller.
        """

    @abstractmethod
    def state(self) -> StateT | Awaitable[StateT]:
        """Describe the episode without changing it."""

    def close(self) -> Awaitable[None] | None:
        """Give back what the environment holds; called once, at the session's end."""
        return None

    @classmethod
    async def shutdown(cls) -> None:
        """Give back what the environments of this class share; the default has nothing.

        Called at the end of a server, in each process that has run some of them, after
        the last one is closed.
        """

    def report_progress(self, fraction: float | None = None, message: str = "") -> None:
        """Tell the caller where a long step stands; callable from any thread.

        Args:
            fraction: Share that is done, from 0 to 1, if known.
            message: For humans.
        """
        if self._report is not None:
            self._report(fraction, message)

    @classmethod
    def metadata(cls) -> EnvironmentMetadata:
        """Describe the environment; the default takes name and docstring."""
        return EnvironmentMetadata(
            name=environment_name(cls), description=inspect.getdoc(cls) or ""
        )


AnyEnvironment = Environment[Any, Any, Any]
"""An environment of any types."""


def environment_name(cls: type[AnyEnvironment]) -> str:
    """The name that clients open an environment by."""
    return cls.name or name_of_class(cls)


def name_of_class(cls: type) -> str:
    """A class's name in snake case, without `Environment` at its end."""
    plain = cls.__name__.removesuffix("Environment") or cls.__name__
    return "".join(
        f"_{letter.lower()}" if letter.isupper() and position else letter.lower()
        for position, letter in enumerate(plain)
    )


def type_arguments(cls: type, generic: type) -> tuple[object, ...] | None:
    """The concrete types that a class gives to one of its generic bases, if any."""
    found = _arguments(cls, generic)
    if found is None or any(isinstance(argument, TypeVar) for argument in found):
        return None
    return found


def _arguments(cls: type, generic: type) -> tuple[object, ...] | None:
    """The same, with variables in it where the class is generic itself."""
    for base in _bases(cls):
        origin = get_origin(base)
        if not isinstance(origin, type) or not issubclass(origin, generic):
            continue
        given = get_args(base)
        if origin is generic:
            return given
        # A generic class in between, whose parameters may be fewer.
        inner = _arguments(origin, generic)
        if inner is not None:
            values = dict(zip(vars(origin)["__parameters__"], given, strict=True))
            return tuple(
                values.get(argument, argument)
                if isinstance(argument, TypeVar)
                else argument
                for argument in inner
            )
    return None


def _bases(cls: type) -> tuple[object, ...]:
    return cast(tuple[object, ...], cls.__dict__.get("__orig_bases__", cls.__bases__))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """How to build one kind of environment, and what its messages look like.

    Args:
        name: What clients open it by.
        factory: Builds an instance; called once a session.
        target: Import path from which a worker process finds the same spec.
    """

    name: str
    factory: Callable[[], AnyEnvironment]
    action_type: Any
    observation_type: Any
    state_type: Any
    execution: Execution
    metadata: EnvironmentMetadata
    target: str = ""
    async_methods: frozenset[str] = frozenset()
    """Which of reset, step, state and close are coroutine functions."""
    affinity: Affinity = "none"
    """What its blocking calls need of threads."""
    schemas: Mapping[str, Any] | None = None
    """JSON Schemas by `action`, `observation` and `state`; None asks the types."""
    any_order: bool = False
    """Whether OpenEnv's clients may step before a reset, after the end or an error."""
    tools: bool = False
    """Whether it takes the actions `list_tools` and `call_tool`, whatever its types."""
    tasks: Callable[[], object] | None = None
    """Builds what lists the environment's tasks, for OpenEnv's routes; None has none.

    Any of `list_splits`, `list_tasks`, `num_tasks`, `get_task` and `get_task_range`.
    """
    shutdown: Callable[[], Awaitable[None]] | None = None
    """Gives back what all its environments share, at the end of a server."""

    @classmethod
    def of(
        cls,
        environment: type[AnyEnvironment],
        *,
        arguments: Mapping[str, object] | None = None,
        execution: Execution | None = None,
        name: str | None = None,
        target: str | None = None,
    ) -> EnvironmentSpec:
        """Describe a class of environments.

        Args:
            environment: The class.
            arguments: Keyword arguments for its constructor.
            execution: Overrides what the class says.
            name: Overrides what the class says.
            target: Import path for worker processes; by default the class's own.

        Raises:
            LocalProtocolError: The class is abstract or names no types.
        """
        if not _is_environment(environment):
            raise LocalProtocolError(
                f"expected a subclass of Environment, got {environment!r}"
            )
        if inspect.isabstract(environment):
            missing = ", ".join(sorted(environment.__abstractmethods__))
            raise LocalProtocolError(
                f"expected an environment with all methods, got "
                f"{environment.__qualname__!r} without {missing}"
            )
        if environment.action_type is None:
            raise LocalProtocolError(
                f"expected {environment.__qualname__}(Environment[Action, Observation, "
                "State]) with three types, got none"
            )
        given = dict(arguments or {})
        chosen = execution or environment.execution
        if chosen is None:
            is_async = inspect.iscoroutinefunction(environment.step)
            chosen = "inline" if is_async else "thread"
        metadata = environment.metadata()
        name = name or environment_name(environment)
        if target is None:
            importable = "<locals>" not in environment.__qualname__
            target = f"{environment.__module__}:{environment.__qualname__}"
            target = "" if given or not importable else target
        factory = (lambda: environment(**given)) if given else environment
        return cls(
            name=name,
            factory=factory,
            action_type=environment.action_type,
            observation_type=environment.observation_type,
            state_type=environment.state_type,
            execution=chosen,
            metadata=msgspec.structs.replace(metadata, name=name, execution=chosen),
            target=target,
            async_methods=frozenset(
                method
                for method in ("reset", "step", "state", "close")
                if inspect.iscoroutinefunction(getattr(environment, method))
            ),
            shutdown=environment.shutdown,
            affinity=environment.affinity,
            any_order=environment.any_order,
            tasks=factory if hasattr(environment, "list_splits") else None,
        )

    def with_name(self, name: str) -> EnvironmentSpec:
        """The same environment under another name."""
        metadata = msgspec.structs.replace(self.metadata, name=name)
        return dataclasses.replace(self, name=name, metadata=metadata)

    def with_execution(self, execution: Execution | None) -> EnvironmentSpec:
        """The same environment in another place; None leaves it where it is."""
        if execution is None:
            return self
        metadata = msgspec.structs.replace(self.metadata, execution=execution)
        return dataclasses.replace(self, execution=execution, metadata=metadata)


def find_spec(target: str, *, execution: Execution | None = None) -> EnvironmentSpec:
    """Find an environment by name or import path.

    Args:
        target: `package`, `package:Attribute` or an entry point's name; behind a `?`
            arguments for the class or factory, as in `gymnasium_env?id=CartPole-v1`.
            `openenv:package:Attribute` hosts an environment, or an application, that
            was written for OpenEnv.
        execution: Overrides what the environment says.

    Raises:
        LocalProtocolError: Nothing is there, or it is no environment.
    """
    path, _, query = target.partition("?")
    arguments = {key: _literal(value) for key, value in parse_qsl(query)}
    scheme, _, rest = path.partition(":")
    if scheme in _SCHEMES and ":" in rest:
        path, arguments = _SCHEMES[scheme], {"target": rest, **arguments}
    found = _find_object(path)
    takes_arguments = True
    if callable(found) and not isinstance(found, type):
        found = _call(found, arguments, target)
        takes_arguments = False
    if isinstance(found, EnvironmentSpec):
        return dataclasses.replace(found, target=target).with_execution(execution)
    if not _is_environment(found):
        raise LocalProtocolError(
            f"expected an Environment class at {target!r}, got {found!r}"
        )
    if takes_arguments and arguments:
        _check_arguments(found, arguments, target)
    return EnvironmentSpec.of(
        found,
        arguments=arguments if takes_arguments else None,
        execution=execution,
        target=target,
    )


def _is_environment(found: object) -> TypeGuard[type[AnyEnvironment]]:
    return isinstance(found, type) and issubclass(found, Environment)


def _literal(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _call(
    factory: Callable[..., object], arguments: dict[str, object], target: str
) -> object:
    _check_arguments(factory, arguments, target)
    return factory(**arguments)


def _check_arguments(
    factory: Callable[..., object], arguments: dict[str, object], target: str
) -> None:
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise LocalProtocolError(
            f"expected arguments that fit {target!r}: {error}"
        ) from error


def _find_object(path: str) -> object:
    module_name, _, attribute = path.partition(":")
    if not attribute:
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            if entry.name == module_name:
                return cast(object, entry.load())
    try:
        if not module_name or module_name.startswith("."):
            raise ImportError("not the name of a module")
        module = importlib.import_module(module_name)
    except ImportError as error:
        known = sorted(
            entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)
        )
        raise LocalProtocolError(
            f"expected an importable package or one of {known!r}, got "
            f"{module_name!r}: {error}"
        ) from error
    if attribute:
        found: object = module
        for part in attribute.split("."):
            found = getattr(found, part, None)
        if found is None:
            raise LocalProtocolError(
                f"expected {attribute!r} in {module_name!r}, got nothing of that name"
            )
        return found
    candidates = [
        value
        for value in vars(module).values()
        if _is_environment(value) and not inspect.isabstract(value)
    ]
    if len(candidates) != 1:
        names = sorted(candidate.__name__ for candidate in candidates)
        raise LocalProtocolError(
            f"expected exactly one Environment in {module_name!r}, got {names!r}: "
            f"name one as {module_name}:NAME"
        )
    return candidates[0]
