"""How each contender is started: its worker, and the server that a case needs."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.processes import Address

__all__ = ["Contenders", "ServerPlan"]

_SDK_ENVIRONMENTS = {
    "text": "benchmarks.sdk_environment:BenchEnvironment",
    "image": "benchmarks.sdk_environment:ImageEnvironment",
    "cartpole": "gymnasium_env?id=CartPole-v1",
}


@dataclasses.dataclass(frozen=True)
class ServerPlan:
    """What to run, and how clients name it."""

    argv: tuple[str, ...]
    url: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contenders:
    """Command lines, for one choice of interpreters and event loop."""

    openenv_python: Path | None
    loop: str
    """Event loop of the clients that are not OpenEnv's."""

    def worker(self, case: Case) -> tuple[str, ...]:
        """Return the command of the client that measures a case."""
        match case.contender:
            case "ceiling":
                module = "benchmarks.ceiling_client"
            case "gymnasium":
                return (sys.executable, "-m", "benchmarks.gymnasium_vector")
            case "openenv":
                return (str(self.openenv_python), "-m", "benchmarks.openenv_client")
            case _:
                module = "benchmarks.sdk_client"
        return (sys.executable, "-m", module, "--loop", self.loop)

    def server_key(self, case: Case) -> str:
        """Name the server that a case needs; cases with one name share it."""
        match case.contender:
            case "gymnasium":
                return ""
            case "openenv":
                return "openenv"
            case "ceiling":
                return f"ceiling-{case.transport}"
            case _:
                return f"sdk-{case.transport}-{case.payload}"

    def server(self, case: Case, address: Address) -> ServerPlan:
        """Plan the server that a case needs, at an address."""
        where = (
            ("--port", str(address))
            if isinstance(address, int)
            else ("--uds", str(address))
        )
        match case.contender:
            case "openenv":
                uvicorn = (str(self.openenv_python), "-m", "uvicorn")
                app = "benchmarks.openenv_server:app"
                return ServerPlan(
                    (*uvicorn, app, "--host", "127.0.0.1", *where),
                    f"ws://127.0.0.1:{address}",
                )
            case "ceiling":
                return ServerPlan(
                    (sys.executable, "-m", "benchmarks.ceiling_server", *where),
                    f"ws://127.0.0.1:{address}"
                    if isinstance(address, int)
                    else f"unix:{address}",
                )
            case _:
                return _sdk_server(case, address, where)


def _sdk_server(case: Case, address: Address, where: tuple[str, str]) -> ServerPlan:
    command = (sys.executable, "-m", "openenv_async.cli", "serve")
    return ServerPlan(
        (*command, _SDK_ENVIRONMENTS[case.payload], *where),
        f"ws://127.0.0.1:{address}"
        if isinstance(address, int)
        else f"ws+unix://{address}",
    )
