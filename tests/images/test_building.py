"""Images are built without a network, and what prevents it is said in words."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from openenv_async import ProviderError
from openenv_async.errors import BuildFailed
from openenv_async.images import (
    BuildProgress,
    build_image,
    prepare_wheels,
)
from openenv_async.images.building import _decoder, _Output, _split
from openenv_async.images.context import workplace
from openenv_async.images.engine import refused
from tests.engine import NOWHERE
from tests.images.containers import docker, eventually
from tests.sources import ROOT

ECHO = ROOT / "envs/echo_env"

needs_engine = pytest.mark.docker
takes_long = pytest.mark.timeout(240)


@pytest.fixture
def tag() -> Iterator[str]:
    """A name for an image, which goes with the test."""
    name = f"openenv-async-test-{os.getpid()}:{os.urandom(4).hex()}"
    yield name
    docker("image", "rm", "--force", name, check=False)


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks an index fails at once."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


# What works


@needs_engine
@takes_long
@pytest.mark.usefixtures("no_index", "echo_image")
async def test_an_air_gapped_machine_builds_from_prepared_wheels(
    echo_wheels: Path, tag: str
) -> None:
    """Neither pip nor the steps of the build reach anything."""
    seen: list[BuildProgress] = []
    image = await build_image(
        ECHO, tags=[tag], wheels=echo_wheels, labels={"a": "b"}, progress=seen.append
    )
    assert (image.tags, image.target) == ((tag,), "echo_env")
    assert (image.package, image.version) == ("openenv-async-echo-env", "0.1.0")
    template = '{{.Id}} {{.Size}} {{index .Config.Labels "a"}}'
    said = await to_thread.run_sync(
        docker, "image", "inspect", "--format", template, tag
    )
    assert said == f"{image.id} {image.size} b"
    _check_progress(seen)


def _check_progress(seen: list[BuildProgress]) -> None:
    """Each phase comes in its turn, and counts to its end."""
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases == ["wheels", "context", "build"]
    for phase in ("context", "build"):
        counted = [(p.done, p.total) for p in seen if p.phase == phase and p.total]
        assert counted == sorted(counted, key=lambda pair: pair[0] or 0)
        assert counted[-1][0] == counted[-1][1]


@needs_engine
@takes_long
@pytest.mark.usefixtures("no_index", "echo_image")
async def test_the_base_image_has_the_server_alone(echo_wheels: Path, tag: str) -> None:
    """Without a package, the SDK's server is built, for other images to start from."""
    image = await build_image(None, tags=[tag], wheels=echo_wheels)
    assert (image.package, image.target) == ("openenv-async", "")
    said = await to_thread.run_sync(
        docker, "run", "--rm", "--entrypoint=openenv-async", tag, "--version"
    )
    assert said == image.version


async def test_wheels_for_another_machine_are_collected(tmp_path: Path) -> None:
    """Without an engine, for the platform that is asked for; and it says so."""
    seen: list[BuildProgress] = []
    found = await prepare_wheels(
        None, tmp_path, platform="linux/arm64", url=NOWHERE, progress=seen.append
    )
    names = {path.name.split("-")[0]: path.name for path in found}
    assert {"openenv_async", "dumb_init", "msgspec", "uvloop"} <= set(names)
    assert names["msgspec"].endswith("aarch64.whl")
    assert seen[0].phase == "base"
    assert "assuming Python 3.11 on aarch64" in seen[0].text


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("echo-env", ("echo-env", "latest")),
        ("echo-env:1", ("echo-env", "1")),
        ("localhost:5000/echo", ("localhost:5000/echo", "latest")),
        ("localhost:5000/echo:1", ("localhost:5000/echo", "1")),
        ("Registry.example.com/a__b/c-d:V_1", ("Registry.example.com/a__b/c-d", "V_1")),
    ],
)
def test_a_name_has_a_tag(name: str, parts: tuple[str, str]) -> None:
    """A colon in front of a slash belongs to a port."""
    assert _split(name) == parts


# What does not


async def test_no_engine_is_an_error_that_says_what_to_do() -> None:
    """It names the address."""
    with pytest.raises(ProviderError, match=f"engine at {NOWHERE}, got no answer"):
        await build_image(ECHO, url=NOWHERE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": ROOT / "envs/nowhere"}, "there is no such folder"),
        ({"path": ROOT / "envs"}, "without a pyproject.toml"),
        ({"path": ECHO, "wheels": ROOT / "nowhere"}, "expected a folder of wheels"),
        *(
            ({"path": ECHO, "tags": ["fine", name]}, f"image .* got {name!r}$")
            for name in ("Echo", "a:b:c", "a:", "two words", "a@b", "a//b", ":1", "")
        ),
    ],
)
async def test_what_is_not_there_is_named_before_the_engine_is_asked(
    arguments: dict[str, Any], said: str
) -> None:
    """The fault is the caller's."""
    with pytest.raises(ProviderError, match=said) as caught:
        await build_image(url=NOWHERE, **arguments)
    assert caught.value.fault == "caller"


@needs_engine
@takes_long
async def test_a_base_image_that_nobody_has_points_to_the_recipe() -> None:
    """Where the registry has none either, or cannot be reached."""
    with pytest.raises(BuildFailed) as caught:
        await build_image(ECHO, base="localhost:1/no-such-image:1")
    assert caught.value.code == "no_base_image"
    for said in ("'localhost:1/no-such-image:1'", "docker/base/make-base"):
        assert said in str(caught.value)


@needs_engine
@takes_long
async def test_a_base_image_without_python_is_named(tag: str, tmp_path: Path) -> None:
    """Before anything is collected or built."""
    await to_thread.run_sync(_make_empty_image, tmp_path, tag)
    with pytest.raises(BuildFailed, match=f"python3 in the base image '{tag}'"):
        await build_image(ECHO, base=tag)


def _make_empty_image(folder: Path, tag: str) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    docker("build", "--quiet", "--tag", tag, str(folder))


@needs_engine
@takes_long
@pytest.mark.usefixtures("no_index", "echo_image")
async def test_a_target_that_is_not_there_fails_the_build(
    echo_wheels: Path, tag: str
) -> None:
    """The error names the step and shows its last lines; no image gets the name."""
    with pytest.raises(BuildFailed) as caught:
        await build_image(ECHO, tags=[tag], target="echo_env:Nope", wheels=echo_wheels)
    assert "expected step " in caught.value.message
    assert caught.value.log.endswith(
        "expected 'Nope' in 'echo_env', got nothing of that name"
    )
    images = await to_thread.run_sync(docker, "images", "--quiet", tag)
    assert images == ""


@needs_engine
@takes_long
@pytest.mark.usefixtures("no_index", "echo_image")
async def test_cancelling_leaves_nothing(
    echo_wheels: Path, tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each phase: no folder, no container, no name."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = await to_thread.run_sync(_steps)
    for phase in ("wheels", "context", "build"):
        with anyio.CancelScope() as scope:
            await build_image(
                ECHO,
                tags=[tag],
                wheels=echo_wheels,
                use_cache=False,
                progress=_cancelling(scope, phase),
            )
        assert scope.cancelled_caught, phase
        assert [path async for path in anyio.Path(tmp_path).iterdir()] == []
    await to_thread.run_sync(
        eventually, lambda: _steps() <= before, "the engine has cleaned up"
    )
    assert await to_thread.run_sync(docker, "images", "--quiet", tag) == ""


def _cancelling(
    scope: anyio.CancelScope, phase: str
) -> Callable[[BuildProgress], None]:
    def progress(said: BuildProgress) -> None:
        if said.phase == phase:
            scope.cancel()

    return progress


def _steps() -> set[str]:
    """Containers of builds: what they run has no name yet."""
    rows = docker("ps", "--all", "--format", "{{.ID}} {{.Image}}").splitlines()
    pairs = [row.split() for row in rows]
    return {name for name, image in pairs if re.fullmatch("[0-9a-f]{12,}", image)}


# A full disk


async def test_a_full_disk_here_is_named() -> None:
    """The error says which disk, and how to choose another."""
    with pytest.raises(BuildFailed, match="TMPDIR chooses another disk") as caught:
        async with workplace():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.code == "disk_full"


def test_a_full_disk_there_is_named() -> None:
    """The engine's own words, and what makes room."""
    reason = "write /var/lib/docker/x: no space left on device"
    error = refused("step 3 of 9 (RUN x) to succeed", reason, "last line")
    assert error.code == "disk_full"
    assert reason in str(error)
    assert "docker system prune" in str(error)
    assert error.log == "last line"


# What the engine says


def _heard(*lines: bytes) -> tuple[_Output, list[BuildProgress]]:
    seen: list[BuildProgress] = []
    output = _Output(seen.append)
    for line in lines:
        output.take(_decoder.decode(line))
    return output, seen


def test_output_in_pieces_becomes_lines() -> None:
    """What goes to standard error comes in pieces, and in red."""
    _, seen = _heard(
        b'{"stream": "Step 2/7 : RUN x\\n"}',
        b'{"stream": "\\u001b[91mone "}',
        b'{"stream": "\\u001b[0m\\u001b[91mline\\n\\u001b[0m"}',
        b'{"stream": "\\n"}',
    )
    assert [progress.text for progress in seen] == ["Step 2/7 : RUN x", "one line"]
    assert {(progress.done, progress.total) for progress in seen} == {(2, 7)}


def test_a_failed_step_shows_its_own_lines() -> None:
    """Neither those of earlier steps nor the engine's book-keeping."""
    with pytest.raises(BuildFailed) as caught:
        _heard(
            b'{"stream": "Step 1/7 : RUN a\\n"}',
            b'{"stream": "earlier\\n"}',
            b'{"stream": "Step 2/7 : RUN   b\\n"}',
            b'{"stream": " ---> Running in 123\\n"}',
            b'{"stream": "why\\n"}',
            b'{"stream": "Removing intermediate container 123\\n"}',
            b'{"errorDetail": {"message": "The command \'b\\nc\' returned 1"}, '
            b'"error": "other words"}',
        )
    assert str(caught.value) == (
        "expected step 2 of 7 (RUN b) to succeed, got: its command returned 1\n\nwhy"
    )


def test_an_answer_that_breaks_off_is_no_success() -> None:
    """Without the image's digest there is no image."""
    output, _ = _heard(b'{"stream": "Step 1/7 : RUN a\\n"}')
    with pytest.raises(BuildFailed, match=r"step 1 of 7 .* ended its answer too early"):
        output.result()


def test_the_digest_is_the_result() -> None:
    """The last one, because each stage of a build has one."""
    output, _ = _heard(b'{"aux": {"ID": "sha256:1"}}', b'{"aux": {"ID": "sha256:2"}}')
    assert output.result() == "sha256:2"
