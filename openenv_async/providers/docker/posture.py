"""From options to what the engine is asked for: the fences around a container."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ...errors import ProviderError
from .client import NETWORK
from .engine import EngineFacts
from .options import ContainerOptions, Mount, bytes_of

__all__ = [
    "SOCKET_FOLDER",
    "Route",
    "container_config",
    "make_folder",
    "plan_route",
    "remove_folder",
    "seal_folder",
]

SOCKET_FOLDER: Final = "/run/openenv-async"
"""Where a container has the folder with its socket."""
_FALLBACK_USER: Final = "10001:10001"
"""Runs images that would run as root; not a user of any common system."""
_CPUS: Final = 2.0
_LOG_OPTIONS: Final = {"max-size": "10m", "max-file": "2"}
_PREFIX: Final = "openenv-docker-"
_MEMORY_FOLDERS: Final = ("/dev/shm",)
"""Filesystems in memory, beside the user's own.

What a container writes beside its socket then counts as its own memory, and cannot
fill the machine's disk.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route:
    """The way to a container's server.

    Args:
        folder: Ours alone; holds `run`, which is mounted. None for a published port.
        user: Whom the container runs as; None is the image's user.
        network: The network that it joins.
    """

    folder: Path | None
    user: str | None
    network: str

    @property
    def socket(self) -> Path:
        """The server's socket, seen from here."""
        assert self.folder is not None
        return self.folder / "run" / "s"


def plan_route(options: ContainerOptions, facts: EngineFacts, image_user: str) -> Route:
    """Choose socket or port, and make the socket's folder; blocks for a moment.

    Raises:
        ProviderError: The options do not fit the engine, or each other.
    """
    fallback = None if _is_harmless(image_user) else _FALLBACK_USER
    if _takes_socket(options, facts):
        user = options.user or _own_user() or fallback
        return Route(
            folder=Path(_base(), f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"),
            user=user,
            network=options.network or "none",
        )
    is_loopback = ipaddress.ip_address(options.publish).is_loopback
    if is_loopback and not facts.is_reachable_by_loopback:
        raise ProviderError(
            f"expected publish= to be an address of the engine's machine, because "
            f"{facts.url} is another one than this, got {options.publish!r}",
            fault="caller",
        )
    return Route(
        folder=None,
        user=options.user or fallback,
        network=options.network or NETWORK,
    )


def _takes_socket(options: ContainerOptions, facts: EngineFacts) -> bool:
    if options.connection == "tcp":
        return False
    obstacle = _obstacle(options, facts)
    if obstacle is None:
        return True
    if options.connection == "unix":
        raise ProviderError(
            f"connection='unix' expects {obstacle}; connection='tcp' publishes a port",
            fault="caller",
        )
    return False


def _obstacle(options: ContainerOptions, facts: EngineFacts) -> str | None:
    """What a socket expects and does not find."""
    if not facts.is_here:
        return f"an engine on this machine, got {facts.url}"
    own = _own_user()
    if own is not None and facts.maps_users:
        return "an engine that does not map users, or root here, got neither"
    if own is not None and options.user not in (None, own, own.partition(":")[0]):
        return f"user={own!r}, whose sockets we can use, got {options.user!r}"
    if options.command is not None or options.ports is not None:
        return "neither command= nor ports="
    return None


def _own_user() -> str | None:
    """The user that a socket must belong to so that we can use it; root uses any."""
    return None if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"


def _is_harmless(user: str) -> bool:
    return user.partition(":")[0] not in ("", "0", "root")


def make_folder(route: Route, facts: EngineFacts, image_user: str) -> None:
    """Make a folder that only we can enter, with one in it for the container.

    Raises:
        ProviderError: It cannot be made.
    """
    assert route.folder is not None
    inner = route.folder / "run"
    try:
        route.folder.mkdir(mode=0o700)
        inner.mkdir(mode=0o700)
        if os.geteuid() == 0:
            _give_away(inner, route.user or image_user, facts)
    except OSError as error:
        raise ProviderError(
            f"expected a folder for a socket in {route.folder.parent}: {error}"
        ) from error


def _give_away(folder: Path, user: str, facts: EngineFacts) -> None:
    number, _, group = user.partition(":")
    if number.isdecimal() and not facts.maps_users:
        os.chown(folder, int(number), int(group) if group.isdecimal() else -1)
    else:
        # We cannot know its number. Sticky, so that no other user of the container can
        # put a socket in the place of the server's.
        folder.chmod(0o1777)


def seal_folder(route: Route) -> None:
    """Take the folder back once the socket is in it; only root can; blocks.

    The container can then put nothing into it: no files, and no other socket, or link
    to one of ours, in the place of the server's.

    Raises:
        ProviderError: What is there is no socket, but a link to who knows what.
    """
    if route.folder is None:
        return
    if os.geteuid() == 0:
        inner = route.folder / "run"
        inner.chmod(0o111)
        os.chown(inner, 0, 0)
    # Afterwards, because until now the container could change it. A link leads to a
    # path of ours: clients would talk to another server, with our rights.
    if not _is_socket(route.socket):
        raise ProviderError(
            f"expected the server's socket at {str(route.socket)!r}, got something "
            "else: the container has put it there"
        )


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def _base() -> str:
    for name in (f"/run/user/{os.geteuid()}", *_MEMORY_FOLDERS):
        if os.access(name, os.W_OK | os.X_OK):
            return name
    return tempfile.gettempdir()


def remove_folder(name: str) -> None:
    """Remove a folder of ours, and nothing that only pretends to be one; blocks."""
    folder = Path(name)
    with contextlib.suppress(OSError):
        if not folder.name.startswith(_PREFIX) or folder.is_symlink():
            return
        if os.geteuid() in (0, folder.stat().st_uid):
            shutil.rmtree(folder, ignore_errors=True)


def container_config(
    options: ContainerOptions,
    facts: EngineFacts,
    route: Route,
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """The engine's description of the container.

    Raises:
        ProviderError: The engine has fewer processors than the options say.
    """
    config: dict[str, Any] = {
        "Image": options.image,
        "Cmd": _command(options, route),
        "Env": [f"{name}={text}" for name, text in _environment(options, route)],
        "Labels": dict(labels),
        # We look ourselves; a process in each container twice a minute would be the
        # larger part of what many idle ones cost.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(options, facts, route),
    }
    if route.user is not None:
        config["User"] = route.user
    if options.entrypoint is not None:
        config["Entrypoint"] = list(options.entrypoint)
    if route.folder is None:
        config["ExposedPorts"] = {f"{options.port}/tcp": {}}
    return config


def _command(options: ContainerOptions, route: Route) -> list[str] | None:
    if options.command is not None:
        # An empty one leaves the image's own.
        return list(options.command) or None
    if route.folder is None:
        # On the machine's own network nothing is published, so it must not listen to
        # more than what would have been.
        host = options.publish if route.network == "host" else "0.0.0.0"
        listening = ["--host", host, "--port", str(options.port)]
    else:
        listening = ["--uds", f"{SOCKET_FOLDER}/s"]
    idle = ["--idle-timeout", str(options.idle_timeout)]
    return [*listening, *idle, *options.arguments]


def _environment(options: ContainerOptions, route: Route) -> Iterator[tuple[str, str]]:
    if route.user is not None and "HOME" not in options.environment:
        # The image's is for the image's user, and hardly writable.
        yield "HOME", "/tmp"
    yield from options.environment.items()


def _host_config(
    options: ContainerOptions, facts: EngineFacts, route: Route
) -> dict[str, Any]:
    memory = bytes_of(options.memory)
    host: dict[str, Any] = {
        "NetworkMode": route.network,
        "CapDrop": ["ALL"],
        "CapAdd": [name.removeprefix("CAP_") for name in options.capabilities],
        "SecurityOpt": [
            *([] if options.new_privileges else ["no-new-privileges"]),
            *options.security,
        ],
        "ReadonlyRootfs": options.read_only,
        "Tmpfs": {path: _tmpfs(text) for path, text in options.tmpfs.items()},
        "Mounts": _mounts(options, route),
        "PidsLimit": options.pids,
        "Memory": memory,
        # With the swap: as much as the memory alone means none.
        "MemorySwap": memory,
        "NanoCpus": int(_cpus(options, facts) * 1e9),
        "IpcMode": "private",
        "LogConfig": {"Type": "json-file", "Config": _LOG_OPTIONS},
        # Its exit status and log are read after its death.
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
    }
    if options.runtime is not None:
        host["Runtime"] = options.runtime
    if route.folder is None:
        first, last = options.ports or ("", "")
        port = f"{first}-{last}" if first != last else str(first)
        binding = {"HostIp": options.publish, "HostPort": port}
        host["PortBindings"] = {f"{options.port}/tcp": [binding]}
    if route.network == NETWORK:
        # Otherwise the engine would look names up outside for the container.
        host["Dns"] = ["127.0.0.1"]
    return host


def _cpus(options: ContainerOptions, facts: EngineFacts) -> float:
    if options.cpus is None:
        return min(_CPUS, float(facts.cpus))
    if options.cpus > facts.cpus:
        raise ProviderError(
            f"expected cpus of at most {facts.cpus}, which is all that the engine "
            f"has, got {options.cpus!r}",
            fault="caller",
        )
    return options.cpus


def _tmpfs(text: str) -> str:
    size, *words = text.split(",")
    execution = "exec" if "exec" in words else "noexec"
    return f"rw,nosuid,nodev,{execution},mode=1777,size={bytes_of(size)}"


def _mounts(options: ContainerOptions, route: Route) -> list[dict[str, Any]]:
    mounts = list(options.mounts)
    if route.folder is not None:
        folder = str(route.folder / "run")
        mounts.append(Mount(source=folder, target=SOCKET_FOLDER, writable=True))
    return [
        {
            "Type": "bind" if mount.source.startswith("/") else "volume",
            "Source": mount.source,
            "Target": mount.target,
            "ReadOnly": not mount.writable,
        }
        for mount in mounts
    ]
