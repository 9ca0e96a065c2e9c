"""User ids for workers: no two workers that live at the same time share one."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path
from typing import Final

from openenv_async import ProviderError

__all__ = ["Users", "find_range"]

_RANGES: Final = (range(0x7000_0000, 0x7040_0000), range(16_384, 65_536))
"""Above what systems give to people, services and containers; or, in a container that
has no such ids, above what is usual there."""
_BLOCK: Final = 4096
"""Ids of one server: its sessions are fewer."""
_NEEDED: Final = (0, 1, 3, 5, 6, 7)
"""Capabilities: to change owners, to remove what others own, to kill, to change user
and group."""


def find_range() -> range | None:
    """The ids that this process may give to others, or None if it may not."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^CapEff:\s*(\w+)", status, re.MULTILINE)
    capabilities = int(found[1], 16) if found is not None else 0
    if os.geteuid() != 0 or not all(capabilities >> bit & 1 for bit in _NEEDED):
        return None
    mapped = [
        range(int(first), int(first) + int(count))
        for first, _, count in map(
            str.split, Path("/proc/self/uid_map").read_text().splitlines()
        )
    ]
    for ids in _RANGES:
        if any(ids[0] in some and ids[-1] in some for some in mapped):
            return ids
    return None


class Users:
    """A block of user ids that no other server on this machine uses.

    The block is held by the name of an abstract Unix socket: it is free again when
    this process ends, however it ends.

    Args:
        ids: To take the block from: see `find_range`.

    Raises:
        ProviderError: Every block is taken.
    """

    def __init__(self, ids: range) -> None:
        self._lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        first = self._reserve(ids)
        self._free = list(range(first + _BLOCK - 1, first - 1, -1))

    def _reserve(self, ids: range) -> int:
        for first in ids[::_BLOCK]:
            try:
                self._lock.bind(f"\0openenv-async-users-{first}")
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                self._lock.close()
                raise
            return first
        self._lock.close()
        raise ProviderError(f"expected a free block of users in {ids}, got none")

    def take(self) -> int:
        """An id that nobody has.

        Raises:
            ProviderError: All are taken.
        """
        if not self._free:
            raise ProviderError(f"expected at most {_BLOCK} workers at a time")
        return self._free.pop()

    def give_back(self, uid: int) -> None:
        """The worker that had it is gone, and its files too."""
        # To the front: the longer it rests, the better.
        self._free.insert(0, uid)

    def close(self) -> None:
        """Let others have the block; idempotent."""
        self._lock.close()
