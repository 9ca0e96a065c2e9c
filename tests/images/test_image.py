"""What an image promises: its contents, and how its containers live and end."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Generator

import pytest

from echo_env import EchoAction, EchoEnv
from openenv_async import version
from tests.chaos.processes import short_folder
from tests.images.containers import docker, eventually, running, state

pytestmark = [pytest.mark.docker, pytest.mark.timeout(60)]

FENCED = ("--network=none", "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp")
HEALTH = ("/opt/openenv/bin/python", "-I", "-S", "/opt/openenv/health.py")


@pytest.fixture(scope="module")
def asleep(echo_image: str) -> Generator[str]:
    """A container of the image in which nothing is served."""
    with running(
        echo_image, "-c", "sleep 600", options=("--entrypoint=/bin/sh",)
    ) as name:
        yield name


def _inside(name: str, command: str) -> str:
    return docker("exec", name, "/bin/sh", "-c", command)


def _is_healthy(name: str) -> bool:
    command = ["docker", "exec", name, *HEALTH]
    return not subprocess.run(command, capture_output=True, timeout=20).returncode


def _port(name: str) -> str:
    return docker("port", name, "8000/tcp").splitlines()[0]


def _echo(url: str) -> str:
    with EchoEnv(url).sync() as env:
        env.reset()
        return env.step(EchoAction(message="hi")).observation.echoed_message


# What is in it


def test_the_server_is_no_root(asleep: str) -> None:
    """Its user has a number, as some clusters want it, and no password."""
    assert _inside(asleep, "id -u; id -g") == "10001\n10001"
    config = docker("inspect", "--format", "{{.Config.User}}", asleep)
    assert config == "10001:10001"


def test_the_server_may_write_nothing_of_its_own(asleep: str) -> None:
    """Only its temporary folder, and the one for its socket."""
    writable = _inside(
        asleep,
        "find / -xdev -writable ! -type l ! -path '/proc/*' ! -path '/sys/*' "
        "! -path '/dev/*' -print 2>/dev/null || true",
    )
    expected = {"/tmp", "/var/tmp", "/run/lock", "/run/openenv"}
    assert set(writable.splitlines()) <= expected
    assert "/run/openenv" in writable


def test_no_tools_of_the_build_are_left(asleep: str) -> None:
    """No compiler, no pip beside the server's packages, no cache, no wheels."""
    tools = "gcc cc c++ make ld as tini wget curl git"
    assert _inside(asleep, f"command -v {tools} || true") == ""
    found = _inside(
        asleep,
        "find / -xdev \\( -name '*.whl' -o -path '/opt/openenv/*/pip' "
        "-o -path '*/.cache/pip' -o -path '/context' \\) "
        "! -path '/usr/share/python-wheels/*' ! -path '*/ensurepip/*' 2>/dev/null "
        "|| true",
    )
    assert found == ""


def test_bytecode_is_there(asleep: str) -> None:
    """A server that may write nothing does not compile its packages at each start."""
    loaded = _inside(
        asleep,
        "python -v -c 'import echo_env.server.environment, openenv_async.cli.serve' "
        "2>&1",
    )
    names = [line for line in loaded.splitlines() if line.startswith("# code object")]
    assert len(names) > 200
    assert [name for name in names if ".pyc" not in name] == []


def test_labels_say_what_it_is(echo_image: str) -> None:
    """Target, package, version and the SDK's version, for machines and for people."""
    template = "{{json .Config.Labels}}"
    labels = json.loads(docker("image", "inspect", "--format", template, echo_image))
    ours = {
        key.removeprefix("org.openenv-async."): value
        for key, value in labels.items()
        if key.startswith("org.openenv-async.") and "test" not in key
    }
    assert ours == {
        "environment": "echo_env",
        "package": "openenv-async-echo-env",
        "version": "0.1.0",
        "sdk-version": version.VERSION,
    }
    for key in ("title", "description", "version"):
        assert labels[f"org.opencontainers.image.{key}"]


def test_it_is_small(echo_image: str) -> None:
    """What we add to the base image is below 60 MB."""
    template = "{{.Size}}"
    sizes = [
        int(docker("image", "inspect", "--format", template, image))
        for image in ("python:3.11-slim", echo_image)
    ]
    assert 0 < sizes[1] - sizes[0] < 60e6


# How it serves


def test_it_serves_at_a_port(echo_image: str) -> None:
    """By default at port 8000 on all addresses, as `docker run -p` expects."""
    with running(echo_image, options=("--publish=127.0.0.1::8000",)) as name:
        eventually(lambda: _is_healthy(name), "the server is well")
        assert _echo(f"ws://{_port(name)}") == "hi"


def test_it_serves_at_a_socket_without_a_network(echo_image: str) -> None:
    """With all fences, through a folder of the host."""
    with short_folder() as folder:
        os.chown(folder, 10001, 10001)
        options = (*FENCED, f"--volume={folder}:/run/openenv")
        with running(echo_image, "--uds", "/run/openenv/s", options=options) as name:
            eventually(lambda: _is_healthy(name), "the server is well")
            assert _echo(f"ws+unix://{folder}/s") == "hi"
            docker("stop", name)
            assert not (folder / "s").exists()


def test_the_engine_runs_the_health_check(echo_image: str) -> None:
    """The image's own check turns a container's state to healthy."""
    with running(echo_image, options=("--health-interval=1s",)) as name:
        eventually(
            lambda: state(name, "Health.Status") == "healthy", "the engine says so"
        )


def test_a_server_that_hangs_is_unwell(echo_image: str) -> None:
    """A process that is there but does not answer fails the check, in time."""
    with running(echo_image) as name:
        eventually(lambda: _is_healthy(name), "the server is well")
        _inside(name, "kill -STOP $(cat /proc/1/task/1/children)")
        before = time.monotonic()
        assert not _is_healthy(name)
        assert time.monotonic() - before < 6


@pytest.mark.parametrize("target", ["no_such_env", "echo_env no_such_env"])
def test_the_target_can_be_replaced(echo_image: str, target: str) -> None:
    """A variable says what to serve, in words as `serve` takes them."""
    options = (f"--env=OPENENV_ASYNC_TARGET={target}",)
    with running(echo_image, options=options) as name:
        assert docker("wait", name) == "2"
        assert "'no_such_env'" in _errors(name)


def _errors(name: str) -> str:
    command = ["docker", "logs", name]
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stderr


# How it ends


@pytest.mark.parametrize("connected", [False, True])
def test_it_stops_gracefully(echo_image: str, connected: bool) -> None:
    """SIGTERM ends it within seconds, with status 0, also while clients are there."""
    with running(echo_image, options=("--publish=127.0.0.1::8000",)) as name:
        eventually(lambda: _is_healthy(name), "the server is well")
        with EchoEnv(f"ws://{_port(name)}", reconnect_timeout=0.2).sync() as env:
            if connected:
                env.reset()
            before = time.monotonic()
            docker("stop", "--time=30", name)
            assert time.monotonic() - before < 5
        assert state(name, "ExitCode") == "0"


def test_orphans_are_reaped(echo_image: str) -> None:
    """What a dead process leaves behind does not stay as a zombie."""
    with running(echo_image) as name:
        _inside(name, "(sleep 0.2 &) ; true")
        # `docker exec` adopts nobody: the orphan's new parent is the first process.
        time.sleep(0.5)
        states = _inside(name, "cat /proc/[0-9]*/stat 2>/dev/null || true")
        zombies = [
            line for line in states.splitlines() if line.rpartition(")")[2][1] == "Z"
        ]
        assert zombies == []


def test_an_image_without_a_target_says_what_it_lacks(echo_image: str) -> None:
    """Nothing to serve is an error, not a server of nothing."""
    with running(echo_image, options=("--env=OPENENV_ASYNC_TARGET=",)) as name:
        docker("wait", name)
        assert state(name, "ExitCode") != "0"
        assert "expected what to serve" in _errors(name)


def test_options_of_the_server_are_passed_on(echo_image: str) -> None:
    """The last of two options counts, so ours can be replaced."""
    with running(echo_image, "--port", "9000", "--max-sessions", "3") as name:
        eventually(lambda: _is_healthy(name), "the server is well")
        eventually(lambda: ":9000" in docker("logs", name), "it says where")
