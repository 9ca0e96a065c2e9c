"""A Docker engine for tests, and the images that they start.

The images are built with `openenv-async build`, before the first test and only where a
chosen test asks for one, because a build takes longer than a test may. An image keeps a
digest of what it was built from, so that it is built once, not in every run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio
import pytest

from openenv_async.images import prepare_wheels

__all__ = ["BASE_IMAGE", "NOWHERE"]

BASE_IMAGE: Final = "python:3.11-slim"
NOWHERE: Final = "unix:///nowhere/docker.sock"
"""Where no engine listens."""

_ROOT: Final = Path(__file__).parents[1]
_IMAGES: Final = {
    "echo_image": ("envs/echo_env", "echo-env:test", "server"),
    "coding_image": ("envs/coding_env", "coding-env:test", "server,tasks"),
}
"""Fixture, package, tag and extras."""
_DIGEST: Final = "org.openenv-async.test-digest"
_LOCK: Final = Path(tempfile.gettempdir()) / "openenv-async-test-images.lock"
_TIMEOUT: Final = 600.0
"""Seconds for one build."""
_IGNORED: Final = ("__pycache__", "tests", "client", "providers", "rollout")
"""Folders of what no server runs."""

_outcomes: dict[str, str | Exception] = {}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the images that the chosen tests ask for."""
    if session.config.option.collectonly or not os.environ.get("DOCKER_HOST", "/"):
        return
    wanted = {
        name
        for item in session.items
        for name in getattr(item, "fixturenames", ())
        if name in _IMAGES
    }
    if not wanted or not _engine_answers():
        return
    for name in sorted(wanted):
        try:
            _outcomes[name] = _built(*_IMAGES[name])
        except (OSError, subprocess.SubprocessError) as error:
            _outcomes[name] = error


@pytest.fixture(scope="session")
def engine_url() -> str:
    """Where the engine listens; as Docker's own tools, it follows DOCKER_HOST."""
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


@pytest.fixture(scope="session")
def echo_image() -> str:
    """An image of envs/echo_env."""
    return _image("echo_image")


@pytest.fixture(scope="session")
def coding_image() -> str:
    """An image of envs/coding_env."""
    return _image("coding_image")


@pytest.fixture(scope="session")
def echo_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an image of envs/echo_env needs, collected as a machine without engine does.

    It takes longer than a test may by default.
    """
    folder = tmp_path_factory.mktemp("prepared") / "wheels"
    anyio.run(lambda: prepare_wheels(_ROOT / "envs/echo_env", folder, url=NOWHERE))
    return folder


def _image(name: str) -> str:
    outcome = _outcomes.get(name, RuntimeError("no Docker engine answered"))
    if isinstance(outcome, subprocess.CalledProcessError):
        pytest.fail(f"{outcome}\n{outcome.stderr}", pytrace=False)
    if isinstance(outcome, Exception):
        pytest.fail(str(outcome), pytrace=False)
    return outcome


def _built(package: str, tag: str, extras: str) -> str:
    """The tag of an image of what the package is now."""
    with _locked():
        digest = f"{_digest(package)} {extras}"
        if _label(tag) != digest:
            subprocess.run(
                [
                    *(sys.executable, "-m", "openenv_async.cli", "build", package),
                    *("--tag", tag, "--base", BASE_IMAGE, "--extras", extras),
                    *("--label", f"{_DIGEST}={digest}"),
                ],
                cwd=_ROOT,
                check=True,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
            )
    return tag


@contextmanager
def _locked() -> Iterator[None]:
    """One build at a time, also when several test runs share the engine."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(package: str) -> str:
    """Of every file that goes into the image, and of what it starts from."""
    digest = hashlib.sha256(_inspect(BASE_IMAGE, "{{.Id}}").encode())
    for folder in ("openenv_async", package):
        for path in sorted((_ROOT / folder).rglob("*")):
            parts = path.relative_to(_ROOT / folder).parts
            if path.is_file() and not any(part in _IGNORED for part in parts):
                digest.update(f"{path.relative_to(_ROOT)}\0".encode())
                digest.update(path.read_bytes())
    digest.update((_ROOT / "pyproject.toml").read_bytes())
    return digest.hexdigest()


def _label(image: str) -> str:
    return _inspect(image, f'{{{{index .Config.Labels "{_DIGEST}"}}}}')


def _inspect(image: str, template: str) -> str:
    """What the engine knows of an image; empty if it has none such."""
    command = ["docker", "image", "inspect", "--format", template, image]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return outcome.stdout.strip()


def _engine_answers() -> bool:
    try:
        return not subprocess.run(
            ["docker", "version"], capture_output=True, timeout=10
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False
