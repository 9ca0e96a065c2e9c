"""Every client with every server: the same actions, the same frames.

Clients are OpenEnv's own, ours in its dialect, and ours as it is; servers are OpenEnv's
own, ours hosting OpenEnv's environments, and ours with environments of its own. What
OpenEnv's client sees at OpenEnv's server is what all others have to see.

What is played comes from PyPI: an environment of OpenEnv's repository that is published
(`dipg`), the one that `openenv init` makes (`scaffold`), and ours over libraries of
others. Those which only the repository has are played as well where the environment
variable `OPENENV_REPOSITORY` names a checkout of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from .apart import serving_apart
from .hosting import conversing
from .interop_players import PLAYERS, Frame, comparable, meant
from .interop_scripts import REPOSITORY, SCRIPTS, Script
from .interop_twins import TWINS
from .venvs import interpreter

# The first one may have to install OpenEnv.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_FOLDER: Final = Path(__file__).parent
_CHECKOUT: Final = os.environ.get("OPENENV_REPOSITORY")
_DIPG: Final = {
    "messages": [
        {
            "role": "user",
            "content": "<context>Mice had fewer tumours.</context>"
            "<question>Did it help?</question>",
        },
        {"role": "assistant", "content": "It did."},
    ]
}
"""One task of the published environment, which would fetch its own."""

CLIENTS: Final = ("theirs", *PLAYERS)


class Suite:
    """Servers that run, and what clients saw at them.

    Args:
        python: OpenEnv's interpreter.
        scripts: What to play, by environment.
    """

    def __init__(self, python: Path, scripts: dict[str, Script]) -> None:
        self.scripts = scripts
        self.urls: dict[tuple[str, str], str] = {}
        """By server and environment."""
        self._python = python
        self._theirs: dict[tuple[str, str], list[Frame]] = {}

    def play_theirs(self) -> None:
        """Let OpenEnv's client play everything everywhere, in one process."""
        plan = [
            {"url": url, "calls": self.scripts[name]}
            for (_, name), url in self.urls.items()
        ]
        done = subprocess.run(
            [str(self._python), str(_FOLDER / "their_player.py")],
            input=json.dumps(plan),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        self._theirs = dict(zip(self.urls, json.loads(done.stdout), strict=True))

    async def seen(self, client: str, server: str, name: str) -> list[Frame]:
        """What a client sees of an environment at a server."""
        if client == "theirs":
            return self._theirs[server, name]
        url = self.urls[server, name]
        return await PLAYERS[client](url, self.scripts[name])


def _environment(script: str) -> str:
    """The name of the environment that a script is for."""
    return script.partition("/")[0]


@contextlib.contextmanager
def _served(
    version: str,
    scripts: Iterable[str],
    targets: Mapping[str, str],
    folders: list[str],
    home: Path,
) -> Iterator[dict[tuple[str, str], str]]:
    """Both servers of OpenEnv's environments, started at the same time."""
    places = {
        "DIPG_DATASET_PATH": str(home / "dipg.jsonl"),
        "HF_HOME": str(home / "hub"),
        "HF_HUB_OFFLINE": "1",
        # Some texts list the members of a set.
        "PYTHONHASHSEED": "0",
    }
    (home / "dipg.jsonl").write_text(json.dumps(_DIPG) + "\n")
    program = str(_FOLDER / "hosted" / "interop_server.py")
    with contextlib.ExitStack() as stack:
        lines = {}
        for server in ("theirs", "hosted"):
            options = {
                "targets": {_environment(each): targets[each] for each in scripts},
                "hosted": server == "hosted",
            }
            command = [program, json.dumps(options)]
            lines[server] = stack.enter_context(
                conversing(version, command, variables=places, folders=folders)
            )
        urls = {}
        for server, line in lines.items():
            ports = json.loads(line("serving ").removeprefix("serving "))
            for script in scripts:
                port = ports[_environment(script)]
                urls[server, script] = f"http://127.0.0.1:{port}"
        yield urls


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """What PyPI has."""
    home = tmp_path_factory.mktemp("interop")
    python = interpreter("0.10.0")
    made = subprocess.run(
        [str(python.parent / "openenv"), "init", "scaffold_env", "-o", str(home)],
        env={**os.environ, "PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    targets = {
        **{name: f"interop_environments:{_environment(name)}" for name in SCRIPTS},
        "scaffold": "scaffold_env.server.app:app",
        "dipg": "med_safety_gym.app:app",
    }
    suite = Suite(python, SCRIPTS)
    with (
        _served("0.10.0", SCRIPTS, targets, [str(home)], home) as urls,
        contextlib.ExitStack() as stack,
    ):
        suite.urls |= urls
        for name in SCRIPTS:
            twin = TWINS.get(_environment(name))
            if twin is not None:
                ours = stack.enter_context(serving_apart(twin))
                suite.urls["native", name] = ours.url.replace("ws://", "http://")
        suite.play_theirs()
        yield suite


def _cells(scripts: dict[str, Script]) -> list[tuple[str, str, str]]:
    return [
        (client, server, name)
        for name in scripts
        for server in ("theirs", "hosted")
        for client in CLIENTS
        if (client, server) != ("theirs", "theirs")
    ]


@pytest.mark.parametrize(("client", "server", "name"), _cells(SCRIPTS))
async def test_all_see_the_same(
    published: Suite, client: str, server: str, name: str
) -> None:
    """Observations, rewards, ends, states and kinds of errors are equal, in order."""
    expected = comparable(await published.seen("theirs", "theirs", name))
    assert comparable(await published.seen(client, server, name)) == expected


@pytest.mark.parametrize(
    "name", [name for name in SCRIPTS if _environment(name) in TWINS]
)
@pytest.mark.parametrize("client", CLIENTS)
async def test_native_twins_show_the_same(
    published: Suite, client: str, name: str
) -> None:
    """An environment written for our server is told from OpenEnv's by nothing."""
    expected = meant(await published.seen("theirs", "theirs", name))
    assert meant(await published.seen(client, "native", name)) == expected


async def test_scripts_reach_what_they_are_for(published: Suite) -> None:
    """Ends, rewards, states, and both kinds of errors are among what is compared."""
    ends, errors = set(), set()
    for name in SCRIPTS:
        seen = comparable(await published.seen("theirs", "theirs", name))
        assert not any("raised" in frame for frame in seen)
        ends |= {(name, frame["reward"]) for frame in seen if frame.get("done")}
        errors |= {frame["error"] for frame in seen if "error" in frame}
    assert errors == {"VALIDATION_ERROR", "EXECUTION_ERROR"}
    assert {name for name, _ in ends} >= {"chess_game", "lake", "reasoning", "dipg"}
    assert len({reward for _, reward in ends}) > 2


# Only in the repository


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """What a checkout of OpenEnv's repository has."""
    assert _CHECKOUT is not None
    environments = Path(_CHECKOUT) / "envs"
    targets = {
        **{name: f"{_environment(name)}.server.app:app" for name in REPOSITORY},
        "chess_env": "interop_environments:repository_chess",
    }
    suite = Suite(interpreter("repository"), REPOSITORY)
    home = tmp_path_factory.mktemp("repository")
    folders = [str(environments)]
    with _served("repository", REPOSITORY, targets, folders, home) as urls:
        suite.urls |= urls
        suite.play_theirs()
        yield suite


if _CHECKOUT is not None:

    @pytest.mark.parametrize(("client", "server", "name"), _cells(REPOSITORY))
    async def test_all_see_the_same_of_the_repository(
        repository: Suite, client: str, server: str, name: str
    ) -> None:
        """As above, with environments that are on no index."""
        expected = comparable(await repository.seen("theirs", "theirs", name))
        assert comparable(await repository.seen(client, server, name)) == expected
