"""`openenv-async serve` binds, serves, refuses and ends as it says."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openenv_async import StepResult, Unauthorized, UnknownEnvironment, version
from tests.chaos.processes import (
    ROOT,
    SCRIPTED,
    Process,
    running,
    serve_arguments,
    short_folder,
)
from tests.clients import ScriptedEnv
from tests.environments import Command, Report


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path."""
    with short_folder() as folder:
        yield folder


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "openenv_async.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"},
    )


def _address(process: Process) -> str:
    names, _, address = process.line("serving ").partition(" at ")
    assert names
    return address


def _step(url: str, **options: str) -> int:
    """Open a session, step once; returns the count."""
    with ScriptedEnv(url, **options).sync() as env:  # type: ignore[arg-type]  # strings only
        env.reset()
        count: int = env.step(Command()).observation.count
        return count


def _wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 8
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


# Where it listens


def test_port_0_takes_a_free_port_and_says_which(folder: Path) -> None:
    """The first line of output has the environment and the address."""
    with running(serve_arguments("--port", "0"), folder) as server:
        url = _address(server)
        assert server.output().startswith("serving scripted at ws://127.0.0.1:")
        assert _step(url) == 1
        health = urllib.request.urlopen(f"http{url.removeprefix('ws')}/health")
        with health:
            assert json.load(health)["status"] == "healthy"


def test_the_debug_pane_is_served_where_it_is_said(folder: Path) -> None:
    """The second line has its address; without --web there is none."""
    with running(serve_arguments("--port", "0", "--web"), folder) as server:
        address = server.line("debug pane at ").removeprefix("debug pane at ").strip()
        assert address.endswith("/web/")
        with urllib.request.urlopen(address) as page:
            assert b"<html" in page.read()


def test_the_debug_pane_of_a_unix_socket_has_a_port(folder: Path) -> None:
    """Browsers cannot open the socket, which clients use all the same."""
    path = folder / "s"
    arguments = ("--uds", str(path), "--web", "--port", "0")
    with running(serve_arguments(*arguments), folder) as server:
        assert _address(server) == f"ws+unix://{path}"
        address = server.line("debug pane at ").removeprefix("debug pane at ").strip()
        assert _step(f"ws+unix://{path}") == 1
        with urllib.request.urlopen(address) as page:
            assert b"<html" in page.read()


def test_a_unix_socket_is_private_and_goes_with_the_server(folder: Path) -> None:
    """Only its owner may connect, and SIGTERM removes it."""
    path = folder / "s"
    with running(serve_arguments("--uds", str(path)), folder) as server:
        assert _address(server) == f"ws+unix://{path}"
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert _step(f"ws+unix://{path}") == 1
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not path.exists()


def test_a_socket_that_a_dead_server_left_is_replaced(folder: Path) -> None:
    """After SIGKILL the file remains, and the next server takes its place."""
    path = folder / "s"
    with running(serve_arguments("--uds", str(path)), folder) as server:
        _address(server)
    assert path.is_socket()
    with running(serve_arguments("--uds", str(path)), folder) as server:
        _address(server)
        assert _step(f"ws+unix://{path}") == 1


def test_a_socket_in_use_is_left_alone(folder: Path) -> None:
    """A second server on the same socket fails, and the first one goes on."""
    path = folder / "s"
    with running(serve_arguments("--uds", str(path)), folder) as server:
        _address(server)
        second = _run("serve", SCRIPTED, "--uds", str(path))
        assert second.returncode == 1
        assert f"got {path} in use" in second.stderr
        assert "Traceback" not in second.stderr
        assert _step(f"ws+unix://{path}") == 1


def test_a_file_is_never_replaced_by_a_socket(folder: Path) -> None:
    """A path that is no socket is an error, and the file keeps its contents."""
    path = folder / "precious"
    path.write_text("data")
    outcome = _run("serve", SCRIPTED, "--uds", str(path))
    assert outcome.returncode == 1
    assert str(path) in outcome.stderr
    assert path.read_text() == "data"


def test_a_port_in_use_is_an_error(folder: Path) -> None:
    """The message names the address, and the exit status is 1."""
    del folder
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = _run("serve", SCRIPTED, "--port", str(port))
    assert outcome.returncode == 1
    assert f"got 127.0.0.1:{port}" in outcome.stderr
    assert "Traceback" not in outcome.stderr


# Usage


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ("no_such_package", "no_such_package"),
        ("tests.environments:Nothing", "Nothing"),
        ("tests.environments:Command", "tests.environments:Command"),
    ],
)
def test_a_bad_target_is_wrong_usage(target: str, named: str) -> None:
    """What cannot be served is named, without a traceback, with exit status 2."""
    outcome = _run("serve", target, "--port", "0")
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("openenv-async: expected")
    assert named in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [["serve"], ["serve", SCRIPTED, "--max-sessions", "0"], ["serve", "--nonsense"]],
)
def test_wrong_options_are_wrong_usage(arguments: list[str]) -> None:
    """A missing target, a number out of range and an unknown option exit with 2."""
    outcome = _run(*arguments)
    assert outcome.returncode == 2
    assert "Usage" in outcome.stderr


def test_the_version_is_shown() -> None:
    """--version prints the version and nothing else."""
    outcome = _run("--version")
    assert (outcome.returncode, outcome.stdout.strip()) == (0, version.VERSION)


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
def test_help_is_shown(arguments: list[str]) -> None:
    """--help explains the command, and hides what only providers use."""
    outcome = _run(*arguments)
    assert outcome.returncode == 0
    assert "Usage: " in outcome.stdout
    assert "--lifeline" not in outcome.stdout
    if "serve" in arguments:
        for option in ("--uds", "--port", "--max-sessions", "--lease", "--execution"):
            assert option in outcome.stdout


# What it serves


def test_the_token_comes_from_the_environment(folder: Path) -> None:
    """With OPENENV_ASYNC_TOKEN set, clients without the token stay outside."""
    variables = {"OPENENV_ASYNC_TOKEN": "sesame"}
    with running(serve_arguments("--port", "0"), folder, variables) as server:
        url = _address(server)
        for wrong in ({}, {"token": "open"}):
            with pytest.raises(Unauthorized):
                _step(url, **wrong)
        assert _step(url, token="sesame") == 1
        assert "sesame" not in server.output()


def test_two_environments_share_an_endpoint(folder: Path) -> None:
    """Clients choose by name, the first is the default, others are refused."""
    arguments = serve_arguments("tests.environments:BlockingEnvironment", "--port", "0")
    with running(arguments, folder) as server:
        url = _address(server)
        assert "serving scripted, blocking at" in server.output()
        for options in ({}, {"environment": "scripted"}, {"environment": "blocking"}):
            assert _step(url, **options) == 1
        with pytest.raises(UnknownEnvironment, match="blocking"):
            _step(url, environment="other")


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_what_is_in_flight_and_closes(
    folder: Path, number: signal.Signals
) -> None:
    """The open step gets its reply, close() is called, and the exit status is 0."""
    journal = folder / "journal"
    with running(serve_arguments("--port", "0"), folder) as server:
        results: list[StepResult[Report]] = []
        with ScriptedEnv(_address(server), reconnect_timeout=0.5).sync() as env:
            env.reset(options={"journal": str(journal)})
            thread = threading.Thread(
                target=lambda: results.append(
                    env.step(Command(do="sleep", seconds=0.5, text="last"))
                )
            )
            thread.start()
            time.sleep(0.15)
            server.signal(number)
            thread.join(8)
            assert [result.observation.text for result in results] == ["last"]
            assert server.wait() == 0, server.output()
    events = [line.split()[0] for line in journal.read_text().splitlines()]
    assert events == ["reset", "step", "closed"]
    assert "Traceback" not in server.output()


def test_a_second_signal_does_not_wait(folder: Path) -> None:
    """A step that would take a minute is cut short by the second signal."""
    journal = folder / "journal"
    path = folder / "s"
    with running(serve_arguments("--uds", str(path)), folder) as server:
        _address(server)
        with ScriptedEnv(f"ws+unix://{path}", reconnect_timeout=0.3).sync() as env:
            env.reset(options={"journal": str(journal)})
            thread = threading.Thread(target=lambda: _ended(env))
            thread.start()
            time.sleep(0.1)
            server.signal(signal.SIGTERM)
            time.sleep(0.3)
            assert server.is_running
            server.signal(signal.SIGTERM)
            server.wait(5)
            thread.join(8)
            assert not thread.is_alive()
        assert not path.exists()


def _ended(env: object) -> None:
    with pytest.raises(Exception, match=r"."):
        env.step(Command(do="sleep", seconds=60))  # type: ignore[attr-defined]  # a SyncEnv


def test_a_signal_during_the_start_removes_the_socket(folder: Path) -> None:
    """SIGTERM before the server is up still leaves no socket behind."""
    for attempt in range(5):
        path = folder / f"s{attempt}"
        with running(serve_arguments("--uds", str(path)), folder) as server:
            server.line("serving ")
            server.signal(signal.SIGTERM)
            assert server.wait() == 0, server.output()
            assert not path.exists()


_HURRIED = """
import sys
import openenv_async.cli.serve
import openenv_async.cli

sys.modules["openenv_async.cli.serve"]._PATIENCE = 0.5
openenv_async.cli.main()
"""


def test_a_server_without_its_owner_ends_although_its_loop_is_blocked(
    folder: Path,
) -> None:
    """An environment that blocks for ever does not outlive whoever started it."""
    path = folder / "x" / "s"
    path.parent.mkdir()
    arguments = ["serve", SCRIPTED, "--uds", str(path), "--lifeline", str(path.parent)]
    server = subprocess.Popen(
        [sys.executable, "-c", _HURRIED, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        _wait_until(path.exists)
        with ScriptedEnv(f"ws+unix://{path}", reconnect_timeout=0.3).sync() as env:
            env.reset()
            thread = threading.Thread(target=lambda: _blocked(env))
            thread.start()
            time.sleep(0.1)
            assert server.stdin is not None
            server.stdin.close()
            assert server.wait(8) == 1
            assert not path.parent.exists()
            thread.join(8)
            assert not thread.is_alive()
    finally:
        server.kill()
        server.wait(8)


def _blocked(env: object) -> None:
    with pytest.raises(Exception, match=r"."):
        env.step(Command(do="block", seconds=60))  # type: ignore[attr-defined]  # a SyncEnv
