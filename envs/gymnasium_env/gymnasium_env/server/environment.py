"""Any Gymnasium environment as an `Environment`, and the factory that describes it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import threading
import uuid
from collections.abc import Callable
from importlib.metadata import version
from time import monotonic
from typing import Any

import gymnasium
import msgspec

from openenv_async import (
    Array,
    Environment,
    EnvironmentMetadata,
    EnvironmentSpec,
    InvalidAction,
    LocalProtocolError,
)

from ..models import (
    GymnasiumAction,
    GymnasiumObservation,
    GymnasiumState,
    Value,
    from_numpy,
)
from .spaces import ActionDecoder, space_codec

__all__ = ["GymnasiumEnvironment", "gymnasium_environment"]

_logger = logging.getLogger("openenv_async.server")

_Env = gymnasium.Env[Any, Any]

_drawing = threading.Lock()
"""Held while something is drawn or closed: what closes calls `pygame.quit()`, which
takes the ground from under everybody else's drawing in this process."""


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What all instances of one environment share."""

    id: str
    make: Callable[[], _Env]
    decode_action: ActionDecoder
    encode_observation: Callable[[Any], Value]
    observation_type: type[GymnasiumObservation]
    max_episode_steps: int | None
    frames: bool
    """Whether its render mode gives frames."""


def gymnasium_environment(
    id: str,
    *,
    module: str | None = None,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    **arguments: object,
) -> EnvironmentSpec:
    """Describe a Gymnasium environment, so that it can be served.

    It is made once here, to learn its spaces, and closed again.

    Args:
        id: As in `gymnasium.make`; also the name under which it is served.
        module: Imported first, to register the id; `ale_py` is known for `ALE/...`.
        render_mode: As in `gymnasium.make`; by default frames, where it can give them.
        max_episode_steps: Overrides when an episode is truncated.
        arguments: For the environment, as in `gymnasium.make`.

    Raises:
        UnsupportedSpace: It has a space whose elements cannot travel.
        LocalProtocolError: There is no such environment, or it cannot be made.
    """
    _register(id, module)
    mode = render_mode

    def make() -> _Env:
        try:
            # No checker: codecs and decoder check every value, not just the first.
            return gymnasium.make(
                id,
                max_episode_steps=max_episode_steps,
                disable_env_checker=True,
                render_mode=mode,
                **arguments,
            )
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            raise LocalProtocolError(
                f"expected a Gymnasium environment {id!r}: {error}"
            ) from error

    env = make()
    try:
        if mode is None and "rgb_array" in env.metadata.get("render_modes", ()):
            mode = "rgb_array"
        kind, action_type = _describe(id, env, make, frames=mode in _FRAMES)
        metadata = _metadata(id, env, mode)
    finally:
        env.close()
    return EnvironmentSpec(
        name=id,
        factory=lambda: GymnasiumEnvironment(kind),
        action_type=action_type,
        observation_type=kind.observation_type,
        state_type=GymnasiumState,
        execution="thread",
        metadata=metadata,
    )


_FRAMES = ("rgb_array", "ansi")
"""Render modes that give one frame at a time."""


def _register(id: str, module: str | None) -> None:
    if module is None and id.startswith("ALE/"):
        module = "ale_py"
    if module is None:
        return
    try:
        importlib.import_module(module)
    except ImportError as error:
        extra = ": install openenv-async-gymnasium-env[atari]" * (module == "ale_py")
        raise LocalProtocolError(
            f"expected an importable module that registers {id!r}, got {module!r}: "
            f"{error}{extra}"
        ) from error


def _describe(
    id: str, env: _Env, make: Callable[[], _Env], *, frames: bool
) -> tuple[_Kind, type[GymnasiumAction]]:
    actions = space_codec(env.action_space, "Action")
    observations = space_codec(env.observation_space, "Observation")
    action_type: type[GymnasiumAction] = _narrow(
        GymnasiumAction, action=actions.accepted
    )
    observation_type: type[GymnasiumObservation] = _narrow(
        GymnasiumObservation,
        observation=observations.observed,
        # For the schema: spelling out `Value` there would say no more.
        info=dict[str, Any],
    )
    kind = _Kind(
        id=id,
        make=make,
        decode_action=ActionDecoder(env.action_space, actions),
        encode_observation=observations.encode,
        observation_type=observation_type,
        max_episode_steps=None if env.spec is None else env.spec.max_episode_steps,
        frames=frames,
    )
    return kind, action_type


def _narrow(base: type[Any], **annotations: object) -> Any:
    """Subclass a struct so that some of its fields have other types."""
    body = {"__module__": base.__module__, "__doc__": base.__doc__}
    # A field that is declared again loses its default.
    defaults = {
        field.name: msgspec.field(default_factory=field.default_factory)
        for field in msgspec.structs.fields(base)
        if field.name in annotations and field.default_factory is not msgspec.NODEFAULT
    }
    namespace = {"__annotations__": annotations, **body, **defaults}
    metaclass: Any = type(base)
    return metaclass(base.__name__, (base,), namespace)


def _metadata(id: str, env: _Env, render_mode: str | None) -> EnvironmentMetadata:
    documentation = inspect.getdoc(type(env.unwrapped)) or ""
    extra: dict[str, object] = {
        "id": id,
        "gymnasium_version": gymnasium.__version__,
        "action_space": str(env.action_space),
        "observation_space": str(env.observation_space),
        "render_modes": list(env.metadata.get("render_modes", ())),
        "render_mode": render_mode,
        "render_fps": env.metadata.get("render_fps"),
    }
    if env.spec is not None:
        extra |= {
            "max_episode_steps": env.spec.max_episode_steps,
            "reward_threshold": env.spec.reward_threshold,
            "nondeterministic": env.spec.nondeterministic,
        }
    return EnvironmentMetadata(
        name=id,
        description=_first_paragraph(documentation) or f"{id} of Gymnasium",
        readme=documentation,
        version=version("openenv-async-gymnasium-env"),
        execution="thread",
        extra=extra,
    )


def _first_paragraph(text: str) -> str:
    """The first paragraph that is no Markdown heading."""
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return next((part for part in paragraphs if part and part[0] != "#"), "")


class GymnasiumEnvironment(
    Environment[GymnasiumAction, GymnasiumObservation, GymnasiumState]
):
    """Plays one Gymnasium environment; `gymnasium_environment` describes which.

    Args:
        kind: What it shares with other instances.
    """

    def __init__(self, kind: _Kind) -> None:
        self._kind = kind
        self._env = kind.make()
        self._renders = False
        """Whether it is known that rendering works."""
        self._episode_id: str | None = None
        self._seed: int | None = None
        self._steps = 0
        self._return = 0.0
        self._started = monotonic()

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> GymnasiumObservation:
        """Begin an episode.

        Args:
            seed: Passed on.
            episode_id: A random one if None.
            options: `render`: whether the observation comes with a frame. All others
                are passed on; arrays in them are decoded.

        Raises:
            InvalidAction: The options do not fit; the environment was not touched.
        """
        passed = dict(options or {})
        render = passed.pop("render", False)
        if not isinstance(render, bool):
            raise InvalidAction(
                f"expected a boolean as option 'render', got {render!r}"
            )
        if render:
            self._expect_frames()
        observation, info = self._env.reset(seed=seed, options=_plain(passed) or None)
        self._episode_id = episode_id or str(uuid.uuid4())
        self._seed = seed
        self._steps = 0
        self._return = 0.0
        self._started = monotonic()
        return self._observed(observation, info, render=render)

    def step(self, action: GymnasiumAction) -> GymnasiumObservation:
        """Perform an action.

        Raises:
            InvalidAction: The space does not contain the action, or a frame was asked
                for and cannot be had; the environment was not touched.
        """
        element = self._kind.decode_action(action.action)
        if action.render:
            self._try_rendering()
        observation, reward, terminated, truncated, info = self._env.step(element)
        reward = float(reward)
        self._steps += 1
        self._return += reward
        return self._observed(
            observation,
            info,
            render=action.render,
            reward=reward,
            terminated=bool(terminated),
            truncated=bool(truncated),
        )

    def state(self) -> GymnasiumState:
        """Tell where the episode stands."""
        return GymnasiumState(
            episode_id=self._episode_id,
            step_count=self._steps,
            id=self._kind.id,
            seed=self._seed,
            max_episode_steps=self._kind.max_episode_steps,
            episode_return=self._return,
            elapsed=0.0 if self._episode_id is None else monotonic() - self._started,
        )

    def close(self) -> None:
        """Close the environment."""
        with _drawing:
            self._env.close()

    def _observed(
        self,
        observation: object,
        info: dict[str, Any],
        *,
        render: bool,
        reward: float | None = None,
        terminated: bool = False,
        truncated: bool = False,
    ) -> GymnasiumObservation:
        values, left_out = _info_values(info) if info else ({}, [])
        return self._kind.observation_type(
            observation=self._kind.encode_observation(observation),
            info=values,
            frame=self._frame() if render else None,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            metadata={"info_left_out": left_out} if left_out else {},
        )

    # Rendering

    def _expect_frames(self) -> None:
        if not self._kind.frames:
            raise InvalidAction(
                f"expected no 'render': {self._kind.id!r} is served in render mode "
                f"{self._env.render_mode!r}, which gives no frames"
            )

    def _try_rendering(self) -> None:
        """Find out before the step whether its frame can be had.

        Afterwards the step could not be undone, and its observation would be lost.
        """
        self._expect_frames()
        if self._renders:
            return
        try:
            self._frame()
        except Exception as error:
            # Whatever the drawing library raises, the caller gets to see it.
            _logger.debug("= %s cannot render", self._kind.id, exc_info=True)
            raise InvalidAction(
                f"expected no 'render': {self._kind.id!r} cannot render: {error}"
            ) from error

    def _frame(self) -> Array | str:
        with _drawing:
            frame = self._env.render()
        self._renders = True
        return frame if isinstance(frame, str) else Array.of(frame)


def _info_values(info: dict[str, Any]) -> tuple[dict[str, Value], list[str]]:
    """What can travel, and the names of what cannot."""
    values: dict[str, Value] = {}
    left_out: list[str] = []
    for key, item in info.items():
        try:
            values[str(key)] = from_numpy(item)
        except TypeError:
            left_out.append(str(key))
    return values, left_out


def _plain(option: Any) -> Any:
    """Decode the arrays in options, which have no type that would have done so."""
    if isinstance(option, Array):
        return option.numpy()
    if isinstance(option, list | tuple):
        return [_plain(item) for item in option]
    if not isinstance(option, dict):
        return option
    if option.get("kind") != "array":
        return {key: _plain(item) for key, item in option.items()}
    try:
        return msgspec.convert(option, Array).numpy()
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidAction(f"expected an array in the options: {error}") from error
