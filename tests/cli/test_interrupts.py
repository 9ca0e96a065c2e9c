"""A signal that a blocked event loop does not take ends the process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_PROGRAM = """
import signal, sys, time
import anyio
from openenv_async.cli import interrupts

interrupts._PATIENCE = float(sys.argv[1])
numbers = signal.SIGINT, signal.SIGTERM


async def take(received, watched):
    async for number in received:
        watched.taken()
        print("taken", number, flush=True)
        if number == signal.SIGTERM:
            return


async def main():
    with (
        anyio.open_signal_receiver(*numbers) as received,
        interrupts.enforced(*numbers) as watched,
    ):
        print("ready", flush=True)
        if sys.argv[2] == "blocks":
            time.sleep(30)
        await take(received, watched)
    print("left", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)


anyio.run(main)
"""


@contextmanager
def _running(patience: float, kind: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(patience), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("patience", "signals"),
    [
        (0.2, [signal.SIGINT]),
        (0.2, [signal.SIGTERM]),
        (60.0, [signal.SIGINT] * 3),
    ],
)
def test_a_signal_ends_a_process_whose_loop_is_blocked(
    patience: float, signals: list[signal.Signals]
) -> None:
    """After a while, or at the third; one line says why."""
    with _running(patience, "blocks") as process:
        assert process.stderr is not None
        # One that comes while another is on its way would count as the same.
        while process.poll() is None:
            process.send_signal(signals[0])
            try:
                process.wait(0.1 if len(signals) > 1 else 10)
            except subprocess.TimeoutExpired:
                continue
        said = process.stderr.read()
        assert process.returncode == 128 + signals[0]
    assert said.count("\n") == 1
    assert "the policy blocks the event loop" in said


def test_a_loop_that_takes_its_signals_is_left_alone() -> None:
    """However many there are; handlers are as before at the end."""
    with _running(0.05, "takes") as process:
        assert process.stdout is not None
        for _ in range(4):
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "taken 2\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "taken 15\n"
        assert process.stdout.readline() == "left True\n"
        assert process.wait(10) == 0
