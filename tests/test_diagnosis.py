"""Each examination says what is there, and how to get what is not."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest

from openenv_async import LocalProtocolError, ProviderError, diagnosis
from openenv_async.diagnosis import EXAMINATIONS, Finding, diagnose
from openenv_async.version import VERSION


async def _found(name: str, *, required: bool = False) -> Finding:
    (finding,) = [
        finding
        async for finding in diagnose([name], required=[name] if required else [])
    ]
    return finding


async def test_everything_is_examined_once() -> None:
    """All examinations are made, in order, and say something."""
    findings = [finding async for finding in diagnose(required=["versions"])]
    assert [finding.name for finding in findings] == list(EXAMINATIONS)
    assert all(finding.found for finding in findings)
    assert all(finding.advice for finding in findings if finding.status == "missing")


@pytest.mark.parametrize("name", ["versions", "server", "uvloop", "sockets", "cores"])
async def test_what_runs_these_tests_is_there(name: str) -> None:
    """What this very process uses is found."""
    assert (await _found(name)).status in ("ok", "missing" if name == "cores" else "ok")


async def test_versions_are_told() -> None:
    """Ours and those of what a client needs."""
    found = (await _found("versions")).found
    assert f"openenv-async {VERSION}" in found
    assert "msgspec " in found


@pytest.mark.parametrize(
    ("name", "package", "status"),
    [("server", "uvicorn", "missing"), ("versions", "msgspec", "broken")],
)
async def test_a_missing_package_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, status: str
) -> None:
    """What an extra brings is missing; what everybody needs is broken."""
    original = importlib.metadata.version

    def version(asked: str) -> str:
        if asked == package:
            raise importlib.metadata.PackageNotFoundError(asked)
        return original(asked)

    monkeypatch.setattr(importlib.metadata, "version", version)
    finding = await _found(name)
    assert finding.status == status
    assert f"no {package}" in finding.found
    assert finding.advice.startswith("pip install 'openenv-async")


async def test_what_is_required_may_not_be_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A missing thing is broken where it is required."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert (await _found("browser")).status == "missing"
    finding = await _found("browser", required=True)
    assert (finding.status, finding.advice) == ("broken", "apt-get install chromium")


async def test_an_unknown_examination_is_an_error() -> None:
    """The names that there are are told."""
    with pytest.raises(LocalProtocolError, match=r"'engine'.*got 'motor'"):
        async for _ in diagnose(required=["motor"]):
            pass


async def test_an_examination_that_hangs_is_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing waits for ever."""

    async def hang() -> Finding:
        await anyio.sleep_forever()
        raise AssertionError("woke up")

    monkeypatch.setitem(EXAMINATIONS, "engine", hang)
    monkeypatch.setattr(diagnosis, "_PATIENCE", 0.01)
    assert (await _found("engine")).found == "no answer in time"


# One by one


async def test_a_single_core_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One core is enough, but slower."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    assert (await _found("cores")).status == "missing"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    assert (await _found("cores")).found == "2"


@pytest.mark.parametrize(
    ("limits", "status", "advice"),
    [
        ((1024, 1024), "missing", "ulimit -n 4096 as root, because"),
        ((1024, 10**6), "missing", "ulimit -n 4096"),
        ((10**6, 10**6), "ok", ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), "ok", ""),
    ],
)
async def test_limits_are_told(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], status: str, advice: str
) -> None:
    """A low limit comes with the command that raises it."""

    def getrlimit(what: int) -> tuple[int, int]:
        return limits if what == resource.RLIMIT_NOFILE else (10**6, 10**6)

    monkeypatch.setattr(resource, "getrlimit", getrlimit)
    finding = await _found("limits")
    assert finding.status == status
    assert finding.advice.startswith(advice)
    assert bool(finding.advice) is bool(advice)


@pytest.fixture
def long_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for temporary files whose path is as long as no socket's may be."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


async def test_a_long_folder_for_sockets_is_told(long_folder: Path) -> None:
    """A path that no socket can have is broken: local servers need one."""
    finding = await _found("sockets")
    assert finding.status == "broken"
    assert f"{long_folder}/openenv-" in finding.found
    assert "too long" in finding.found


async def test_a_folder_without_sockets_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file system that has no sockets is broken."""
    monkeypatch.setattr(socket, "socket", _Unbindable)
    finding = await _found("sockets")
    assert (finding.status, "not supported" in finding.found) == ("broken", True)


class _Unbindable(socket.socket):
    def bind(self, address: Any) -> None:
        raise OSError(95, "not supported")


async def test_a_port_in_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, with a way around it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(diagnosis, "_PORT", port)
        finding = await _found("port")
        assert finding.status == "missing"
        assert f"127.0.0.1:{port} is not free" in finding.found
    assert (await _found("port")).status == "ok"


class _Entry:
    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name = name
        self._error = error

    def load(self) -> object:
        if self._error is not None:
            raise self._error
        return object()


@pytest.mark.parametrize(
    ("entries", "status", "found"),
    [
        ([], "missing", "none installed"),
        ([_Entry("b"), _Entry("a")], "ok", "a, b"),
        (
            [_Entry("a"), _Entry("b", ImportError("no torch"))],
            "broken",
            "cannot be imported: b (ImportError: no torch)",
        ),
    ],
)
async def test_environments_are_told(
    monkeypatch: pytest.MonkeyPatch, entries: list[_Entry], status: str, found: str
) -> None:
    """Installed ones are listed; one that cannot be imported is broken."""
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
    finding = await _found("environments")
    assert (finding.status, finding.found) == (status, found)


async def test_a_missing_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine's own error says is passed on, with a way to get one."""

    class Absent:
        async def facts(self) -> object:
            raise ProviderError("nobody listens at unix:///nowhere")

    monkeypatch.setattr(diagnosis, "Engine", Absent)
    finding = await _found("engine")
    assert (finding.status, finding.found) == (
        "missing",
        "nobody listens at unix:///nowhere",
    )
    assert "DOCKER_HOST" in finding.advice


@pytest.mark.docker
async def test_an_engine_is_told() -> None:
    """A real one is named with its address."""
    finding = await _found("engine")
    assert finding.status == "ok", finding
    assert "API v1." in finding.found


@pytest.fixture
def command(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> str:
    """A command on the PATH that does what a script says."""
    name, script = request.param
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    # And the shell that runs it, alone: a machine's own browser would come first.
    (tmp_path / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    return str(path)


@pytest.mark.parametrize(
    ("command", "status", "found"),
    [
        (("bwrap", "echo bubblewrap 9"), "ok", "bubblewrap 9"),
        (("bwrap", "exit 1"), "missing", "cannot make namespaces"),
    ],
    indirect=["command"],
)
async def test_bubblewrap_is_tried(command: str, status: str, found: str) -> None:
    """That it is installed is not enough: it has to work here."""
    finding = await _found("bubblewrap")
    assert finding.status == status
    assert finding.found.startswith(command)
    assert found in finding.found


async def test_a_missing_bubblewrap_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not needed by everybody."""
    monkeypatch.setenv("PATH", "")
    finding = await _found("bubblewrap")
    assert (finding.status, finding.advice) == (
        "missing",
        "apt-get install bubblewrap",
    )


@pytest.mark.parametrize(
    "command",
    [(name, "echo Chromium 130") for name in ("chromium", "google-chrome")],
    indirect=True,
)
async def test_a_browser_is_told(command: str) -> None:
    """Path and version of the first one that is there."""
    finding = await _found("browser")
    assert (finding.status, finding.found) == ("ok", f"{command}: Chromium 130")
