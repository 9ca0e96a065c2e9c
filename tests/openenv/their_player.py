"""OpenEnv's own clients play scripts; run by an interpreter that has them.

Reads from standard input a JSON list of `{"url", "calls"}`, and prints a list of what
was seen at each. It must not know whose server it talks to.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from openenv.core.generic_client import (  # type: ignore[import-not-found]  # lives in a venv of its own
    GenericEnvClient,
)
from openenv.core.mcp_client import (  # type: ignore[import-not-found]  # lives in a venv of its own
    MCPToolClient,
)

_PATIENCE = 10.0


def _seen(result: Any) -> dict[str, Any]:
    return {
        "observation": result.observation,
        "reward": result.reward,
        "done": result.done,
    }


async def _call(env: Any, what: str, arguments: Any) -> dict[str, Any]:
    match what:
        case "reset":
            return _seen(await env.reset(**arguments))
        case "step":
            return _seen(await env.step(arguments))
        case "state":
            return {"state": await env.state()}
        case "tools":
            return {"tools": sorted(tool.name for tool in await env.list_tools())}
        case _:
            return {"called": await env.call_tool(arguments["name"], **arguments["to"])}


async def _play(url: str, calls: list[list[Any]]) -> list[dict[str, Any]]:
    tools = any(what in ("tools", "call") for what, _ in calls)
    seen = []
    async with (MCPToolClient if tools else GenericEnvClient)(base_url=url) as env:
        for what, arguments in calls:
            try:
                seen.append(await _call(env, what, arguments))
            except RuntimeError as error:
                seen.append({"raised": str(error)})
    return seen


async def _played(url: str, calls: list[list[Any]]) -> list[dict[str, Any]]:
    """Play it, once the place of whoever was there before is free."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            seen = await _play(url, calls)
        except RuntimeError as error:
            seen = [{"raised": str(error)}]
        full = "CAPACITY_REACHED" in seen[0].get("raised", "")
        if not full or time.monotonic() > end:
            return seen
        await asyncio.sleep(0.02)


async def _main() -> None:
    plan = json.load(sys.stdin)
    seen = [await _played(each["url"], each["calls"]) for each in plan]
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    asyncio.run(_main())
