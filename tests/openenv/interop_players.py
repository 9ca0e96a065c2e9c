"""Our clients play scripts, and what any client sees in a form that can be compared.

Clients differ in how they show the same thing: ours splits `done` and has exceptions
of its own. What is compared is what all of them show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from openenv_async import EnvironmentFailed, GenericEnv, InvalidAction
from openenv_async.openenv import GenericEnvClient, MCPToolClient
from openenv_async.openenv.errors import ServerError

from .interop_scripts import Call, Script

__all__ = ["PLAYERS", "Frame", "comparable", "meant"]

Frame = dict[str, Any]

_KINDS: Final = {
    InvalidAction: "VALIDATION_ERROR",
    EnvironmentFailed: "EXECUTION_ERROR",
}
"""OpenEnv's codes for exceptions of ours."""
_BESIDE: Final = ("reward", "done", "terminated", "truncated", "type")
"""What some clients show as a part of the observation, and others beside it."""
_CODE: Final = re.compile(r"\(code: (\w+)\)")
_GIVEN: Final = "e"
"""The episode's id in scripts that give one; others are the environment's choice."""


async def _play(
    env: Any,
    script: Script,
    act: Callable[[Any, Call], Coroutine[Any, Any, Frame]],
) -> list[Frame]:
    seen: list[Frame] = []
    async with env:
        for call in script:
            try:
                seen.append(await act(env, call))
            except ServerError as error:
                seen.append({"raised": str(error)})
            except (InvalidAction, EnvironmentFailed) as error:
                seen.append({"raised": f"(code: {_KINDS[type(error)]})"})
    return seen


# With OpenEnv's interface


async def _play_dialect(url: str, script: Script) -> list[Frame]:
    tools = any(what in ("tools", "call") for what, _ in script)
    kind = MCPToolClient if tools else GenericEnvClient
    return await _play(kind(base_url=url), script, _call_dialect)


async def _call_dialect(env: Any, call: Call) -> Frame:
    what, given = call
    match what:
        case "reset":
            return _seen(await env.reset(**given))
        case "step":
            return _seen(await env.step(dict(given)))
        case "state":
            return {"state": await env.state()}
        case "tools":
            return {"tools": sorted(tool.name for tool in await env.list_tools())}
        case _:
            return {"called": await env.call_tool(given["name"], **given["to"])}


# With our own


async def _play_native(url: str, script: Script) -> list[Frame]:
    async def begun(env: GenericEnv, call: Call) -> Frame:
        if call is script[0] and call[0] != "reset":
            # OpenEnv's clients for tools may do without; our own order may not.
            await env.reset()
        return await _call_native(env, call)

    return await _play(GenericEnv(url), script, begun)


async def _call_native(env: GenericEnv, call: Call) -> Frame:
    what, given = call
    match what:
        case "reset":
            options = {key: given[key] for key in given if key not in _ARGUMENTS}
            arguments = {key: given[key] for key in given if key in _ARGUMENTS}
            return _seen(await env.reset(**arguments, options=options or None))
        case "step":
            return _seen(await env.step(dict(given)))
        case "state":
            return {"state": msgspec.to_builtins(await env.state())}
        case "tools":
            listed = (await env.step({"type": "list_tools"})).observation
            return {"tools": sorted(tool["name"] for tool in listed["tools"])}
        case _:
            action = {"type": "call_tool", "tool_name": given["name"]}
            called = await env.step({**action, "arguments": given["to"]})
            return {"called": _value(called.observation["result"])}


_ARGUMENTS: Final = ("seed", "episode_id")

PLAYERS: Final = {"dialect": _play_dialect, "native": _play_native}
"""Our clients, by how they speak; to OpenEnv's server, both speak its dialect."""


def _seen(result: Any) -> Frame:
    return {
        "observation": msgspec.to_builtins(result.observation),
        "reward": result.reward,
        "done": result.done,
    }


def _value(result: Any) -> Any:
    """What a tool returned, out of what its library made of it."""
    is_wrapped = isinstance(result, dict) and "data" in result
    return result["data"] if is_wrapped else result


# Comparing


def comparable(seen: Sequence[Frame]) -> list[Frame]:
    """Frames as every client and every server of one environment shows them."""
    return [_comparable(frame) for frame in seen]


def _comparable(frame: Frame) -> Frame:
    if "raised" in frame:
        found = _CODE.search(frame["raised"])
        return {"error": found[1] if found else frame["raised"]}
    if "state" in frame:
        state = {"episode_id": None, "step_count": 0, **frame["state"]}
        if state["episode_id"] not in (None, _GIVEN):
            state["episode_id"] = "some id"
        return {"state": state}
    if "observation" in frame:
        given = frame["observation"]
        fields = {key: given[key] for key in given if key not in _BESIDE}
        fields["metadata"] = fields.get("metadata") or {}
        return {**frame, "observation": fields}
    return frame


def meant(seen: Sequence[Frame]) -> list[Frame]:
    """Frames without what libraries add: for one environment written for two servers.

    What a tool returned without its envelope, the kind of a failure without its words,
    and whether an episode has an id only where one was given.
    """
    return [_meant(frame) for frame in comparable(seen)]


def _meant(frame: Frame) -> Frame:
    if "state" in frame:
        state = frame["state"]
        named = state["episode_id"] == _GIVEN
        return {"state": {**state, "episode_id": _GIVEN if named else None}}
    fields = dict(frame.get("observation", {}))
    fields.pop("prompt", None)  # which only our environments of tools have
    if "tools" in fields:
        return {
            **frame,
            "observation": sorted(each["name"] for each in fields["tools"]),
        }
    if "tool_name" not in fields:
        return {**frame, "observation": fields} if fields else frame
    error = fields.get("error")
    fields["error"] = error and error["error_type"]
    fields["result"] = _value(fields.get("result"))
    return {**frame, "observation": fields}
