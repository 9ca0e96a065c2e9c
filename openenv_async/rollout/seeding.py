"""Seeds that depend on names alone, never on the order in which things happen.

Like NumPy's `SeedSequence` (numpy.org, "Parallel random number generation"), a seed is
hashed from a root and a path of keys, so that neighbouring roots give unrelated seeds
and no counter is shared. BLAKE2b does the hashing: it is in the standard library.

A run with the seed R resets the first episode of the group of task T with T's own
seed, or with `derive_seed(R, "task", T.id)` where it has none. Episode N of the group
gets `derive_seed(that, "group", N)`, or the same seed as the first if the run asks for
that. The policy's random numbers for episode N come from
`derive_seed(R, "policy", T.id, N)`. An attempt that is run again has the same seeds.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

__all__ = ["derive_seed"]

_BITS: Final = 31
"""What every random generator takes: C's `int`, NumPy's legacy seeds, any emulator."""


def derive_seed(root: int, *path: str | int) -> int:
    """Hash a root seed and a path of keys to a seed from 0 to 2**31 - 1.

    Args:
        root: Any integer.
        path: Keys; `("a", 1)`, `("a", "1")` and `("a1",)` give different seeds.
    """
    # The encoding of a list is unambiguous; roots of any size go in as text.
    name = msgspec.msgpack.encode([str(root), *path])
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _BITS)
