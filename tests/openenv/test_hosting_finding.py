"""Where environments of OpenEnv's are looked for, and what is said of others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from openenv_async import LocalProtocolError
from openenv_async.client import GenericEnv
from openenv_async.environment import find_spec
from tests.openenv.hosting import hosting


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("openenv:tests.nowhere:app", "importable module, got 'tests.nowhere'"),
        ("openenv:json:nothing", "expected 'nothing' in 'json'"),
        ("openenv:json:decoder", "expected an environment or an application"),
        ("openenv:collections:OrderedDict", "expected an environment or an appl"),
        ("openenv:json:loads", "arguments that fit 'json:loads'"),
        ("openenv:json:dumps?nothing=1", "arguments that fit 'json:dumps'"),
    ],
)
def test_what_is_none_is_refused_with_what_was_found(target: str, text: str) -> None:
    """The operator learns what is wrong with what to serve."""
    with pytest.raises(LocalProtocolError, match=re.escape(text)):
        find_spec(target)


def test_module_of_that_name_is_still_reachable() -> None:
    """One colon is an import path, as for every other module."""
    with pytest.raises(LocalProtocolError, match="'openenv'"):
        find_spec("openenv:Environment")


@pytest.fixture
def server() -> Iterator[Path]:
    """An environment of the version before."""
    names = ("DoubleEnvironment",)
    with hosting("0.2.3", *names, module="their_old_environments") as path:
        yield path


@pytest.mark.timeout(600)
async def test_version_before_is_hosted_too(server: Path) -> None:
    """Models are found in annotations where the class names none."""
    async with GenericEnv(f"ws+unix://{server}") as env:
        await env.reset(episode_id="e")
        stepped = await env.step({"x": 3})
        assert (stepped.observation["y"], stepped.reward) == (6, 1.0)
        assert await env.state() == {"episode_id": "e", "step_count": 1}
