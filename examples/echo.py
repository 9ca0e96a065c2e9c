"""One session, awaited call by call."""

import asyncio

from echo_env import EchoAction, EchoEnv


async def main() -> None:
    """Play."""
    async with EchoEnv.local("echo_env") as env:
        await env.reset(seed=0)
        result = await env.step(EchoAction(message="hello"))
        print(result.observation.echoed_message, result.reward)
        print(await env.state())


asyncio.run(main())
