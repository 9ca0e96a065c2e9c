"""What can be said of a container before it exists, checked as soon as it is said."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, Literal, TypeAlias, TypedDict

from ...errors import ProviderError

__all__ = ["ContainerOptions", "DockerOptions", "Mount", "bytes_of"]

_SIZE: Final = re.compile(r"(\d+)([bkmg]?)", re.IGNORECASE)
_FACTORS: Final = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_MEMORY: Final = range(6 * 1024**2, 2**63)
"""Bytes that the engine does not refuse."""
_SECCOMP: Final = re.compile(r"seccomp[=:](unconfined|builtin|\s*\{.*)", re.DOTALL)
_CAPABILITY: Final = re.compile(r"(CAP_)?[A-Z_]+")
_USER: Final = re.compile(r"[\w.-]+(:[\w.-]+)?")
_VARIABLE: Final = re.compile(r"[^=\0\s]+")
_LABEL: Final = re.compile(r"[\w.-]{1,64}")
_ADDRESS: Final = re.compile(r"(unix|tcp|http|https)://.")
_TMPFS_WORDS: Final = frozenset({"exec", "noexec"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mount:
    """Something of the engine's machine that a container sees.

    Args:
        source: Absolute path of a file or folder, or the name of a volume.
        target: Absolute path in the container.
        writable: Whether the container may change it.
    """

    source: str
    target: str
    writable: bool = False


class DockerOptions(TypedDict, total=False):
    """The options of `DockerProvider`, by name. None are needed.

    What protects the machine from a container is on unless an option relaxes it, and
    the option's name says what.
    """

    connection: Literal["auto", "unix", "tcp"]
    """How to reach the server: by a Unix socket in a mounted folder, or by a port.

    "auto" takes the socket where the engine runs on this Linux machine."""
    network: str | None
    """The engine's network to join, such as "bridge"; it opens the way out.

    None joins no network at all when connected by the socket, and by a port a network
    without a way out to the internet."""
    memory: str | int
    """Most memory, as bytes or with a unit: "512m", "2g" (the default). No swap."""
    cpus: float | None
    """Most processor time, in processors; None is 2, or all if there are fewer."""
    pids: int
    """Most processes and threads; 1024."""
    tmpfs: Mapping[str, str]
    """Folders in memory by their size: {"/tmp": "256m"}. They count as memory.

    Nothing in them can be executed unless the size is followed by ",exec"."""
    read_only: bool
    """Whether everything else is read-only; true."""
    capabilities: Sequence[str]
    """Linux capabilities to keep, such as "NET_ADMIN"; none."""
    new_privileges: bool
    """Whether a program may gain privileges, as by setuid; false."""
    user: str | None
    """User, as name or number, with or without a group.

    None is the image's user unless that is root; and where the socket must be ours,
    the user of this process."""
    security: Sequence[str]
    """More of the engine's security options, such as "apparmor=my-profile".

    A profile of seccomp is given as its text, f"seccomp={path.read_text()}": engines
    read no files of ours."""
    runtime: str | None
    """The engine's runtime, such as "runsc"; None is its default."""
    mounts: Sequence[Mount]
    """What else of the machine it sees; nothing."""
    environment: Mapping[str, str]
    """Environment variables to add."""
    arguments: Sequence[str]
    """Arguments to add for the server, such as ["--max-sessions", "64"]."""
    command: Sequence[str] | None
    """The image's command instead of ours, for a server that knows not our arguments.

    It has to listen at `port`, and does not end by itself when it is idle."""
    entrypoint: Sequence[str] | None
    """Entry point instead of the image's."""
    port: int
    """Port in the container; 8000. Not used with the socket."""
    publish: str
    """Address of the engine's machine where the port is published; 127.0.0.1."""
    ports: tuple[int, int] | None
    """First and last port to publish at; None takes any free one."""
    idle_timeout: float
    """Seconds after which a server that nobody is connected to ends; 600."""
    start_timeout: float
    """Seconds until the server must answer; 60."""
    stop_timeout: float
    """Seconds that a server has to end gracefully before it is killed; 10."""
    owner: str | None
    """Label to find containers by; None is the name of the user."""
    run: str | None
    """Label of what belongs together; None is one of its own for each provider."""
    engine: str | None
    """Address of the engine.

    None is what the `docker` command takes: `DOCKER_HOST`, its context, its socket."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """The options of one image's containers, complete and valid.

    Args:
        image: The image.

    Raises:
        ProviderError: A value cannot be right.
    """

    image: str
    connection: Literal["auto", "unix", "tcp"] = "auto"
    network: str | None = None
    memory: str | int = "2g"
    cpus: float | None = None
    pids: int = 1024
    tmpfs: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"/tmp": "256m"}
    )
    read_only: bool = True
    capabilities: Sequence[str] = ()
    new_privileges: bool = False
    user: str | None = None
    security: Sequence[str] = ()
    runtime: str | None = None
    mounts: Sequence[Mount] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=lambda: {})
    arguments: Sequence[str] = ()
    command: Sequence[str] | None = None
    entrypoint: Sequence[str] | None = None
    port: int = 8000
    publish: str = "127.0.0.1"
    ports: tuple[int, int] | None = None
    idle_timeout: float = 600.0
    start_timeout: float = 60.0
    stop_timeout: float = 10.0
    owner: str | None = None
    run: str | None = None
    engine: str | None = None

    def __post_init__(self) -> None:
        for name, (is_right, expected) in _RULES.items():
            value = getattr(self, name)
            try:
                right = is_right(value)
            except (TypeError, ValueError, AttributeError):  # another type altogether
                right = False
            if not right:
                raise _unfit(name, value, expected)
        if self.connection == "unix":
            if self.command is not None:
                raise _unfit(
                    "connection", "unix", "'tcp' for a command that is not ours"
                )
            if self.ports is not None:
                raise _unfit("connection", "unix", "'tcp' for published ports")


def bytes_of(size: str | int) -> int:
    """Bytes of a size that may have a unit.

    Raises:
        ValueError: It is no size.
    """
    if isinstance(size, int):
        return size
    found = _SIZE.fullmatch(size)
    if found is None:
        raise ValueError(size)
    number, unit = found.groups()
    return int(number) * _FACTORS[unit.lower()]


def _unfit(name: str, value: object, expected: str) -> ProviderError:
    return ProviderError(
        f"expected {name} to be {expected}, got {value!r}", fault="caller"
    )


def _is_path(value: str) -> bool:
    path = PurePosixPath(value)
    return path.is_absolute() and value != "/" and ".." not in path.parts


def _is_tmpfs(value: Mapping[str, str]) -> bool:
    for path, text in value.items():
        size, *words = text.split(",")
        if not _is_path(path) or bytes_of(size) <= 0 or set(words) - _TMPFS_WORDS:
            return False
    return True


def _is_mount(mount: object) -> bool:
    return (
        isinstance(mount, Mount)
        and _is_path(mount.target)
        and (_is_path(mount.source) or _LABEL.fullmatch(mount.source) is not None)
        and type(mount.writable) is bool
    )


def _is_texts(value: Sequence[object]) -> bool:
    return not isinstance(value, str) and all(isinstance(one, str) for one in value)


def _is_security(value: Sequence[str]) -> bool:
    return _is_texts(value) and all(
        _SECCOMP.fullmatch(one) for one in value if one.startswith("seccomp")
    )


def _is_port(value: object) -> bool:
    return type(value) is int and 0 < value <= 65_535


def _are_ports(value: tuple[int, int] | None) -> bool:
    if value is None:
        return True
    first, last = value
    return _is_port(first) and _is_port(last) and first <= last


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_label(value: str | None) -> bool:
    return value is None or _LABEL.fullmatch(value) is not None


def _is_environment(value: Mapping[str, object]) -> bool:
    return all(
        _VARIABLE.fullmatch(name) and isinstance(text, str) and "\0" not in text
        for name, text in value.items()
    )


_Rule: TypeAlias = tuple[Callable[[Any], bool], str]
"""Says whether a value is right, and what is."""

_BOOLEAN: Final[_Rule] = (lambda value: isinstance(value, bool), "True or False")
_TEXTS: Final[_Rule] = (_is_texts, "a list of texts")
_SOME_TEXTS: Final[_Rule] = (
    lambda value: value is None or _is_texts(value),
    "a list of texts, or None",
)
_SECONDS: Final[_Rule] = (
    lambda value: _is_number(value) and 0 < value < float("inf"),
    "a number of seconds above 0",
)
_NAME: Final[_Rule] = (
    _is_label,
    "at most 64 letters, digits, dots, dashes and underscores, or None",
)
_TEXT: Final[_Rule] = (
    lambda value: value is None or (isinstance(value, str) and value.strip() != ""),
    "a name, or None",
)
_RULES: Final[Mapping[str, _Rule]] = {
    "image": (
        lambda value: bool(value) and value.split() == [value],
        "the name of an image, such as 'echo-env:latest'",
    ),
    "connection": (
        lambda value: value in ("auto", "unix", "tcp"),
        "'auto', 'unix' or 'tcp'",
    ),
    "network": _TEXT,
    "memory": (
        lambda value: bytes_of(value) in _MEMORY,
        "at least '6m', in bytes or with a unit, such as '512m' or '2g'",
    ),
    "cpus": (
        lambda value: value is None or (_is_number(value) and 0.01 <= value <= 4096),
        "a number of processors, such as 0.5 or 2, or None",
    ),
    "pids": (
        lambda value: type(value) is int and value >= 1,
        "a number of processes, at least 1",
    ),
    "tmpfs": (
        _is_tmpfs,
        "absolute paths with their sizes, such as {'/tmp': '256m'} or "
        "{'/tmp': '1g,exec'}",
    ),
    "read_only": _BOOLEAN,
    "capabilities": (
        lambda value: (
            _is_texts(value) and all(_CAPABILITY.fullmatch(one) for one in value)
        ),
        "a list of capabilities, such as ['NET_ADMIN']",
    ),
    "new_privileges": _BOOLEAN,
    "user": (
        lambda value: value is None or _USER.fullmatch(value) is not None,
        "a user, such as '10001', '10001:10001' or 'nobody', or None",
    ),
    "security": (
        _is_security,
        "a list of texts, such as 'apparmor=my-profile', or 'seccomp=' followed by the "
        "JSON of a profile",
    ),
    "runtime": _TEXT,
    "mounts": (
        lambda value: all(map(_is_mount, value)),
        "a list of Mount(source=..., target=...) with absolute paths",
    ),
    "environment": (_is_environment, "texts by the names of variables"),
    "arguments": _TEXTS,
    "command": _SOME_TEXTS,
    "entrypoint": _SOME_TEXTS,
    "port": (
        _is_port,
        "a port from 1 to 65535",
    ),
    "publish": (
        lambda value: isinstance(value, str) and bool(ipaddress.ip_address(value)),
        "an IP address of the engine's machine, such as '127.0.0.1'",
    ),
    "ports": (_are_ports, "a first and a last port, or None"),
    "idle_timeout": _SECONDS,
    "start_timeout": _SECONDS,
    "stop_timeout": _SECONDS,
    "owner": _NAME,
    "run": _NAME,
    "engine": (
        lambda value: value is None or _ADDRESS.match(value) is not None,
        "an address, such as 'unix:///var/run/docker.sock' or 'tcp://10.0.0.5:2375', "
        "or None",
    ),
}
