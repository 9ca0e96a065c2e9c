"""Which fences are put up where, and that what is reported was seen to hold."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from coding_env.sandbox import PoolConfig, SandboxPool, frames
from coding_env.sandbox.bubblewrap import find
from coding_env.sandbox.frames import Fence
from coding_env.sandbox.probe import verify
from coding_env.sandbox.survey import survey
from openenv_async import ProviderError

# It looks at processes of the machine; test_sandbox.py watches the loop.
pytestmark = pytest.mark.allow_blocking("looks at the machine")

_ALWAYS = {"session", "descriptors", "environment", "limits", "privileges"}
_NAMES = [
    "session",
    "descriptors",
    "environment",
    "user",
    "privileges",
    "namespaces",
    "landlock",
    "limits",
    "seccomp",
]


def _in_force(config: PoolConfig) -> set[str]:
    return {fence.name for fence in survey(config) if fence.in_force}


@pytest.fixture
def bwrap() -> str:
    """Where bubblewrap is."""
    if find() is None:
        pytest.skip("bubblewrap does not work here")
    return str(shutil.which("bwrap"))


def test_every_fence_is_reported_in_order() -> None:
    """The report names every fence, those that are missing too, and says more."""
    fences = survey(PoolConfig())
    assert [fence.name for fence in fences] == _NAMES
    assert all(fence.detail for fence in fences)


def test_what_needs_nothing_holds_everywhere() -> None:
    """Fences that need no help of the machine are always in force."""
    assert _in_force(PoolConfig()) >= _ALWAYS
    assert _in_force(PoolConfig(namespaces="off")) >= _ALWAYS


def test_bubblewrap_is_used_where_it_works(bwrap: str) -> None:
    """Namespaces are in force where bubblewrap works, unless they are switched off."""
    assert "namespaces" in _in_force(PoolConfig())
    assert "namespaces" not in _in_force(PoolConfig(namespaces="off"))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("session", "somebody else's"),
        ("descriptors", "open descriptors"),
        ("environment", "inherited variables"),
        ("limits", "not limited"),
        ("user", "could not be changed"),
        ("privileges", "it"),
        ("landlock", "it can read the root directory"),
        ("seccomp", "it can start processes"),
    ],
)
def test_a_false_claim_is_corrected(name: str, fault: str) -> None:
    """A fence that does not hold is reported missing, whatever was claimed."""
    # Nothing fences in this process.
    (found,) = verify([Fence.holding(name, "claimed")], 12345)
    assert not found.in_force
    assert fault in found.detail


def test_a_missing_fence_is_not_attacked() -> None:
    """What is reported missing keeps its reason."""
    missing = Fence.missing("seccomp", "no libseccomp")
    assert verify([missing], None) == [missing]


_AS_SOMEBODY = """
import asyncio, json, os, sys
from coding_env.sandbox import PoolConfig, SandboxPool

ATTACKS = {
    "kill": "import os\\nos.kill(os.getppid(), 9)",
    "fork": "import os\\nos.fork()",
    "socket": "import socket\\nsocket.socket()",
    "environ": "import os\\nopen(f'/proc/{os.getppid()}/environ').read()",
    "mem": "import os\\nopen(f'/proc/{os.getppid()}/mem', 'rb')",
    "outside": f"open({sys.argv[2]!r}).read()",
    "loop": "while True: pass",
}

async def main():
    pool = SandboxPool(PoolConfig(kinds=("cpython",), namespaces=sys.argv[1]))
    outcomes = {}
    for name, code in ATTACKS.items():
        sandbox = await pool.start("cpython")
        execution = await sandbox.run(code, timeout=0.5)
        outcomes[name] = execution.error and execution.error.type
        await sandbox.aclose()
    sandbox = await pool.start("cpython")
    await sandbox.run("import os\\nos.mkdir('shut')\\nos.chmod('shut', 0)", timeout=5)
    await sandbox.aclose()
    sessions = pool._zygote.launched.sessions
    fences = [fence.name for fence in pool.fences if fence.in_force]
    left = os.listdir(sessions)
    await pool.aclose()
    print(json.dumps({"uid": os.getuid(), "outcomes": outcomes, "fences": fences,
                      "left": left, "base": os.path.exists(sessions)}))

asyncio.run(main())
"""


@pytest.mark.parametrize("namespaces", ["auto", "off"])
def test_fences_hold_without_root(bwrap: str, namespaces: str, tmp_path: Path) -> None:
    """A server that is not root fences workers in too, and removes what they left."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    # A user namespace in which we are somebody, and have no capability.
    somebody = [bwrap, "--unshare-user", "--uid", "1234", "--gid", "1234"]
    command = [sys.executable, "-c", _AS_SOMEBODY, namespaces, str(secret)]
    done = subprocess.run(
        [*somebody, "--dev-bind", "/", "/", *command],
        capture_output=True,
        text=True,
        timeout=15,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["uid"] == 1234
    assert "user" not in found["fences"]
    assert ("namespaces" in found["fences"]) is (namespaces == "auto")
    assert found["outcomes"].pop("loop") == "TimeoutError"
    # With namespaces of its own, the worker does not even see the file.
    assert found["outcomes"].pop("outside") in ("PermissionError", "FileNotFoundError")
    assert set(found["outcomes"].values()) == {"PermissionError"}
    assert (found["left"], found["base"]) == ([], False)


async def test_without_seccomp_what_a_worker_leaves_is_killed(bwrap: str) -> None:
    """Where processes can be started, those of a worker end with it, daemons too."""
    spec = importlib.util.find_spec("pyseccomp")
    assert spec is not None
    assert spec.origin is not None
    # Hidden from the zygote, which then cannot compile the filter.
    config = PoolConfig(kinds=("cpython",), hidden=(spec.origin,))
    pool = SandboxPool(config)
    try:
        sandbox = await pool.start("cpython")
        missing = [fence for fence in pool.fences if not fence.in_force]
        assert "seccomp" in [fence.name for fence in missing]
        before = _number_of_descendants()
        code = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True: time.sleep(0.01)
        os._exit(0)
"""
        assert (await sandbox.run(code, timeout=5.0)).error is None
        assert _number_of_descendants() > before
        await sandbox.aclose()
        end = time.monotonic() + 5
        while _number_of_descendants() >= before:
            assert time.monotonic() < end, "a daemon is left"
            await anyio.sleep(0.01)
    finally:
        await pool.aclose()


async def test_without_seccomp_a_fork_bomb_is_bounded(bwrap: str) -> None:
    """Where processes can be started, they are as many as threads may be, and end."""
    spec = importlib.util.find_spec("pyseccomp")
    assert spec is not None
    assert spec.origin is not None
    before = _number_of_descendants()
    pool = SandboxPool(PoolConfig(kinds=("cpython",), hidden=(spec.origin,)))
    try:
        bomb, other = await pool.start("cpython"), await pool.start("cpython")
        code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
        if any(fence.name == "user" and fence.in_force for fence in pool.fences):
            execution = await bomb.run(code, timeout=0.5)
            assert execution.killed == "timeout"
        assert (await other.run("1 + 1", timeout=10.0)).result == "2"
        await bomb.aclose()
        await other.aclose()
    finally:
        await pool.aclose()
    # Fixtures of the whole session may have processes of their own.
    assert _number_of_descendants() <= before


def _number_of_descendants() -> int:
    def count(pid: str) -> int:
        try:
            listings = list(Path(f"/proc/{pid}/task").glob("*/children"))
            children = [child for one in listings for child in one.read_text().split()]
        except OSError:
            return 0
        return sum(1 + count(child) for child in children)

    return count(str(os.getpid()))


def test_a_machine_without_fences_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If no process can be started, the error says so, and nothing is left."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    config = PoolConfig(namespaces="off", start_timeout=59.0)
    with pytest.raises(ProviderError, match="expected to start a process"):
        survey(config)


# Frames


def test_frames_are_cut_out_of_any_pieces() -> None:
    """Bodies come out whole and in order, however the stream was cut."""
    sent = [frames.framed(frames.Answer(number, "x" * number)) for number in range(5)]
    stream = b"".join(sent)
    for size in (1, 2, 3, 7, len(stream)):
        reader = frames.Frames(1000)
        bodies: list[bytes] = []
        for start in range(0, len(stream), size):
            bodies += reader.feed(stream[start : start + size])
        assert [frames.worker_requests.decode(body) for body in bodies] == [
            frames.Answer(number, "x" * number) for number in range(5)
        ]


def test_a_frame_that_is_too_long_is_refused_at_once() -> None:
    """The announced length is enough to refuse; nothing is kept for it."""
    reader = frames.Frames(10)
    with pytest.raises(frames.FrameFault, match="got 11"):
        reader.feed((11).to_bytes(4, "big"))
