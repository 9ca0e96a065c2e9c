"""Many sessions on one socket: all together, then whoever is ready first."""

import asyncio

from echo_env import EchoAction, EchoEnv
from openenv_async import Failure, LocalProvider

SIZE = 64
ROUNDS = 5


async def main() -> None:
    """Play."""
    async with EchoEnv.batch(size=SIZE, provider=LocalProvider("echo_env")) as envs:
        await envs.reset(seeds=range(SIZE))

        # All together: results in the order of the sessions.
        results = await envs.step([EchoAction(message="x" * n) for n in range(SIZE)])
        good = [result for result in results if not isinstance(result, Failure)]
        longest = max(result.observation.message_length for result in good)
        print(f"{len(good)} sessions answered, the longest with {longest} characters")

        # Whoever is ready first; a session that is not sent anything is left alone.
        left = [ROUNDS] * SIZE
        envs.send(range(SIZE), [EchoAction(message="first")] * SIZE)
        steps = 0
        async for ready in envs.ready(min=16, timeout=0.01):
            steps += len(ready)
            for index, result in zip(ready.indices, ready.results, strict=True):
                if isinstance(result, Failure):
                    print(f"session {index} failed: {result.error}")
                    continue
                left[index] -= 1
                if left[index]:
                    envs.send([index], [EchoAction(message="again")])
        print(f"{steps} steps")


asyncio.run(main())
