"""The server's ends of a worker's descriptors, on the event loop without tasks."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final

from .frames import FrameFault, Frames

__all__ = ["Channel", "Output", "Packets"]

_READ: Final = 65_536
_PIPE: Final = 1024 * 1024
"""The most that a pipe can hold, even if the worker enlarges it."""
_PAUSE: Final = 0.001
"""Seconds between reads of one stream. A flood fills the pipe meanwhile and waits, so
that it can take no more than its share of the loop."""


class Output:
    """One standard stream: keeps the beginning, counts all, and never fills up.

    Args:
        descriptor: The reading end of a pipe, not blocking; owned from now on.
        most: Bytes to keep.
    """

    def __init__(self, descriptor: int, most: int) -> None:
        self._descriptor = descriptor
        self._most = most
        self._kept = bytearray()
        self._total = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._open = True
        self._loop.add_reader(descriptor, self._readable)

    def _readable(self) -> None:
        if self._read() < 0:
            self._loop.remove_reader(self._descriptor)
            return
        self._loop.remove_reader(self._descriptor)
        self._timer = self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._timer = None
        if self._open:
            self._loop.add_reader(self._descriptor, self._readable)

    def _read(self) -> int:
        """Read once; returns how much, 0 if there is nothing, -1 at the end."""
        try:
            data = os.read(self._descriptor, _READ)
        except BlockingIOError:
            return 0
        if not data:
            return -1
        self._total += len(data)
        if (room := self._most - len(self._kept)) > 0:
            self._kept += data[:room]
        return len(data)

    def take(self) -> tuple[str, int, bool]:
        """All that was written before this call: its beginning, its size, if it is cut.

        What is taken is forgotten.
        """
        left = _PIPE
        while self._open and left > 0 and (size := self._read()) > 0:
            left -= size
        total, is_cut = self._total, self._total > len(self._kept)
        # Half a character at the cut is ours, not the code's.
        text = (
            _without_half(self._kept).decode("utf-8", "replace")
            if is_cut
            else self._kept.decode("utf-8", "replace")
        )
        self._kept.clear()
        self._total = 0
        return text, total, is_cut

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if not self._open:
            return
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)


def _without_half(data: bytearray) -> bytearray:
    """Without the beginning of a character of UTF-8 at the end, if there is one."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        width = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return data[:-back] if width > back else data
    return data


class Channel:
    """Frames to and from a worker.

    Args:
        end: The server's end, not blocking; owned from now on.
        most: Longest frame to accept.
        on_frame: Takes each body.
        on_fault: Takes what is wrong with what the worker sent.
    """

    def __init__(
        self,
        end: socket.socket,
        *,
        most: int,
        on_frame: Callable[[bytes], None],
        on_fault: Callable[[str], None],
    ) -> None:
        self._end = end
        self._frames = Frames(most)
        self._on_frame = on_frame
        self._on_fault = on_fault
        self._unsent = bytearray()
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(end, self._readable)

    def send(self, data: bytes) -> None:
        """Send, or keep what the worker has no room for yet."""
        if not self._open:
            return
        if self._unsent:
            self._unsent += data
            return
        sent = self._try_to_send(data)
        if sent < len(data):
            self._unsent += data[sent:]
            self._loop.add_writer(self._end, self._writable)

    def _try_to_send(self, data: bytes | bytearray) -> int:
        try:
            return self._end.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            # It is gone, which the zygote reports.
            return len(data)

    def _writable(self) -> None:
        del self._unsent[: self._try_to_send(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._end)

    def _readable(self) -> None:
        try:
            data = self._end.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._end)
            return
        try:
            bodies = self._frames.feed(data)
        except FrameFault as fault:
            self._loop.remove_reader(self._end)
            self._on_fault(str(fault))
            return
        for body in bodies:
            self._on_frame(body)

    def close(self) -> None:
        """Close the socket; idempotent."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        self._end.close()


Packet = tuple[bytes, tuple[int, ...]]
"""What to send in one piece, and descriptors to close once it is sent."""


class Packets:
    """Packets to and from the zygote.

    Args:
        end: The server's end, not blocking; owned from now on.
        on_packet: Takes each packet.
        on_end: Called once when the other end is gone.
    """

    def __init__(
        self,
        end: socket.socket,
        *,
        size: int,
        on_packet: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._end = end
        self._size = size
        self._on_packet = on_packet
        self._on_end = on_end
        # The kernel queues only a few packets on such a socket.
        self._unsent: list[Packet] = []
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(end, self._readable)

    def send(self, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send a packet; `descriptors` belong to the other end from now on."""
        if not self._open:
            _close_all(descriptors)
            return
        self._unsent.append((data, descriptors))
        if len(self._unsent) == 1 and not self._flush():
            self._loop.add_writer(self._end, self._writable)

    def _flush(self) -> bool:
        """Send what there is room for; says whether that is all."""
        while self._unsent:
            data, descriptors = self._unsent[0]
            try:
                if descriptors:
                    socket.send_fds(self._end, [data], descriptors)
                else:
                    self._end.send(data)
            except BlockingIOError:
                return False
            except OSError:
                # It is gone, which the reader notices.
                pass
            del self._unsent[0]
            _close_all(descriptors)
        return True

    def _writable(self) -> None:
        if self._flush():
            self._loop.remove_writer(self._end)

    def _readable(self) -> None:
        while self._open:
            try:
                data = self._end.recv(self._size)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                self._on_end()
                return
            self._on_packet(data)

    def close(self) -> None:
        """Close the socket, which ends the zygote; idempotent."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        self._end.close()
        for _, descriptors in self._unsent:
            _close_all(descriptors)
        self._unsent.clear()


def _close_all(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
