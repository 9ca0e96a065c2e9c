"""Pools of workers for the tests, and what a test needs to know about the machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import pytest_asyncio

from coding_env.sandbox import Limits, PoolConfig, SandboxPool

_CONFIG = PoolConfig(
    kinds=("cpython", "smolagents", "judge"),
    limits=Limits(
        memory_mib=256,
        file_mib=4,
        scratch_mib=8,
        scratch_files=200,
        cpu_seconds=60,
        output_bytes=4096,
    ),
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def open_pool() -> AsyncIterator[Callable[..., Awaitable[SandboxPool]]]:
    """Opens pools for the tests of a module, which differ from the usual one."""
    # Threads that came later would be a test's, which leaves none behind.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    pools: list[SandboxPool] = []

    async def open_one(**changes: object) -> SandboxPool:
        pool = SandboxPool(msgspec.structs.replace(_CONFIG, **changes))
        pools.append(pool)
        await pool.warm_up()
        return pool

    yield open_one
    for pool in pools:
        await pool.aclose()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool(open_pool: Callable[..., Awaitable[SandboxPool]]) -> SandboxPool:
    """A pool of all interpreters, shared by the tests of a module."""
    return await open_pool()


@pytest.fixture(params=["cpython", "smolagents"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each interpreter in turn."""
    return str(request.param)
