"""What a worker may use up, and how an operator's numbers are checked."""

from __future__ import annotations

import msgspec

from openenv_async import LocalProtocolError

__all__ = ["Limits"]

_MOST_OF_ALL = 2**40
"""Above every machine, below what a 64-bit limit can hold after unit conversion."""
_MOST = {
    # A result has to fit into a frame, whatever characters it is made of.
    "output_bytes": 1024 * 1024,
}


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one worker; mebibytes, counts and seconds.

    Raises:
        LocalProtocolError: By `check`, for a value that cannot be meant.
    """

    memory_mib: int = 512
    """Address space that the code may add to what the interpreter has mapped."""
    cpu_seconds: int = 600
    """Processor time of a worker, that is of an episode, over all its steps."""
    file_mib: int = 16
    """Largest file that it can write."""
    scratch_mib: int = 64
    """Disk that its scratch directory may take in all."""
    scratch_files: int = 4096
    """Files and directories that it may hold."""
    files: int = 64
    """Descriptors that may be open at a time."""
    threads: int = 64
    """Threads. Where the worker has no user of its own, it is killed for more."""
    output_bytes: int = 65_536
    """How much of each stream, and of a result, an observation carries."""

    def check(self) -> None:
        """Refuse values that cannot be meant, naming the first of them."""
        for name, least in _LEAST.items():
            value, most = getattr(self, name), _MOST.get(name, _MOST_OF_ALL)
            if type(value) is not int or not least <= value <= most:
                raise LocalProtocolError(
                    f"expected {name!r} as an integer from {least} to {most}, "
                    f"got {value!r}"
                )


_LEAST = {
    "memory_mib": 16,
    "cpu_seconds": 1,
    "file_mib": 0,
    "scratch_mib": 1,
    "scratch_files": 1,
    "files": 16,
    "threads": 1,
    "output_bytes": 256,
}
