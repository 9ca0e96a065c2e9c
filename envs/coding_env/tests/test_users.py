"""User ids for workers: no two that live share one, on the whole machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from coding_env.sandbox import PoolConfig, SandboxPool
from coding_env.sandbox.users import Users, find_range
from openenv_async import ProviderError

# Nobody else's, so that other servers on this machine do not matter.
_IDS = range(0x6000_0000 + os.getpid() * 4096, 0x6000_0000 + (os.getpid() + 2) * 4096)


@pytest.fixture
def users() -> Iterator[Users]:
    """The block of one server."""
    users = Users(_IDS)
    yield users
    users.close()


def test_blocks_of_two_servers_do_not_overlap(users: Users) -> None:
    """Two servers never give the same id, and a third one finds no block."""
    other = Users(_IDS)
    try:
        first, second = users.take(), other.take()
        assert first in _IDS[:4096]
        assert second in _IDS[4096:]
        with pytest.raises(ProviderError, match="free block"):
            Users(_IDS)
    finally:
        other.close()


def test_a_block_is_free_again_when_its_server_is_gone(users: Users) -> None:
    """Closing gives the block back, as the end of the process does."""
    users.close()
    again = Users(_IDS)
    assert again.take() == _IDS[0]
    again.close()


def test_an_id_is_given_to_one_worker_at_a_time(users: Users) -> None:
    """Ids are distinct, run out with an error, and come back after all others."""
    taken = [users.take() for _ in range(4096)]
    assert len(set(taken)) == 4096
    with pytest.raises(ProviderError, match="at most 4096"):
        users.take()
    users.give_back(taken[5])
    users.give_back(taken[6])
    assert users.take() == taken[5]


@pytest.mark.allow_blocking("asks what the machine offers")
async def test_workers_of_root_have_users_of_their_own() -> None:
    """Where the server may change users, each worker has another one, never root."""
    pool = SandboxPool(PoolConfig(kinds=("cpython",)))
    try:
        sandboxes = [await pool.start("cpython") for _ in range(3)]
        code = "import os\nos.getresuid() + os.getresgid()"
        seen = [(await one.run(code, timeout=5.0)).result for one in sandboxes]
        for sandbox in sandboxes:
            await sandbox.aclose()
        has_user = any(one.in_force for one in pool.fences if one.name == "user")
    finally:
        await pool.aclose()
    assert len(set(seen)) == (3 if has_user else 1)
    assert not has_user or find_range() is not None
    if has_user:
        assert "(0, " not in "".join(map(str, seen))
