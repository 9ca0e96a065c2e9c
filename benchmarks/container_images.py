"""The images of all contenders, built where they are missing or out of date."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from benchmarks.cases import Payload
from benchmarks.container_engine import image_id, image_label
from benchmarks.openenv_venv import OPENENV_VERSION
from benchmarks.processes import ROOT, BenchmarkError, bench_folder, output_of
from openenv_async.errors import OpenEnvError
from openenv_async.images import DEFAULT_BASE, build_image

__all__ = ["Images", "prepare_images"]

_PACKAGES: Final[dict[Payload, str]] = {"text": "echo_env", "code": "coding_env"}
_LABEL: Final = "org.openenv-async.bench-digest"
_SMOLAGENTS: Final = "1.26.*"
"""The version that our coding environment has."""
_IGNORED: Final = ("__pycache__", "tests", "client", "providers", "rollout")
"""Folders of what no server runs."""
_BUILD_SECONDS: Final = 900.0

# The packages come as wheels, because the build has no network, and not all of pip's
# own choices would do without one. Bytecode is compiled when they are installed.
_DOCKERFILE: Final = f"""
FROM {DEFAULT_BASE} AS packages
COPY wheels /wheels
RUN python3 -m venv /opt/openenv && /opt/openenv/bin/python -m pip install \
    --quiet --no-index --find-links /wheels openenv=={OPENENV_VERSION} smolagents
FROM {DEFAULT_BASE} AS server
COPY --from=packages /opt/openenv /opt/openenv
COPY benchmarks /app/benchmarks
WORKDIR /app
ENV PATH=/opt/openenv/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 LANG=C.UTF-8
EXPOSE 8000
FROM server AS text
CMD ["uvicorn", "benchmarks.container_openenv_echo:app", "--host", "0.0.0.0", \
     "--port", "8000"]
FROM server AS code
CMD ["uvicorn", "benchmarks.container_openenv_coding:app", "--host", "0.0.0.0", \
     "--port", "8000"]
"""
_SERVERS: Final = (
    "__init__.py",
    "container_openenv_echo.py",
    "container_openenv_coding.py",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """Names of images, by what they serve."""

    sdk: dict[Payload, str]
    openenv: dict[Payload, str]
    """Empty where OpenEnv is left out."""

    def of(self, contender: str, payload: Payload) -> str:
        """Name the image of a contender; the bare one uses ours, for its Python."""
        return (self.openenv if contender == "openenv" else self.sdk)[payload]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.sdk.values(), *self.openenv.values())


async def prepare_images(
    given: dict[Payload, str], *, with_openenv: bool, say: Callable[[str], None]
) -> Images:
    """Build the images that are not there, or not of what the sources are now.

    Args:
        given: Images to take as they are.
        with_openenv: Whether OpenEnv's are wanted.
        say: Told about progress.

    Raises:
        BenchmarkError: One could not be built.
    """
    base = await image_id(DEFAULT_BASE)
    sdk = {
        payload: given.get(payload) or await _ours(package, base, say)
        for payload, package in _PACKAGES.items()
    }
    theirs: dict[Payload, str] = {}
    if with_openenv:
        theirs = {payload: await _theirs(payload, base, say) for payload in _PACKAGES}
    return Images(sdk=sdk, openenv=theirs)


async def _ours(package: str, base: str, say: Callable[[str], None]) -> str:
    tag = f"{package.replace('_', '-')}:bench"
    folder = ROOT / "envs" / package
    digest = await asyncio.to_thread(_digest_of, folder, base)
    if await image_label(tag, _LABEL) == digest:
        return tag
    say(f"building {tag}")
    try:
        await build_image(folder, tags=(tag,), labels={_LABEL: digest})
    except OpenEnvError as error:
        raise BenchmarkError(f"could not build {tag}: {error}") from error
    return tag


def _digest_of(package: Path, base: str) -> str:
    sources = [ROOT / "pyproject.toml"]
    for folder in (ROOT / "openenv_async", package):
        sources += [
            path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and not any(part in _IGNORED for part in path.relative_to(folder).parts)
        ]
    return _digest([base.encode(), *(path.read_bytes() for path in sources)])


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


async def _theirs(payload: Payload, base: str, say: Callable[[str], None]) -> str:
    tag = f"openenv-bench-{payload}:{OPENENV_VERSION}"
    sources = [(ROOT / "benchmarks" / name).read_bytes() for name in _SERVERS]
    digest = _digest([base.encode(), _DOCKERFILE.encode(), *sources])
    if await image_label(tag, _LABEL) == digest:
        return tag
    context = await _context(say)
    say(f"building {tag}")
    command = ["docker", "build", "--quiet", "--network", "none", "--target", payload]
    labels = ["--label", f"{_LABEL}={digest}", "--tag", tag]
    await output_of([*command, *labels, str(context)], timeout=_BUILD_SECONDS)
    return tag


async def _context(say: Callable[[str], None]) -> Path:
    """Fill the folder that the build of OpenEnv's images gets."""
    folder = bench_folder() / f"openenv-{OPENENV_VERSION}-image"
    wheels = folder / "wheels"
    if not (wheels / "complete").exists():
        say(f"downloading openenv {OPENENV_VERSION} for its images")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-input"]
        # For the image's Python, whichever ours is.
        fitting = ["--only-binary", ":all:", "--python-version", "3.11"]
        wanted = [f"openenv=={OPENENV_VERSION}", f"smolagents=={_SMOLAGENTS}"]
        await output_of(
            [*command, *fitting, "--dest", str(wheels), *wanted], timeout=_BUILD_SECONDS
        )
        # Written last: half a download is completed.
        (wheels / "complete").touch()
    (folder / "Dockerfile").write_text(_DOCKERFILE, encoding="utf-8")
    (folder / "benchmarks").mkdir(exist_ok=True)
    for name in _SERVERS:
        shutil.copy(ROOT / "benchmarks" / name, folder / "benchmarks" / name)
    return folder
