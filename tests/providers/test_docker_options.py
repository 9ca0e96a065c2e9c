"""Options of containers are checked, and become the fences that they name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from openenv_async import ProviderError
from openenv_async.providers.docker import DockerOptions, DockerProvider, Mount
from openenv_async.providers.docker.client import NETWORK
from openenv_async.providers.docker.engine import EngineFacts
from openenv_async.providers.docker.options import ContainerOptions, bytes_of
from openenv_async.providers.docker.posture import (
    Route,
    container_config,
    make_folder,
    plan_route,
    remove_folder,
)

_HERE = EngineFacts(
    url="unix:///x", api="v1.41", cpus=4, is_here=True, maps_users=False
)
_DESKTOP = dataclasses.replace(_HERE, is_here=False)
_REMOTE = dataclasses.replace(_DESKTOP, url="tcp://10.0.0.5:2375")
_PORT = Route(folder=None, user=None, network=NETWORK)


@pytest.fixture
def route() -> Iterator[Route]:
    """A route by a socket; its folder is removed at the end."""
    route = plan_route(_options(), _HERE, "10001:10001")
    make_folder(route, _HERE, "10001:10001")
    yield route
    remove_folder(str(route.folder))


def _options(**options: Any) -> ContainerOptions:
    return ContainerOptions(image="x", **options)


def _host(route: Route, **options: Any) -> dict[str, Any]:
    """What the engine is asked for."""
    config = container_config(_options(**options), _HERE, route, {})
    host: dict[str, Any] = config["HostConfig"]
    return host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", ""),
        ("image", "two words"),
        ("connection", "udp"),
        ("network", ""),
        ("memory", "2gb"),
        ("memory", "1m"),
        ("memory", -1),
        ("memory", 1 << 63),
        ("memory", None),
        ("cpus", 0),
        ("cpus", "2"),
        ("cpus", True),
        ("pids", 0),
        ("pids", 1.5),
        ("tmpfs", {"tmp": "1m"}),
        ("tmpfs", {"/": "1m"}),
        ("tmpfs", {"/tmp": "1m,suid"}),
        ("tmpfs", {"/tmp": "much"}),
        ("tmpfs", ["/tmp"]),
        ("read_only", "no"),
        ("capabilities", "NET_ADMIN"),
        ("capabilities", ["net admin"]),
        ("new_privileges", 1),
        ("user", "a b"),
        ("security", "seccomp=unconfined"),
        ("security", ["seccomp=profile.json"]),
        ("mounts", [("/a", "/b")]),
        ("mounts", [Mount(source="a/b", target="/b")]),
        ("mounts", [Mount(source="/a", target="b")]),
        ("mounts", [Mount(source="/a/../etc", target="/b")]),
        ("mounts", [Mount(source="/a", target="/b", writable=cast("bool", "no"))]),
        ("environment", {"A=B": "c"}),
        ("environment", {"A": 1}),
        ("arguments", "--max-sessions 64"),
        ("command", [1]),
        ("entrypoint", "sh"),
        ("port", 0),
        ("port", 65_536),
        ("publish", "localhost"),
        ("publish", 1),
        ("ports", (2, 1)),
        ("ports", (0, 1)),
        ("ports", 8000),
        ("ports", (1, 2, 3)),
        ("ports", (1, 2.5)),
        ("idle_timeout", 0),
        ("start_timeout", None),
        ("stop_timeout", float("inf")),
        ("owner", "a b"),
        ("run", ""),
        ("engine", "localhost"),
        ("engine", "ssh://host"),
    ],
)
def test_provider_refuses(name: str, value: object) -> None:
    """A value that cannot be right is refused at once, by name and value."""
    options: dict[str, Any] = {"image": "x"} | {name: value}
    with pytest.raises(ProviderError, match=f"^expected {name} to be ") as caught:
        DockerProvider(**options)
    assert repr(value) in str(caught.value)
    assert caught.value.fault == "caller"


@pytest.mark.parametrize("options", [{"command": ["x"]}, {"ports": (1, 2)}])
def test_provider_refuses_what_needs_a_port_with_a_socket(options: Any) -> None:
    """A socket cannot be asked for together with what only a port can do."""
    with pytest.raises(ProviderError, match="'tcp'"):
        _options(connection="unix", **options)


def test_options_are_the_same_everywhere() -> None:
    """What type checkers know of the options is what there is."""
    names = {field.name for field in dataclasses.fields(ContainerOptions)}
    assert names == {"image", *DockerOptions.__annotations__}


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("2b", 2), ("3k", 3072), ("4M", 4 << 20), ("5g", 5 << 30), (6, 6)],
)
def test_bytes_of_reads(text: str | int, size: int) -> None:
    """Sizes have the units that the engine's command knows."""
    assert bytes_of(text) == size


def test_container_is_fenced_in_by_default(route: Route) -> None:
    """Nothing is open that no option opened."""
    host = _host(route)
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] == []
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == "none"
    assert host["PidsLimit"] == 1024
    assert host["Memory"] == host["MemorySwap"] == 2 << 30
    assert host["NanoCpus"] == 2_000_000_000
    assert host["Tmpfs"] == {
        "/tmp": "rw,nosuid,nodev,noexec,mode=1777,size=268435456",
    }
    (mount,) = host["Mounts"]
    assert mount["Source"] == f"{route.folder}/run"
    assert "PortBindings" not in host


def test_container_is_relaxed_by_name(route: Route) -> None:
    """Each option opens what it names, and nothing else."""
    default = _host(route)
    table: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"capabilities": ["CAP_NET_ADMIN"]}, {"CapAdd": ["NET_ADMIN"]}),
        ({"new_privileges": True}, {"SecurityOpt": []}),
        ({"read_only": False}, {"ReadonlyRootfs": False}),
        ({"pids": 7}, {"PidsLimit": 7}),
        ({"cpus": 0.5}, {"NanoCpus": 500_000_000}),
        ({"runtime": "runsc"}, {"Runtime": "runsc"}),
        (
            {"security": ["apparmor=mine"]},
            {"SecurityOpt": ["no-new-privileges", "apparmor=mine"]},
        ),
        (
            {"tmpfs": {"/s": "1m,exec"}},
            {"Tmpfs": {"/s": "rw,nosuid,nodev,exec,mode=1777,size=1048576"}},
        ),
    ]
    for options, changed in table:
        assert _host(route, **options) == default | changed


def test_mounts_are_read_only_unless_they_say_so(route: Route) -> None:
    """A mount can be read, and written only if asked for; a volume goes by its name."""
    first, second, _ = _host(
        route,
        mounts=[
            Mount(source="/data", target="/a"),
            Mount(source="cache", target="/b", writable=True),
        ],
    )["Mounts"]
    assert (first["Type"], first["ReadOnly"]) == ("bind", True)
    assert (second["Type"], second["ReadOnly"]) == ("volume", False)


def test_port_is_published_on_the_loopback() -> None:
    """Without a socket, a free port of the loopback leads to the server."""
    host = _host(_PORT)
    binding = {"HostIp": "127.0.0.1", "HostPort": ""}
    assert host["PortBindings"] == {"8000/tcp": [binding]}
    assert host["Dns"] == ["127.0.0.1"]
    assert _host(_PORT, ports=(5, 9))["PortBindings"]["8000/tcp"][0]["HostPort"] == (
        "5-9"
    )


def test_processors_are_those_that_there_are() -> None:
    """Fewer processors than the default are taken; more than there are, refused."""
    facts = dataclasses.replace(_HERE, cpus=1)
    config = container_config(_options(), facts, _PORT, {})
    assert config["HostConfig"]["NanoCpus"] == 1_000_000_000
    with pytest.raises(ProviderError, match=r"at most 1, .* got 2"):
        container_config(_options(cpus=2), facts, _PORT, {})


def test_command_of_the_image_is_kept_or_replaced() -> None:
    """A server that is not ours gets no arguments of ours."""
    ours = container_config(_options(arguments=["--a"]), _HERE, _PORT, {})["Cmd"]
    assert ours == [
        *("--host", "0.0.0.0", "--port", "8000", "--idle-timeout", "600.0", "--a")
    ]
    options = _options(command=[])
    assert container_config(options, _HERE, _PORT, {})["Cmd"] is None
    options = _options(command=["serve"])
    assert container_config(options, _HERE, _PORT, {})["Cmd"] == ["serve"]


def test_server_on_the_network_of_the_machine_listens_where_it_may() -> None:
    """Where nothing is published, the server itself listens to no more than that."""
    route = dataclasses.replace(_PORT, network="host")
    command = container_config(_options(), _HERE, route, {})["Cmd"]
    assert command[:2] == ["--host", "127.0.0.1"]


# The way to the server


@pytest.mark.parametrize(
    ("facts", "options"),
    [
        (_DESKTOP, {}),
        (_HERE, {"connection": "tcp"}),
        (_HERE, {"command": []}),
        (_HERE, {"ports": (5000, 6000)}),
        (_REMOTE, {"publish": "10.0.0.5"}),
    ],
)
def test_route_takes_a_port_where_a_socket_cannot_be(
    facts: EngineFacts, options: Any
) -> None:
    """Elsewhere a port is published, on a network without a way out."""
    route = plan_route(_options(**options), facts, "10001")
    assert route == Route(folder=None, user=None, network=NETWORK)


def test_route_names_the_network_that_was_asked_for(route: Route) -> None:
    """A way out is opened by the network's name alone."""
    assert route.network == "none"
    opened = plan_route(_options(network="bridge"), _DESKTOP, "10001")
    assert opened.network == "bridge"


def test_route_refuses_a_socket_that_cannot_be() -> None:
    """A socket that was asked for, but cannot be had, is refused with the reason."""
    with pytest.raises(ProviderError, match="this machine, got unix:///x"):
        plan_route(_options(connection="unix"), _DESKTOP, "10001")


def test_route_refuses_a_loopback_that_is_not_ours() -> None:
    """The loopback of another machine cannot be reached, so it is refused."""
    with pytest.raises(ProviderError, match=r"publish= .* got '127\.0\.0\.1'"):
        plan_route(_options(), _REMOTE, "10001")


@pytest.mark.parametrize("user", ["", "root", "0", "0:0", "root:root"])
def test_route_takes_no_root_that_nobody_asked_for(user: str) -> None:
    """An image that would run as root runs as somebody else."""
    route = plan_route(_options(), _DESKTOP, user)
    assert route.user == "10001:10001"
    assert plan_route(_options(user="0"), _DESKTOP, user).user == "0"


def test_folder_belongs_to_the_container_alone(route: Route) -> None:
    """Nobody but us reaches the folder, and in it only the container's user writes."""
    assert route.folder is not None
    inner = route.folder / "run"
    assert route.folder.stat().st_mode & 0o777 == 0o700
    assert inner.stat().st_mode & 0o7777 == 0o700
    # Who is not root can give nothing away, and has the container run as himself.
    user = os.geteuid() or 10_001
    assert inner.stat().st_uid == user
    assert route.user in (None, f"{user}:{os.getegid()}")


def test_remove_folder_removes_only_ours(tmp_path: Path) -> None:
    """A folder of another name, or a link with a right one, is left alone."""
    other = tmp_path / "other"
    other.mkdir()
    link = tmp_path / "openenv-docker-x"
    link.symlink_to(other)
    remove_folder(str(other))
    remove_folder(str(link))
    remove_folder(str(tmp_path / "openenv-docker-missing"))
    assert other.is_dir()
    assert link.is_symlink()
