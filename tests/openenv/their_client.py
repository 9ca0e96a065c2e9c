"""OpenEnv's own clients, for servers of ours; run by an interpreter that has them.

`python their_client.py SCENARIO URL ...` prints what the clients saw, a line of JSON
for each scenario.
Everything here is written as OpenEnv's documentation shows it: it must not know whose
server it talks to. What only 0.10.0 has is imported where it is used.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from openenv.core.client_types import (  # type: ignore[import-not-found]  # lives in a venv of its own
    StepResult,
)
from openenv.core.env_client import (  # type: ignore[import-not-found]  # lives in a venv of its own
    EnvClient,
)
from openenv.core.generic_client import (  # type: ignore[import-not-found]  # lives in a venv of its own
    GenericEnvClient,
)

__all__ = ["SCENARIOS"]


@dataclasses.dataclass
class Total:
    """A typed observation."""

    total: int
    note: str | None


class CountClient(EnvClient):  # type: ignore[misc]  # its classes are untyped here
    """A typed client, as an environment's author writes it for OpenEnv."""

    def _step_payload(self, action: int) -> dict[str, Any]:
        return {"delta": action, "metadata": {}}

    def _parse_result(self, payload: dict[str, Any]) -> Any:
        seen = payload.get("observation", {})
        return StepResult(
            observation=Total(total=seen["total"], note=seen["note"]),
            reward=payload.get("reward"),
            done=payload.get("done", False),
        )

    def _parse_state(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload


def _seen(result: Any) -> dict[str, Any]:
    observation = result.observation
    if dataclasses.is_dataclass(observation):
        observation = dataclasses.asdict(observation)  # type: ignore[arg-type]  # an instance
    return {
        "observation": observation,
        "reward": result.reward,
        "done": result.done,
    }


async def _error_of(call: Awaitable[Any]) -> str:
    try:
        return f"no error: {await call!r}"
    except Exception as error:  # noqa: BLE001 (its text is what was asked for)
        return f"{type(error).__name__}: {error}"


async def generic(url: str) -> Any:
    """An episode with dicts."""
    async with GenericEnvClient(base_url=url) as env:
        seen = [_seen(await env.reset(seed=7, episode_id="ep", start=3, extra=1))]
        seen += [_seen(await env.step({"delta": delta})) for delta in (2, 5)]
        return {"seen": seen, "state": await env.state()}


async def typed(url: str) -> Any:
    """An episode with a client that has hooks of its own."""
    async with CountClient(base_url=url) as env:
        seen = [_seen(await env.reset(start=1)), _seen(await env.step(4))]
        return {"seen": seen, "state": await env.state()}


async def errors(url: str) -> Any:
    """What each mistake raises, and that the session survives all of them."""
    async with GenericEnvClient(base_url=url) as env:
        await env.reset()
        found = {
            "action": await _error_of(env.step({"delta": 99})),
            "field": await _error_of(env.step({"delta": 1, "bogus": 1})),
            "step": await _error_of(env.step({"delta": 1, "boom": True})),
            "reset": await _error_of(env.reset(start=-1)),
        }
        return {"found": found, "after": _seen(await env.step({"delta": 1}))}


async def capacity(url: str) -> Any:
    """The second client of a server that has room for one."""
    async with GenericEnvClient(base_url=url) as first:
        await first.reset()
        second = GenericEnvClient(base_url=url)
        try:
            await second.connect()
            refused = await _error_of(second.reset())
        finally:
            await second.close()
        after = _seen(await first.step({"delta": 1}))
    reopened = "never"
    for _ in range(200):
        # The place is free once the server noticed the end.
        third = GenericEnvClient(base_url=url)
        try:
            await third.connect()
            reopened = (await third.reset()).observation["note"]
            break
        except Exception:  # noqa: BLE001 (it is asked again)
            await asyncio.sleep(0.02)
        finally:
            await third.close()
    return {"refused": refused, "after": after, "reopened": reopened}


async def factory(url: str) -> Any:
    """An environment that cannot be built."""
    client = GenericEnvClient(base_url=url)
    try:
        await client.connect()
        return await _error_of(client.reset())
    finally:
        await client.close()


async def many(url: str) -> Any:
    """Sixty-four clients at a time, each with its own count."""
    clients = [GenericEnvClient(base_url=url) for _ in range(64)]

    async def play(number: int, env: Any) -> tuple[int, int]:
        async with env:
            await env.reset()
            for _ in range(5):
                await env.step({"delta": number % 10})
            state = await env.state()
            return state["total"], state["step_count"]

    async with asyncio.TaskGroup() as tasks:
        plays = [
            tasks.create_task(play(number, client))
            for number, client in enumerate(clients)
        ]
    return {"totals": [each.result() for each in plays]}


async def large(url: str) -> Any:
    """Five megabytes up in one frame, and three times as much down."""
    async with GenericEnvClient(base_url=url) as env:
        await env.reset()
        arguments = {"message": "x" * 5_000_000}
        action = {"type": "call_tool", "tool_name": "echo", "arguments": arguments}
        result = await env.step(action)
        return len(result.observation["result"]["data"])


def blocking(url: str) -> Any:
    """The synchronous facade."""
    with CountClient(base_url=url).sync() as env:
        seen = [_seen(env.reset(start=2)), _seen(env.step(3))]
        return {"seen": seen, "state": env.state()}


def plain(url: str) -> Any:
    """Plain calls without a loop, as TRL makes them; since 0.10.0."""
    env = GenericEnvClient(base_url=url)
    try:
        return {"seen": [_seen(env.reset(start=2)), _seen(env.step({"delta": 3}))]}
    finally:
        env.close()


async def sibling(url: str) -> Any:
    """A second session of the same client; since 0.10.0."""
    async with GenericEnvClient(base_url=url) as env:
        await env.reset(start=1)
        other = await env.new_session()
        await other.reset(start=5)
        one, two = await env.step({"delta": 1}), await other.step({"delta": 1})
        return [one.observation["total"], two.observation["total"]]


async def tools(url: str) -> Any:
    """The MCP client."""
    from openenv.core.mcp_client import (  # type: ignore[import-not-found]  # noqa: PLC0415 (heavy)  # lives in a venv of its own
        MCPToolClient,
    )

    async with MCPToolClient(base_url=url) as env:
        reset = await env.reset()
        listed = await env.list_tools()
        called = await env.call_tool("echo", message="hi")
        unknown = await _error_of(env.call_tool("nope"))
        return {
            "done": reset.done,
            "tools": [tool.name for tool in listed],
            "schema": listed[0].input_schema,
            "called": called,
            "unknown": unknown,
        }


async def resumed(url: str) -> Any:
    """The MCP client whose socket is cut: it comes back to the same session."""
    from openenv.core.mcp_client import (  # noqa: PLC0415 (heavy)
        MCPToolClient,
    )

    async with MCPToolClient(base_url=url) as env:
        await env.reset()
        await env.call_tool("echo", message="a")
        env._ws.transport.abort()
        await asyncio.sleep(0.2)
        return (await env.state()).step_count


SCENARIOS: dict[str, Callable[[str], Any]] = {
    scenario.__name__: scenario
    for scenario in (
        generic,
        typed,
        errors,
        capacity,
        factory,
        many,
        large,
        blocking,
        plain,
        sibling,
        tools,
        resumed,
    )
}


def _main() -> None:
    """Play `SCENARIO URL ...` and print a line for each."""
    for name, url in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        try:
            result = SCENARIOS[name](url)
            if asyncio.iscoroutine(result):
                result = asyncio.run(result)
        except Exception as error:  # noqa: BLE001 (a failure of one is told as its result)
            result = {"failed": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps([name, result]) + "\n")


if __name__ == "__main__":
    _main()
