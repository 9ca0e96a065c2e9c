"""Policies as the command line names them: `random`, `scripted:FILE`, and so on."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from ...arrays import encodable
from ...errors import LocalProtocolError
from ..adapters import ChatPolicy, RandomPolicy, ScriptedPolicy
from ..policies import AnyPolicy, EpisodeContext
from .manifest import EnvironmentRecord

__all__ = ["ChatSettings", "policy_from_spec"]

_METHODS: Final = ("act", "act_batch", "play")


class ChatSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where a chat model is, and what it is told."""

    base_url: str = ""
    """Such as `http://localhost:8000/v1`."""
    api_key: str = "none"
    system: str = ""
    """Told before everything else; empty tells the environment's description, and
    what actions look like."""
    sampling: dict[str, object] = msgspec.field(default_factory=dict[str, object])
    """More arguments for the endpoint, such as a temperature."""
    logprobs: bool = False


def policy_from_spec(
    spec: str, environment: EnvironmentRecord, *, chat: ChatSettings | None = None
) -> AnyPolicy[Any, Any]:
    """Build the policy that a text names.

    - `random`: any actions that the environment's schema allows.
    - `scripted:FILE`: the actions of a file of JSON lines, from the beginning again at
      its end.
    - `chat:MODEL`: a chat model, which is shown observations as JSON and answers with
      actions as JSON.
    - `module:object`: a policy, or a function or class that makes one without
      arguments.

    Args:
        spec: The text.
        environment: What the policy will act in.
        chat: For `chat:MODEL`.

    Raises:
        LocalProtocolError: It names none.
    """
    kind, _, rest = spec.partition(":")
    if spec == "random":
        return RandomPolicy(_action_schema(environment))
    if kind == "scripted" and rest:
        return ScriptedPolicy(_read_actions(Path(rest)), repeat=True)
    if kind == "chat" and rest:
        return _chat_policy(rest, environment, chat or ChatSettings())
    if kind and rest:
        return _imported(kind, rest)
    raise LocalProtocolError(
        "expected a policy as 'random', 'scripted:FILE', 'chat:MODEL' or "
        f"'module:object', got {spec!r}"
    )


def _action_schema(environment: EnvironmentRecord) -> Mapping[str, Any]:
    schema = environment.json_schema.get("action")
    if not isinstance(schema, dict):
        raise LocalProtocolError(
            f"expected a JSON Schema of the actions of {environment.name!r}, got none"
        )
    return cast(dict[str, Any], schema)


def _read_actions(path: Path) -> list[object]:
    try:
        return [
            msgspec.json.decode(line)
            for line in path.read_bytes().splitlines()
            if line.strip()
        ]
    except (OSError, msgspec.DecodeError) as error:
        raise LocalProtocolError(
            f"expected a file with one action in JSON on each line at {str(path)!r}: "
            f"{error}"
        ) from error


def _imported(module: str, name: str) -> AnyPolicy[Any, Any]:
    found: Any = _found(module, name)
    if inspect.isclass(found) or not _is_policy(found):
        if not callable(found):
            raise _no_policy(module, name, found)
        try:
            found = found()
        except Exception as error:
            raise LocalProtocolError(
                f"expected to make a policy with '{module}:{name}', without arguments, "
                f"got {_described(error)}"
            ) from error
    if not _is_policy(found):
        raise _no_policy(module, name, found)
    policy: AnyPolicy[Any, Any] = found
    return policy


def _found(module: str, name: str) -> object:
    imported: object = None
    try:
        found: Any = importlib.import_module(module)
        imported = found
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        text = f"expected a policy at '{module}:{name}': {error}"
        places = [str(place) for place in getattr(imported, "__path__", ())]
        if places and getattr(imported, "__file__", None) is None:
            text += f" ({module!r} is a folder without `__init__.py`: {places!r})"
        raise LocalProtocolError(text) from error
    except Exception as error:
        raise LocalProtocolError(
            f"expected a policy at '{module}:{name}': {_described(error)}"
        ) from error
    return found


def _described(error: Exception) -> str:
    """An exception of somebody's code, and where it was raised."""
    *_, last = traceback.extract_tb(error.__traceback__)
    where = f" (at {last.filename}:{last.lineno})"
    return "".join(traceback.format_exception_only(error)).strip() + where


def _is_policy(found: object) -> bool:
    return any(callable(getattr(found, method, None)) for method in _METHODS)


def _no_policy(module: str, name: str, found: object) -> LocalProtocolError:
    return LocalProtocolError(
        f"expected something with a method of {_METHODS!r} at '{module}:{name}', got "
        f"{type(found).__name__}"
    )


# Chat models


def _chat_policy(
    model: str, environment: EnvironmentRecord, settings: ChatSettings
) -> ChatPolicy[Any, Any]:
    if not settings.base_url:
        raise LocalProtocolError(
            f"expected the address of the server of {model!r}, such as "
            "http://localhost:8000/v1, got none"
        )
    return ChatPolicy(
        model,
        base_url=settings.base_url,
        api_key=settings.api_key,
        system=settings.system or _instructions(environment),
        sampling=settings.sampling,
        logprobs=settings.logprobs,
        render=_rendered,
        parse=_parsed,
    )


def _instructions(environment: EnvironmentRecord) -> str:
    description = str(environment.metadata.get("description") or environment.name)
    schema = msgspec.json.encode(_action_schema(environment)).decode()
    return (
        f"You act in an environment. {description}\n"
        "Each message shows you what you observe, as JSON. Answer with your next "
        f"action and nothing else: JSON that fits this schema.\n{schema}"
    )


def _rendered(observation: object, _episode: EpisodeContext) -> str:
    return msgspec.json.encode(observation, enc_hook=encodable).decode()


def _parsed(answer: str, _episode: EpisodeContext) -> object:
    """The first JSON object in an answer; models like to put words around it.

    Raises:
        ValueError: There is none.
    """
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise ValueError(f"expected an action as JSON, got {answer[:200]!r}")
    action: object = msgspec.json.decode(answer[start : end + 1])
    return action
