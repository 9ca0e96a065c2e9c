"""OpenEnv's own clients, of both versions, against our server.

One process plays all scenarios of a version, because importing OpenEnv takes seconds.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from openenv_async.server import bind_tcp, create_app
from openenv_async.server.run import make_server
from tests.openenv.counting import Counting, Unbuildable
from tests.openenv.tooling import Tooling
from tests.openenv.venvs import interpreter

# The first test of a version may have to install it, and imports it.
pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

_CLIENT: Final = Path(__file__).parent / "their_client.py"
_SERVED: Final[dict[str, tuple[Any, int]]] = {
    "counting": (Counting, 128),
    "tooling": (Tooling, 128),
    "single": (Counting, 1),
    "unbuildable": (Unbuildable, 8),
}
"""What is served, and to how many sessions."""
_PLAYED: Final = {
    "generic": "counting",
    "typed": "counting",
    "errors": "counting",
    "capacity": "single",
    "factory": "unbuildable",
    "many": "counting",
    "large": "tooling",
    "blocking": "counting",
    "tools": "tooling",
}
"""Which server a scenario is played against."""
_SINCE_0_10: Final = {"plain": "counting", "sibling": "counting", "resumed": "tooling"}


@contextlib.contextmanager
def _served(environment: Any, most: int) -> Iterator[str]:
    """Serve in a thread; the URL."""
    bound = bind_tcp("127.0.0.1", 0)
    server = make_server(create_app(environment, max_sessions=most), drain=1.0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module", params=["0.10.0", "0.2.3"])
def version(request: pytest.FixtureRequest) -> str:
    """Which OpenEnv."""
    return str(request.param)


@pytest.fixture(scope="module")
def seen(version: str) -> dict[str, Any]:
    """What the clients of a version saw, by scenario."""
    python = interpreter(version)
    with contextlib.ExitStack() as stack:
        urls = {
            name: stack.enter_context(_served(environment, most))
            for name, (environment, most) in _SERVED.items()
        }
        played = dict(_PLAYED) | (_SINCE_0_10 if version != "0.2.3" else {})
        command = [str(python), str(_CLIENT)]
        for scenario, server in played.items():
            command += [scenario, urls[server]]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        results = dict(map(json.loads, done.stdout.splitlines()))
        if version != "0.2.3":
            results["validate"] = _validated(python, urls["counting"])
    return results


def _validated(python: Path, url: str) -> Any:
    command = [str(python.parent / "openenv"), "validate", "--url", url]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout


def _observed(total: int, note: str | None = None) -> dict[str, Any]:
    return {"total": total, "note": note}


def test_generic_client_plays_an_episode(seen: dict[str, Any]) -> None:
    """Observations, rewards, done flags and the state arrive whole."""
    first, second, last = seen["generic"]["seen"]
    metadata = {"seed": 7, "kw": ["extra"]}
    assert first == {
        "observation": {"metadata": metadata, **_observed(3, "reset")},
        "reward": None,
        "done": False,
    }
    assert (second["reward"], second["done"]) == (2.0, False)
    assert (last["reward"], last["done"]) == (5.0, True)
    assert last["observation"] == {"metadata": {}, **_observed(10)}
    assert seen["generic"]["state"] == {
        "episode_id": "ep",
        "step_count": 2,
        "total": 10,
    }


@pytest.mark.parametrize(
    ("scenario", "totals"), [("typed", (1, 5)), ("blocking", (2, 5))]
)
def test_typed_client_plays_an_episode(
    seen: dict[str, Any], scenario: str, totals: tuple[int, int]
) -> None:
    """A subclass with hooks of its own works as it is, also without a loop."""
    first, second = seen[scenario]["seen"]
    assert first["observation"] == _observed(totals[0], "reset")
    assert second["observation"] == _observed(totals[1])
    assert seen[scenario]["state"]["step_count"] == 1


def test_errors_have_their_texts_and_the_session_goes_on(seen: dict[str, Any]) -> None:
    """Each mistake raises what it raises at OpenEnv's own server."""
    invalid = "RuntimeError: Server error: Invalid message (code: VALIDATION_ERROR)"
    failed = "RuntimeError: Server error: {} (code: EXECUTION_ERROR)"
    assert seen["errors"]["found"] == {
        "action": invalid,
        "field": invalid,
        "step": failed.format("kaboom in step"),
        "reset": failed.format("bad start"),
    }
    assert seen["errors"]["after"]["observation"]["total"] == 1


def test_full_server_refuses_by_its_code(seen: dict[str, Any]) -> None:
    """The second client learns it, the first goes on, the place is freed."""
    assert seen["capacity"]["refused"] == (
        "RuntimeError: Server error: Server at capacity: 1/1 sessions active. "
        "Cannot accept new connections. (code: CAPACITY_REACHED)"
    )
    assert seen["capacity"]["after"]["reward"] == 1.0
    assert seen["capacity"]["reopened"] == "reset"


def test_unbuildable_environment_is_named(seen: dict[str, Any]) -> None:
    """The first call raises a factory error."""
    assert "'Unbuildable' failed to create instance." in seen["factory"]
    assert seen["factory"].endswith("(code: FACTORY_ERROR)")


def test_many_clients_have_a_session_each(seen: dict[str, Any]) -> None:
    """Sixty-four at a time do not see each other's counts."""
    assert seen["many"]["totals"] == [[number % 10 * 5, 5] for number in range(64)]


def test_large_frames_pass_both_ways(seen: dict[str, Any]) -> None:
    """Megabytes in one frame are no problem."""
    assert seen["large"] == 5_000_000


def test_mcp_client_lists_and_calls_tools(seen: dict[str, Any]) -> None:
    """Tools work over whatever that version's client uses for them."""
    told = seen["tools"]
    assert told["tools"] == ["echo"]
    assert told["schema"]["required"] == ["message"]
    assert told["called"] == "hi"
    assert "Tool 'nope' failed: Unknown tool: 'nope'" in told["unknown"]


def test_what_only_the_newer_client_can(seen: dict[str, Any], version: str) -> None:
    """Plain calls, siblings, coming back after a cut, and OpenEnv's own validator."""
    if version == "0.2.3":
        assert not set(_SINCE_0_10) & set(seen)
        return
    totals = [each["observation"]["total"] for each in seen["plain"]["seen"]]
    assert totals == [2, 5]
    assert seen["sibling"] == [2, 6]
    assert seen["resumed"] == 1
    status, report = seen["validate"]
    assert (status, "FAIL" in report) == (0, False), report
