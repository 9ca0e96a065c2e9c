"""`openenv-async cleanup` removes what nobody owns, and says so."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest

from openenv_async.providers.docker.identity import current_owner, default_name
from tests.chaos.processes import ROOT
from tests.providers.containers import LABEL, containers_of, docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(60)]


def _cleanup(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "openenv_async.cli", "cleanup", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"},
    )


class _Left:
    """Containers as owners leave them."""

    def __init__(self, image: str) -> None:
        self._image = image
        self.run = secrets.token_hex(6)

    def add(self, **labels: str) -> str:
        """Start one that says it is this process's, or what the labels say."""
        owner = current_owner()
        name = f"openenv-{secrets.token_hex(6)}"
        stamped = {
            "name": name,
            "run": self.run,
            "owner": self.run,
            "host": owner.host,
            "boot": owner.boot,
            "pid": str(owner.pid),
            "start": owner.start,
            "lease": "600",
            **labels,
        }
        flags = [f"--label={LABEL}.{key}={text}" for key, text in stamped.items()]
        docker(
            "run", "-d", "--name", name, *flags, "--entrypoint=sleep", self._image, "60"
        )
        return name


@pytest.fixture
def left(echo_image: str) -> Iterator[_Left]:
    """Containers to clean up; what a test does not, goes at its end."""
    left = _Left(echo_image)
    yield left
    for name in containers_of(left.run):
        docker("rm", "-f", name)


def test_cleanup_lists_and_removes_orphans(left: _Left) -> None:
    """A dry run says what a run removes: what has no owner, and nothing else."""
    kept, lost = left.add(), left.add(start="1")
    dry = _cleanup("--dry-run")
    assert dry.returncode == 0
    assert f"would remove {lost} " in dry.stdout
    assert f"its owner, process {os.getpid()}, is gone" in dry.stdout
    assert kept not in dry.stdout
    assert containers_of(left.run) == sorted([kept, lost])
    outcome = _cleanup()
    assert outcome.returncode == 0
    assert f"removed {lost} " in outcome.stdout
    assert containers_of(left.run) == [kept]
    assert lost not in _cleanup().stdout


def test_cleanup_removes_all_of_an_owner(left: _Left) -> None:
    """All of one owner's go when that is asked for, and those of others stay."""
    mine, other = left.add(), left.add(owner="somebody-else")
    outcome = _cleanup("--all-mine", "--owner", left.run)
    assert f"removed {mine} " in outcome.stdout
    assert containers_of(left.run) == [other]


def test_cleanup_takes_the_user_for_the_owner(left: _Left) -> None:
    """Without a name, mine are those of the user who asks."""
    mine, other = left.add(owner=default_name()), left.add()
    outcome = _cleanup("--all-mine", "--dry-run")
    assert f"would remove {mine} " in outcome.stdout
    assert other not in outcome.stdout


def test_cleanup_says_when_there_is_nothing(left: _Left) -> None:
    """With nothing to remove, it says so."""
    left.add()
    _cleanup()
    outcome = _cleanup()
    assert (outcome.returncode, outcome.stdout) == (0, "nothing to remove\n")


def test_cleanup_without_an_engine_fails() -> None:
    """An engine that does not answer is an error with a way out, and exit status 1."""
    outcome = _cleanup("--engine", "unix:///no/such/socket")
    assert outcome.returncode == 1
    assert "expected a container engine at unix:///no/such/socket" in outcome.stderr
    assert outcome.stdout == ""
