"""The base image's recipe and the tests' own engine do and refuse what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.chaos.processes import is_alive
from tests.engine import BASE_IMAGE, NOWHERE
from tests.images.containers import docker, eventually
from tests.sources import ROOT

MAKE_BASE = ROOT / "docker/base/make-base"
ENGINE = ROOT / ".ci/engine"

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "debootstrap"))),
    reason="needs root, dockerd and debootstrap",
)


def _run(
    *command: str | Path, timeout: float = 100, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **variables},
    )


# The base image


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "expected an option, got '--nonsense'"),
        (["--tag"], "expected a value behind --tag"),
        ([], f"expected a Docker engine at {NOWHERE}, got no answer"),
    ],
)
def test_the_recipe_says_what_it_expects(arguments: list[str], said: str) -> None:
    """Wrong options, and a missing engine."""
    outcome = _run(MAKE_BASE, *arguments, DOCKER_HOST=NOWHERE)
    assert outcome.returncode == 1
    assert outcome.stderr == f"make-base: {said}" + (
        "; --help lists them\n" if "--nonsense" in arguments else "\n"
    )


def test_the_recipe_explains_itself() -> None:
    """--help names what it needs."""
    outcome = _run(MAKE_BASE, "--help")
    assert outcome.returncode == 0
    for word in ("--tag", "--mirror", "debootstrap", "root"):
        assert word in outcome.stdout


@pytest.mark.docker
def test_the_recipe_leaves_an_image_alone() -> None:
    """Running it twice is no work."""
    outcome = _run(MAKE_BASE, "--tag", BASE_IMAGE)
    assert outcome.returncode == 0
    assert outcome.stdout.startswith(f"make-base: {BASE_IMAGE} is there already")


@needs_root
@pytest.mark.docker
@pytest.mark.timeout(60)
def test_the_recipe_cleans_up_when_it_fails(tmp_path: Path) -> None:
    """A mirror that cannot be reached is named, and no folder is left."""
    tag = f"openenv-async-test-{os.getpid()}:none"
    mirror = "http://127.0.0.1:9/debian"
    outcome = _run(*(MAKE_BASE, "--tag", tag, "--mirror", mirror), TMPDIR=str(tmp_path))
    assert outcome.returncode == 1
    assert f"is {mirror} reachable, and does it have bookworm?" in outcome.stderr
    assert list(tmp_path.iterdir()) == []
    assert docker("images", "--quiet", tag) == ""


# The engine


@pytest.fixture
def folder() -> Generator[Path]:
    """Where an engine keeps what it has; stopped at the end."""
    # On a real disk, and short.
    path = Path(tempfile.mkdtemp(prefix="engine-", dir="/var/tmp"))
    yield path
    _run(ENGINE, "stop", path)
    assert not path.exists()


@needs_root
@pytest.mark.docker
@pytest.mark.timeout(120)
@pytest.mark.parametrize("gracefully", [True, False])
def test_an_engine_of_its_own_leaves_nothing(
    folder: Path,
    gracefully: bool,
) -> None:
    """It has no other engine's images, and its processes, bridge and folder go."""
    started = _run(ENGINE, "start", folder)
    url = f"unix://{folder}/docker.sock"
    assert (started.returncode, started.stdout) == (0, f"engine: answers at {url}\n")
    listing = _run("docker", "images", "--quiet", DOCKER_HOST=url)
    assert (listing.returncode, listing.stdout) == (0, "")
    bridge = Path("/sys/class/net", (folder / "bridge").read_text().strip())
    assert bridge.exists()
    processes = _processes_of(folder)
    assert len(processes) >= 2, "the engine and its containerd"
    if not gracefully:
        os.kill(int((folder / "pid").read_text()), 9)
    assert _run(ENGINE, "stop", folder).returncode == 0
    assert not folder.exists()
    assert not bridge.exists()
    eventually(lambda: not any(map(is_alive, processes)), "its processes have ended")


def _processes_of(folder: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_text(errors="replace")
        except OSError:  # it has ended
            continue
        if f"{folder}/" in command:
            found.append(int(path.parent.name))
    return found


@needs_root
@pytest.mark.docker
@pytest.mark.timeout(120)
def test_an_engine_does_not_start_twice(folder: Path) -> None:
    """A folder in use is refused, and the engine in it goes on."""
    assert _run(ENGINE, "start", folder).returncode == 0
    second = _run(ENGINE, "start", folder)
    assert second.returncode == 1
    assert f"got {folder} in use" in second.stderr
    url = f"unix://{folder}/docker.sock"
    assert _run("docker", "version", DOCKER_HOST=url).returncode == 0


@pytest.mark.parametrize("arguments", [[], ["start"], ["pause", "folder"]])
def test_the_engine_says_what_it_expects(arguments: list[str], tmp_path: Path) -> None:
    """Wrong usage fails, and makes no folder."""
    words = [word.replace("folder", f"{tmp_path}/x") for word in arguments]
    outcome = _run(ENGINE, *words)
    assert outcome.returncode == 1
    assert list(tmp_path.iterdir()) == []
    assert outcome.stderr.startswith("engine: expected start or stop")
