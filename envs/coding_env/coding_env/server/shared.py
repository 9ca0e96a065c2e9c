"""One pool of workers for all sessions of a server that have the same settings."""

from __future__ import annotations

import asyncio
import weakref

from openenv_async._aio import Tasks

from ..sandbox import PoolConfig, SandboxPool

__all__ = ["SharedPool"]


class SharedPool:
    """A pool with users; it is closed some time after the last of them left.

    At the end of a server it is closed at once. Where an event loop ends without that,
    the workers end with this process.

    Args:
        config: What the pool is for.
    """

    def __init__(self, config: PoolConfig) -> None:
        self.pool = SandboxPool(config)
        self._users = 0
        self._linger: asyncio.TimerHandle | None = None
        self._tasks = Tasks()

    @classmethod
    def of(cls, config: PoolConfig) -> SharedPool:
        """The pool of this configuration on the running event loop."""
        pools = _pools.setdefault(asyncio.get_running_loop(), {})
        shared = pools.get(config)
        if shared is None:
            shared = pools[config] = cls(config)
        return shared

    def join(self) -> SandboxPool:
        """Become a user, who leaves once."""
        self._users += 1
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        return self.pool

    async def leave(self, linger: float) -> None:
        """Stop being a user.

        Args:
            linger: Seconds to keep the pool for the next user; with 0 the last user
                awaits its end.
        """
        self._users -= 1
        if self._users:
            return
        if not linger:
            await self.close_if_idle()
            return
        loop = asyncio.get_running_loop()
        self._linger = loop.call_later(linger, self._expire)

    @classmethod
    async def close_idle(cls) -> None:
        """Close the pools of the running event loop that nobody uses any more."""
        pools = _pools.get(asyncio.get_running_loop(), {})
        for shared in list(pools.values()):
            await shared.close_if_idle()

    def _expire(self) -> None:
        self._tasks.spawn(self.close_if_idle(), "coding-env-pool-close")

    async def close_if_idle(self) -> None:
        """Close the pool, unless somebody uses it."""
        if self._users:
            return
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        # First, so that whoever comes now gets another one.
        pools = _pools.get(asyncio.get_running_loop(), {})
        pools.pop(self.pool.config, None)
        await self.pool.aclose()


_pools: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[PoolConfig, SharedPool]
] = weakref.WeakKeyDictionary()
