"""`openenv-async build` shows what it does, and ends as it says."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.engine import NOWHERE
from tests.images.containers import docker
from tests.sources import ROOT

needs_engine = pytest.mark.docker
takes_long = pytest.mark.timeout(240)


@pytest.fixture
def tag() -> Iterator[str]:
    """A name for an image, which goes with the test."""
    name = f"openenv-async-test-{os.getpid()}:{os.urandom(4).hex()}"
    yield name
    docker("image", "rm", "--force", name, check=False)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "openenv_async.cli", "build", *arguments]


def _variables(**more: str) -> Mapping[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "100", **more}


def _run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        env=_variables(**variables),
    )


# Usage


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["envs/nowhere"], 2, "got 'envs/nowhere': there is no such folder"),
        (["envs"], 2, "got 'envs' without a pyproject.toml"),
        (["envs/echo_env", "--label", "x"], 2, "a label as KEY=VALUE, got 'x'"),
        (
            ["envs/echo_env", "--wheels", "nowhere"],
            2,
            "of wheels, got 'nowhere'",
        ),
        (["envs/echo_env"], 1, f"engine at {NOWHERE}, got no answer"),
    ],
)
def test_what_goes_wrong_is_one_line(
    arguments: list[str], status: int, said: str
) -> None:
    """2 for wrong usage, 1 for what failed; no traceback, and no output."""
    outcome = _run(*arguments, DOCKER_HOST=NOWHERE)
    assert outcome.returncode == status, outcome.stderr
    assert outcome.stderr.startswith("openenv-async: expected ")
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""


def test_help_is_shown() -> None:
    """--help names the options."""
    outcome = _run("--help")
    assert outcome.returncode == 0
    for option in ("--tag", "--base", "--platform", "--wheels", "--prepare", "--json"):
        assert option in outcome.stdout


# Results


@takes_long
def test_prepared_wheels_are_counted(echo_wheels: Path, tmp_path: Path) -> None:
    """From a wheel instead of a folder, too; what lies in the folder stays."""
    (tmp_path / "mine").touch()
    (wheel,) = echo_wheels.glob("openenv_async_echo_env-*.whl")
    outcome = _run(
        str(wheel), "--prepare", str(tmp_path), "--json", DOCKER_HOST=NOWHERE
    )
    assert outcome.returncode == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["folder"] == str(tmp_path)
    assert {*result["wheels"], "mine"} == {path.name for path in tmp_path.iterdir()}
    assert wheel.name in result["wheels"]
    assert "base image: assuming Python 3.11" in outcome.stderr


@needs_engine
@takes_long
@pytest.mark.usefixtures("echo_image")
def test_the_result_is_json(echo_wheels: Path, tag: str) -> None:
    """Standard output has the result alone; standard error has plain lines."""
    outcome = _run(
        *("envs/echo_env", "--tag", tag, "--tag", f"{tag}-too"),
        *("--wheels", str(echo_wheels), "--json"),
    )
    try:
        assert outcome.returncode == 0, outcome.stderr
        image = json.loads(outcome.stdout)
        assert image["tags"] == [tag, f"{tag}-too"]
        assert image["target"] == "echo_env"
        found = docker("image", "inspect", "--format", "{{.Id}}", f"{tag}-too")
        assert found == image["id"]
    finally:
        docker("image", "rm", f"{tag}-too", check=False)
    lines = outcome.stderr.splitlines()
    starts = list(dict.fromkeys(line.partition(": ")[0] for line in lines))
    assert starts == ["wheels", "sending", "building"]
    assert "\x1b" not in outcome.stderr


@needs_engine
@takes_long
@pytest.mark.usefixtures("echo_image")
def test_a_terminal_gets_bars(echo_wheels: Path, tag: str) -> None:
    """They are drawn on standard error; the result is for people."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        _command("envs/echo_env", "--tag", tag, "--wheels", str(echo_wheels)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env=_variables(TERM="xterm"),
    )
    os.close(terminal)
    drawn = b""
    try:
        while piece := _read(controller):
            drawn += piece
    finally:
        os.close(controller)
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, drawn
    assert re.search(rb"building +.*\xe2\x94\x81", drawn), drawn[-500:]
    first, identity, last = output.decode().splitlines()
    assert first == f"built {tag}"
    assert identity.startswith("sha256:")
    assert re.fullmatch(
        r"\d+ MB; openenv-async-echo-env 0\.1\.0; serves echo_env", last
    )


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 65536)
    except OSError:  # the other end is closed
        return b""


# Signals


@needs_engine
@takes_long
@pytest.mark.usefixtures("echo_image")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["wheels: ", "building: Step 7/"])
def test_a_signal_leaves_nothing(
    echo_wheels: Path,
    tag: str,
    tmp_path: Path,
    phase: str,
    number: signal.Signals,
) -> None:
    """The status is a shell's; neither folder nor name is left."""
    process = subprocess.Popen(
        _command(
            *("envs/echo_env", "--tag", tag, "--no-cache"),
            *("--wheels", str(echo_wheels)),
        ),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_variables(TMPDIR=str(tmp_path)),
    )
    try:
        assert process.stderr is not None
        assert any(line.startswith(phase) for line in process.stderr)
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait(10)
    assert process.returncode == 128 + number, errors
    assert (output, list(tmp_path.iterdir())) == ("", [])
    assert "Traceback" not in errors
    assert docker("images", "--quiet", tag) == ""
