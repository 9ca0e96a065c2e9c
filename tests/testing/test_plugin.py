"""The pytest plugin works under every async plugin, and costs nothing unused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PLUGIN = "openenv_async.testing.plugin"

_SETTINGS = """
[pytest]
filterwarnings = error
markers =
    anyio
    asyncio
"""

pytestmark = pytest.mark.timeout(60)  # each runs pytest in a process of its own

_PRELUDE = """
import pytest
from tests.clients import ScriptedEnv
from tests.environments import *
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> _Run:
    """Run files of tests, in a process of their own, with the plugin."""
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return _Run(pytester)


class _Run:
    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester

    def __call__(
        self,
        *arguments: str,
        settings: str = "",
        files: dict[str, str],
        **outcomes: int,
    ) -> pytest.RunResult:
        (self._pytester.path / "pytest.ini").write_text(_SETTINGS + settings)
        self._pytester.makepyfile(
            **{f"test_{name}": _PRELUDE + source for name, source in files.items()}
        )
        # Without it, pytest-asyncio warns; without pytest-asyncio, pytest does.
        scope = "asyncio_default_fixture_loop_scope=function"
        options = [] if "no:asyncio" in arguments else ["-o", scope]
        # The plugin itself comes by its entry point, as for everybody.
        result = self._pytester.runpytest_subprocess(*options, *arguments)
        result.assert_outcomes(**outcomes)
        return result


_SESSION = """
{mark}
@pytest.mark.environment(target=ScriptedEnvironment, client=ScriptedEnv, lease=7.0)
async def test_it(environment_server, environment_client{backend}):
    journal.clear()
    assert environment_server.core.limits.lease == 7.0
    await environment_client.reset()
    result = await environment_client.step(Command())
    assert result.observation.count == 1
    assert environment_server.sessions == 1
    async with ScriptedEnv(environment_server.url) as other:
        await other.reset()
        assert environment_server.sessions == 2

def test_it_is_closed():
    assert journal.count("closed None") == 2
"""
_MARK = "@pytest.mark.asyncio"
_ANYIO = """
@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio"""

_BY_SETTING = """
async def test_it(environment_client):
    result = await environment_client.reset()
    assert result.observation["text"] == "seed None"
"""
_BY_FIXTURE = """
@pytest.fixture
def environment_target():
    return BlockingEnvironment

@pytest.fixture
def environment_client_type():
    return ScriptedEnv

async def test_it(environment_client):
    assert type(environment_client) is ScriptedEnv
    assert environment_client.server.url.startswith("memory://")

async def test_environment(environment_server):
    assert list(environment_server.core.specs) == ["blocking"]
    assert environment_server._lay is None
"""
_CHAOS = """
@pytest.mark.chaos(seed=3, cut=0.15)
@pytest.mark.environment(target=ScriptedEnvironment, client=ScriptedEnv)
async def test_it(chaos, environment_client):
    await environment_client.reset()
    for count in range(1, 40):
        result = await environment_client.step(Command())
        assert result.observation.count == count
    assert chaos.seed == 3
    assert chaos.counts["cut"] > 1
    assert not chaos.counts["drop"]

def test_default(chaos):
    assert chaos.seed == 0
    assert chaos.faults["up"].delay > 0
"""


def test_fixtures_work_in_auto_mode(run: _Run) -> None:
    """pytest-asyncio's auto mode runs them; each way to name the environment works."""
    run(
        "--asyncio-mode=auto",
        settings="openenv_environment = tests.environments:ScriptedEnvironment\n",
        files={
            "session": _SESSION.format(mark="", backend=""),
            "setting": _BY_SETTING,
            "fixture": _BY_FIXTURE,
            "chaos": _CHAOS,
        },
        passed=7,
    )


def test_fixtures_work_in_strict_mode(run: _Run) -> None:
    """So does its strict mode; who has no loop or no environment is told so."""
    sync = """
@pytest.mark.environment(target=ScriptedEnvironment)
def test_it(environment_client):
    pass
"""
    result = run(
        "--asyncio-mode=strict",
        files={
            "session": _SESSION.format(mark=_MARK, backend=""),
            "sync": sync,
            "nothing": f"{_MARK}{_BY_SETTING}",
        },
        passed=2,
        errors=2,
    )
    output = result.stdout.str()
    assert "expected an async test for the fixture environment_client" in output
    assert "set openenv_environment in pytest's configuration" in output


def test_fixtures_work_with_anyio_alone(run: _Run) -> None:
    """anyio's plugin runs them where there is no other."""
    source = _SESSION.format(mark=_ANYIO, backend=", anyio_backend")
    run("-p", "no:asyncio", files={"session": source}, passed=2)


def test_fixtures_work_with_anyio_beside_asyncio(run: _Run) -> None:
    """Each test has them in the loop of the plugin that runs it."""
    run(
        "--asyncio-mode=strict",
        files={
            "anyio": _SESSION.format(mark=_ANYIO, backend=", anyio_backend"),
            "asyncio": _SESSION.format(mark=_MARK, backend=""),
        },
        passed=4,
    )


def test_a_run_without_its_fixtures_imports_no_server(run: _Run) -> None:
    """A run whose tests ask for nothing pays for nothing; markers are declared."""
    source = """
import sys

def test_it(pytestconfig):
    for name in ("starlette", "uvicorn", "openenv_async.client"):
        assert name not in sys.modules
    markers = pytestconfig.getini("markers")
    for name in ("environment(target=", "chaos(seed="):
        assert any(marker.startswith(name) for marker in markers)
"""
    path = run._pytester.makepyfile(source)
    result = run._pytester.runpytest_subprocess(path)
    result.assert_outcomes(passed=1)


_IMPORT = f"""
import json, sys, time
import pytest
before = set(sys.modules)
began = time.perf_counter()
import {_PLUGIN}
took = time.perf_counter() - began
print(json.dumps([took, sorted(set(sys.modules) - before)]))
"""


def test_the_plugin_imports_nothing_before_it_is_used() -> None:
    """What every run of pytest pays is three small modules and under 50 ms."""
    times: list[float] = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=15,
            check=True,
        )
        took, modules = json.loads(done.stdout)
        assert set(modules) == {
            "openenv_async",
            "openenv_async.testing",
            _PLUGIN,
        }
        times.append(took)
    assert min(times) < 0.05
