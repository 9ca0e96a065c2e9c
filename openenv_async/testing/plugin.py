"""The pytest plugin: an environment's server and client in memory, and chaos.

Every run of pytest imports this module where the SDK is installed, so that it imports
nothing itself: servers and clients come with the first fixture that needs them.

Which environment, in the order of precedence:

- `@pytest.mark.environment(target="my_env", client=MyEnv, lease=1.0)`: a name, a class
  or a spec, the client's class, and options for `create_app` (by keyword, because
  pytest takes a lone class for what is marked);
- a fixture `environment_target` that returns a name, a class or a spec;
- `openenv_environment = my_env` in pytest's configuration.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

if TYPE_CHECKING:
    from ..client import EnvClient
    from ..memory import MemoryServer
    from .chaos import Chaos

__all__ = [
    "chaos",
    "connect",
    "environment_client",
    "environment_client_type",
    "environment_server",
    "environment_target",
    "pytest_addoption",
    "pytest_configure",
    "serve",
]

_INI: Final = "openenv_environment"
_MARKERS: Final = (
    "environment(target=..., client=None, **options): what the fixtures "
    "environment_server and environment_client serve and connect with; a class has to "
    "be given by keyword",
    "chaos(seed=0, **faults): what the fixture chaos does, as shares of frames: drop, "
    "delay, duplicate, reorder, cut",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting that names the environment under test."""
    parser.addini(_INI, "environment that the fixtures of openenv_async serve")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and join pytest-asyncio where it is."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if config.pluginmanager.hasplugin("asyncio"):
        config.pluginmanager.import_plugin(_ON_ASYNCIO)


@dataclasses.dataclass(frozen=True)
class _Marked:
    """What a test's marker says."""

    target: Any = None
    client: Any = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])


def _marked(request: pytest.FixtureRequest) -> _Marked:
    marker = request.node.get_closest_marker("environment")
    if marker is None:
        return _Marked()
    options = dict(marker.kwargs)
    target = marker.args[0] if marker.args else options.pop("target", None)
    return _Marked(target, options.pop("client", None), options)


@pytest.fixture
def environment_target(request: pytest.FixtureRequest) -> Any:
    """What is served: a name, a class or a spec. Made to be overridden."""
    target = request.config.getini(_INI)
    if not target:
        raise pytest.UsageError(
            "expected an environment: override the fixture environment_target, mark "
            f"the test with 'environment', or set {_INI} in pytest's configuration"
        )
    return target


@pytest.fixture
def environment_client_type() -> Any:
    """The client's class; `GenericEnv` by default. Made to be overridden."""
    return importlib.import_module("openenv_async.client").GenericEnv


@pytest.fixture
def chaos(request: pytest.FixtureRequest) -> Chaos:
    """Faults for the connections of `environment_server`: seed 0, a bit of everything.

    A test that asks for it gets a server whose connections are troubled.
    """
    module = importlib.import_module("openenv_async.testing.chaos")
    marker = request.node.get_closest_marker("chaos")
    options = {} if marker is None else dict(marker.kwargs)
    seed = options.pop("seed", 0)
    faults = module.Faults(**options) if options else module.CHAOS
    made: Chaos = module.Chaos(seed, up=faults)
    return made


@pytest.fixture
def environment_server(request: pytest.FixtureRequest) -> MemoryServer:
    """A server in memory, in the event loop of an async test: has `url` and `core`."""
    return cast("MemoryServer", _of_loop(request, "_environment_server"))


@pytest.fixture
def environment_client(request: pytest.FixtureRequest) -> EnvClient[Any, Any, Any]:
    """An open session with `environment_server`, in an async test."""
    return cast("EnvClient[Any, Any, Any]", _of_loop(request, "_environment_client"))


# Async fixtures for whichever plugin runs the test

_ON_ASYNCIO: Final = "openenv_async.testing.on_asyncio"


def _of_loop(request: pytest.FixtureRequest, name: str) -> object:
    """Get the fixture that lives in the loop of the plugin that runs the test."""
    if "anyio_backend" in request.fixturenames:
        return request.getfixturevalue(f"{name}_on_anyio")
    if request.node.get_closest_marker("asyncio"):
        return request.getfixturevalue(f"{name}_on_asyncio")
    raise pytest.UsageError(
        f"expected an async test for the fixture {name[1:]}, run by pytest-asyncio or "
        f"anyio, got {request.node.nodeid}"
    )


@pytest.fixture
def _environment_server_built(request: pytest.FixtureRequest) -> MemoryServer:
    # Outside of the loop, because finding environments imports and reads files.
    marked = _marked(request)
    target = marked.target
    if target is None:
        target = request.getfixturevalue("environment_target")
    options = dict(marked.options)
    if "chaos" in request.fixturenames:
        options["lay"] = request.getfixturevalue("chaos").lay
    module = importlib.import_module("openenv_async.memory")
    server: MemoryServer = module.MemoryServer(target, **options)
    return server


async def serve(
    _environment_server_built: MemoryServer,
) -> AsyncIterator[MemoryServer]:
    """Start the server that was built, and stop it after the test."""
    async with _environment_server_built as server:
        yield server


async def connect(
    request: pytest.FixtureRequest,
    environment_server: MemoryServer,
    environment_client_type: Any,
) -> AsyncIterator[EnvClient[Any, Any, Any]]:
    """Open a session, and close it after the test."""
    kind = _marked(request).client or environment_client_type
    async with kind(environment_server.url) as client:
        yield client


# pytest-asyncio's are in a plugin of their own, which is loaded where it is.
_server_on_anyio = pytest.fixture(name="_environment_server_on_anyio")(serve)
_client_on_anyio = pytest.fixture(name="_environment_client_on_anyio")(connect)
