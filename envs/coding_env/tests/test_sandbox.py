"""A sandbox: what it returns, how it ends, and what it never does."""

from __future__ import annotations

import ast
import asyncio
import time
from collections.abc import AsyncIterator

import anyio
import pytest
import pytest_asyncio

from coding_env.sandbox import Execution, Sandbox, SandboxPool
from openenv_async import LocalProtocolError

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(pool: SandboxPool) -> AsyncIterator[Sandbox]:
    """A worker with real Python."""
    sandbox = await pool.start("cpython")
    yield sandbox
    await sandbox.aclose()


async def _run(sandbox: Sandbox, code: str, timeout: float = 5.0) -> Execution:
    return await sandbox.run(code, timeout=timeout)


# What it returns


async def test_run_returns_output_and_result(pool: SandboxPool, kind: str) -> None:
    """A run returns what was printed and the last expression's value."""
    sandbox = await pool.start(kind)
    try:
        execution = await _run(sandbox, "x = 6\nprint('hello')\nx * 7")
        assert (execution.stdout, execution.result) == ("hello\n", "42")
        assert (execution.exit_code, execution.error) == (0, None)
    finally:
        await sandbox.aclose()


async def test_state_persists_between_runs(pool: SandboxPool, kind: str) -> None:
    """Names that one run defines are there in the next, even after an error."""
    sandbox = await pool.start(kind)
    try:
        await _run(sandbox, "def double(x):\n    return 2 * x")
        failed = await _run(sandbox, "double(1) / 0")
        assert failed.error is not None
        assert failed.error.type == "ZeroDivisionError"
        assert failed.exit_code == 1
        assert (await _run(sandbox, "double(21)")).result == "42"
    finally:
        await sandbox.aclose()


async def test_two_sandboxes_share_nothing(pool: SandboxPool, kind: str) -> None:
    """What one sandbox defines, another one does not know."""
    first, second = await pool.start(kind), await pool.start(kind)
    try:
        await _run(first, "secret = 1")
        execution = await _run(second, "secret")
        assert execution.error is not None
    finally:
        await first.aclose()
        await second.aclose()


async def test_call_returns_a_literal(sandbox: Sandbox) -> None:
    """call() passes literals to a function of the code, and one back."""
    await _run(sandbox, "def join(a, b):\n    return [a, {'b': b}]")
    execution = await sandbox.call("join", "(1, 'two')", timeout=5.0)
    assert execution.value is not None
    assert ast.literal_eval(execution.value) == [1, {"b": "two"}]


async def test_output_of_descriptors_is_caught(sandbox: Sandbox) -> None:
    """Bytes that bypass Python's streams are output too; broken UTF-8 is replaced."""
    execution = await _run(
        sandbox, "import os\nn = os.write(1, b'a\\xff')\nn = os.write(2, b'b')"
    )
    assert (execution.stdout, execution.stderr) == ("a\ufffd", "b")


async def test_output_is_cut_and_counted(sandbox: Sandbox) -> None:
    """Of too much output the beginning is kept; its size is told."""
    execution = await _run(sandbox, "print('é' * 50_000, end='')")
    assert execution.stdout_truncated
    assert execution.stdout == "é" * 2048
    assert execution.stdout_bytes == 100_000
    assert not execution.stderr_truncated


async def test_output_at_the_limit_is_whole(sandbox: Sandbox) -> None:
    """Output of exactly the limit is not called truncated, and the next run is new."""
    execution = await _run(sandbox, "print('x' * 4096, end='')")
    assert (execution.stdout_truncated, len(execution.stdout)) == (False, 4096)
    assert (await _run(sandbox, "1")).stdout == ""


async def test_a_result_is_cut_between_characters(sandbox: Sandbox) -> None:
    """A long result is cut at the limit in bytes, never inside a character."""
    execution = await _run(sandbox, "'x' + 'é' * 4096")
    assert execution.result_truncated
    assert execution.result == "'x" + "é" * 2047


async def test_lone_surrogates_come_through_escaped(sandbox: Sandbox) -> None:
    """Text that has no UTF-8 is escaped, not lost and no fault."""
    execution = await _run(sandbox, "print('\\ud800')\n'\\ud801'.join('ab')")
    assert execution.stdout == "\\ud800\n"
    assert execution.result == "'a\\ud801b'"


async def test_closed_streams_come_back(sandbox: Sandbox) -> None:
    """Code that closes its streams can print again in the next run."""
    await _run(sandbox, "import sys\nsys.stdout.close()\nsys.stderr.close()")
    assert (await _run(sandbox, "print('still here')")).stdout == "still here\n"


async def test_what_was_printed_before_the_end_is_seen(sandbox: Sandbox) -> None:
    """Output right before an endless loop is not lost with the worker."""
    execution = await _run(sandbox, "print('before')\nwhile True: pass", 0.5)
    assert execution.stdout == "before\n"
    assert execution.killed == "timeout"


async def test_large_code_arrives(sandbox: Sandbox) -> None:
    """Code of megabytes, more than any buffer holds, is run."""
    text = "x" * 3_000_000
    assert (await _run(sandbox, f"len('{text}')")).result == "3000000"


async def test_ask_is_answered(pool: SandboxPool) -> None:
    """Running code of a judge asks, and goes on with the answer."""
    asked: list[str] = []

    async def answer(text: str) -> str:
        asked.append(text)
        return "value:7"

    sandbox = await pool.start("judge")
    try:
        execution = await sandbox.run(
            "assert candidate(1, 'a') == 7", timeout=5.0, on_ask=answer
        )
        assert len(asked) == 1
        assert execution.killed is None
    finally:
        await sandbox.aclose()


# How it ends


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time\ntime.sleep(60)", "10 ** (10 ** 8) and 1"]
)
async def test_deadline_kills(sandbox: Sandbox, code: str) -> None:
    """Code that does not end is killed at its deadline, whatever it is busy with."""
    started = time.monotonic()
    execution = await _run(sandbox, code, 0.4)
    assert time.monotonic() - started < 2
    assert (execution.killed, execution.exit_code) == ("timeout", 124)
    assert execution.error is not None
    assert execution.error.message == "expected the code to end within 0.4 s"
    assert not sandbox.is_alive


@pytest.mark.parametrize(
    ("code", "killed", "exit_code", "message"),
    [
        ("import os\nos._exit(3)", "exit", 3, "status 3"),
        ("import os\nos.abort()", "signal", 134, "SIGABRT"),
        ("import ctypes\nctypes.string_at(0)", "signal", 139, "SIGSEGV"),
        ("import os\nos.kill(os.getpid(), 9)", "signal", 137, "SIGKILL"),
        ("import os\nos.close(3)", "exit", 70, "status 70"),
    ],
)
async def test_death_is_told(
    sandbox: Sandbox, code: str, killed: str, exit_code: int, message: str
) -> None:
    """A worker that dies ends its run with how it died; later runs say the same."""
    execution = await _run(sandbox, code)
    assert (execution.killed, execution.exit_code) == (killed, exit_code)
    assert execution.error is not None
    assert message in execution.error.message
    again = await _run(sandbox, "1")
    assert (again.killed, again.error) == (execution.killed, execution.error)


async def test_processor_time_is_limited(pool: SandboxPool) -> None:
    """A worker that used up its processor time is ended, and that is told."""
    sandbox = await pool.start("cpython")
    try:
        code = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))"
        await _run(sandbox, code)
        execution = await _run(sandbox, "while True: pass", 10.0)
        assert (execution.killed, execution.exit_code) == ("cpu", 152)
    finally:
        await sandbox.aclose()


@pytest.mark.parametrize(
    "data",
    [
        r"b'\xff\xff\xff\xff'",
        r"b'\x00\x00\x00\x01\xc1'",
        r"b'\x00\x00\x00\x02\x92\x01'",
        # Well formed, but nobody waits for a second reply, or for this number.
        r"(lambda b: (len(b)).to_bytes(4, 'big') + b)(b'\x93\xa4done\x63\x80')",
    ],
)
async def test_broken_frames_end_the_worker(sandbox: Sandbox, data: str) -> None:
    """Hostile code that writes to the worker's channel loses its worker, no more."""
    execution = await _run(sandbox, f"import os\nos.write(3, {data})\nwhile True: pass")
    assert (execution.killed, execution.exit_code) == ("protocol", 137)
    assert execution.error is not None
    assert "broke its worker's channel" in execution.error.message


async def test_asking_where_nobody_answers_ends_the_worker(pool: SandboxPool) -> None:
    """A judge that asks without somebody to answer is ended, not kept waiting."""
    sandbox = await pool.start("judge")
    try:
        execution = await sandbox.run("candidate(1)", timeout=5.0)
        assert execution.killed == "protocol"
    finally:
        await sandbox.aclose()


async def test_an_answer_that_is_late_ends_with_the_deadline(pool: SandboxPool) -> None:
    """Who answers too slowly is cancelled when the worker's time is up."""
    sandbox = await pool.start("judge")

    async def never(text: str) -> str:
        await anyio.sleep_forever()
        return text

    try:
        execution = await sandbox.run("candidate(1)", timeout=0.3, on_ask=never)
        assert execution.killed == "timeout"
    finally:
        await sandbox.aclose()


async def test_a_failing_answer_reaches_the_caller(pool: SandboxPool) -> None:
    """What on_ask raises is the caller's, and the worker is not left waiting."""
    sandbox = await pool.start("judge")

    async def fail(text: str) -> str:
        raise ValueError(text)

    try:
        with pytest.raises(ValueError, match="1"):
            await sandbox.run("candidate(1)", timeout=5.0, on_ask=fail)
        assert not sandbox.is_alive
    finally:
        await sandbox.aclose()


async def test_cancelling_a_run_kills_the_worker(sandbox: Sandbox) -> None:
    """A cancelled run leaves no worker that would go on in secret."""
    with anyio.move_on_after(0.2):
        await _run(sandbox, "while True: pass", 30.0)
    assert not sandbox.is_alive
    execution = await _run(sandbox, "1")
    assert execution.killed == "cancelled"


async def test_a_second_request_at_a_time_is_refused(sandbox: Sandbox) -> None:
    """Two requests in flight are an error of the caller; the first one goes on."""
    async with asyncio.TaskGroup() as group:
        first = group.create_task(_run(sandbox, "import time\ntime.sleep(0.2)\n1"))
        await asyncio.sleep(0.05)
        with pytest.raises(LocalProtocolError, match="one request at a time"):
            await _run(sandbox, "2")
    assert first.result().result == "1"


async def test_aclose_is_idempotent(pool: SandboxPool) -> None:
    """A second aclose() does nothing; an unknown interpreter starts nothing."""
    sandbox = await pool.start("cpython")
    await sandbox.aclose()
    await sandbox.aclose()
    with pytest.raises(LocalProtocolError, match="'ruby'"):
        await pool.start("ruby")
