"""What this machine has of what environments, containers and the debug pane need."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import anyio
import msgspec

from .environment import ENTRY_POINTS
from .errors import LocalProtocolError, OpenEnvError
from .providers.docker import Engine
from .version import VERSION

__all__ = ["EXAMINATIONS", "Finding", "Status", "diagnose"]

Status = Literal["ok", "missing", "broken"]
"""`missing`: something that not everybody needs. `broken`: nothing works without."""

_DOCKER: Final = "https://docs.docker.com/engine/install/"
_FILES: Final = 4096
"""Open files below which a server soon runs out of sockets."""
_PROCESSES: Final = 1024
_PORT: Final = 8000
_PATIENCE: Final = 10.0
"""Seconds that each examination has."""
_SOCKET_PATH: Final = 100
"""Bytes of a Unix socket's path that every system allows."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one thing."""

    name: str
    status: Status
    found: str
    """What is there."""
    advice: str = ""
    """How to get what is missing; empty where nothing is."""


Examination: TypeAlias = Callable[[], Awaitable[Finding]]


async def diagnose(
    names: Sequence[str] | None = None, *, required: Sequence[str] = ()
) -> AsyncIterator[Finding]:
    """Look at one thing after the other; changes nothing on this machine.

    Args:
        names: Which of `EXAMINATIONS`; None makes all.
        required: Those of which a missing thing counts as broken.

    Raises:
        LocalProtocolError: There is no examination of that name.
    """
    chosen = list(EXAMINATIONS) if names is None else list(names)
    for name in [*chosen, *required]:
        if name not in EXAMINATIONS:
            raise LocalProtocolError(
                f"expected one of {list(EXAMINATIONS)!r}, got {name!r}"
            )
    for name in dict.fromkeys([*chosen, *required]):
        finding = Finding(name=name, status="broken", found="no answer in time")
        with anyio.move_on_after(_PATIENCE):
            finding = await EXAMINATIONS[name]()
        if finding.status == "missing" and name in required:
            finding = msgspec.structs.replace(finding, status="broken")
        yield finding


def _packages(name: str, wanted: Sequence[str], *, extra: str = "") -> Finding:
    """Versions of packages, which an extra of ours brings if they are missing."""
    found: list[str] = []
    missing: list[str] = []
    for package in wanted:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if not missing:
        return Finding(name=name, status="ok", found=", ".join(found))
    wheel = f"openenv-async[{extra}]" if extra else "openenv-async"
    return Finding(
        name=name,
        status="missing" if extra else "broken",
        found=", ".join([*found, f"no {' or '.join(missing)}"]),
        advice=f"pip install '{wheel}'",
    )


def _versions() -> Finding:
    core = _packages("versions", ("msgspec", "websockets", "anyio"))
    python = f"openenv-async {VERSION}, Python {platform.python_version()}"
    return msgspec.structs.replace(
        core, found=f"{python} on {platform.platform(terse=True)}, {core.found}"
    )


def _server() -> Finding:
    return _packages("server", ("starlette", "uvicorn", "httptools"), extra="server")


def _uvloop() -> Finding:
    finding = _packages("uvloop", ("uvloop",), extra="server")
    if sys.platform == "win32":
        return Finding(name="uvloop", status="ok", found="not made for Windows")
    return finding


def _numpy() -> Finding:
    return _packages("numpy", ("numpy",), extra="numpy")


def _cores() -> Finding:
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    if count > 1:
        return Finding(name="cores", status="ok", found=f"{count}")
    return Finding(
        name="cores",
        status="missing",
        found="1: client and server take turns, and nobody polls for replies",
        advice="give this process a second core",
    )


def _limits() -> Finding:
    try:
        # Not there on Windows.
        resource = importlib.import_module("resource")
    except ImportError:
        return Finding(name="limits", status="ok", found="none on this system")
    texts: list[str] = []
    advice: list[str] = []
    for flag, name, what, least in (
        ("n", "RLIMIT_NOFILE", "open files", _FILES),
        ("u", "RLIMIT_NPROC", "processes and threads", _PROCESSES),
    ):
        soft, hard = resource.getrlimit(getattr(resource, name))
        is_endless = soft == resource.RLIM_INFINITY
        texts.append(f"{'any number of' if is_endless else soft} {what}")
        if not is_endless and soft < least:
            how = f"ulimit -{flag} {least}"
            if hard != resource.RLIM_INFINITY and hard < least:
                how += f" as root, because the hard limit is {hard}"
            advice.append(how)
    status: Status = "missing" if advice else "ok"
    return Finding(
        name="limits", status=status, found=", ".join(texts), advice="; ".join(advice)
    )


def _sockets() -> Finding:
    """Make a Unix socket where local servers make theirs."""
    with tempfile.TemporaryDirectory(prefix="openenv-") as folder:
        path = Path(folder) / "s"
        advice = "set TMPDIR to a folder with a short path that allows Unix sockets"
        if len(os.fsencode(path)) > _SOCKET_PATH:
            return Finding(
                name="sockets",
                status="broken",
                found=f"{path} is too long for a Unix socket",
                advice=advice,
            )
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
                bound.bind(str(path))
        except (OSError, AttributeError) as error:
            return Finding(
                name="sockets",
                status="broken",
                found=f"no Unix socket in {folder}: {error}",
                advice=advice,
            )
    return Finding(
        name="sockets", status="ok", found=f"Unix sockets in {tempfile.gettempdir()}"
    )


def _port() -> Finding:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as bound:
        # As a server does it, so that one that has just ended is no obstacle.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", _PORT))
        except OSError as error:
            return Finding(
                name="port",
                status="missing",
                found=f"127.0.0.1:{_PORT} is not free: {error.strerror}",
                advice="serve with --port 0, or end what listens there",
            )
    return Finding(name="port", status="ok", found=f"127.0.0.1:{_PORT} is free")


def _environments() -> Finding:
    """Import what is installed, because an entry point alone says little."""
    found: list[str] = []
    broken: list[str] = []
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
            found.append(entry.name)
        except Exception as error:  # noqa: BLE001 (what it raises is what is told)
            broken.append(f"{entry.name} ({type(error).__name__}: {error})")
    if broken:
        return Finding(
            name="environments",
            status="broken",
            found=f"cannot be imported: {', '.join(broken)}",
            advice="install what their server needs: pip install 'NAME[server]'",
        )
    if not found:
        return Finding(
            name="environments",
            status="missing",
            found="none installed",
            advice="openenv-async init NAME makes one",
        )
    return Finding(name="environments", status="ok", found=", ".join(sorted(found)))


async def _engine() -> Finding:
    try:
        facts = await Engine().facts()
    except OpenEnvError as error:
        return Finding(
            name="engine",
            status="missing",
            found=error.message,
            advice=f"install and start Docker ({_DOCKER}), or set DOCKER_HOST",
        )
    where = "on this machine" if facts.is_here else "on another machine"
    return Finding(
        name="engine",
        status="ok",
        found=f"API {facts.api} at {facts.url}, {where}, {facts.cpus} processors",
    )


async def _browser() -> Finding:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = await _which(name)
        if path is not None:
            version = await _output([path, "--version", "--no-sandbox"])
            return Finding(
                name="browser", status="ok", found=f"{path}: {version or 'no version'}"
            )
    return Finding(
        name="browser",
        status="missing",
        found="no Chromium on the PATH; only tests in a browser need it",
        advice="apt-get install chromium",
    )


async def _bubblewrap() -> Finding:
    path = await _which("bwrap")
    if path is None:
        return Finding(
            name="bubblewrap",
            status="missing",
            found="no bwrap on the PATH; local coding sessions do without its fences",
            advice="apt-get install bubblewrap",
        )
    probe = [path, "--ro-bind", "/", "/", "--unshare-all", "--", "/bin/true"]
    if await _output(probe) is None:
        return Finding(
            name="bubblewrap",
            status="missing",
            found=f"{path} is there, but cannot make namespaces here",
            advice="allow user namespaces: sysctl kernel.unprivileged_userns_clone=1",
        )
    return Finding(
        name="bubblewrap",
        status="ok",
        found=f"{path}: {await _output([path, '--version'])}",
    )


async def _which(command: str) -> str | None:
    return await anyio.to_thread.run_sync(shutil.which, command)


async def _output(command: Sequence[str]) -> str | None:
    """What a command says; None if it fails or is not there."""
    try:
        done = await anyio.run_process(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
    except OSError:
        return None
    if done.returncode:
        return None
    return done.stdout.decode(errors="replace").strip()


def _threaded(examine: Callable[[], Finding]) -> Examination:
    """Let it read files without keeping the event loop."""

    async def run() -> Finding:
        return await anyio.to_thread.run_sync(examine, abandon_on_cancel=True)

    return run


EXAMINATIONS: Final[dict[str, Examination]] = {
    "versions": _threaded(_versions),
    "server": _threaded(_server),
    "uvloop": _threaded(_uvloop),
    "numpy": _threaded(_numpy),
    "cores": _threaded(_cores),
    "limits": _threaded(_limits),
    "sockets": _threaded(_sockets),
    "port": _threaded(_port),
    "environments": _threaded(_environments),
    "engine": _engine,
    "browser": _browser,
    "bubblewrap": _bubblewrap,
}
"""Every examination by name, in the order in which they are made."""
