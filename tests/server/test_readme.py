"""The README of an environment's package is told, unless it has another."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from openenv_async.environment import EnvironmentSpec, find_spec
from openenv_async.server.readme import readme_of
from tests.environments import ScriptedEnvironment


@pytest.mark.parametrize(
    ("target", "title"),
    [
        ("echo_env", "# echo_env"),
        ("echo_env.server.environment:EchoEnvironment", "# echo_env"),
        ("coding_env?interpreter=cpython", "# coding_env"),
    ],
)
def test_a_package_tells_its_readme(target: str, title: str) -> None:
    """By the name of its entry point, by an import path, and with arguments."""
    assert readme_of(find_spec(target)).startswith(title)


def test_an_environments_own_readme_comes_first() -> None:
    """What its metadata say holds."""
    spec = find_spec("echo_env")
    metadata = msgspec.structs.replace(spec.metadata, readme="Mine.")
    assert readme_of(dataclasses.replace(spec, metadata=metadata)) == "Mine."


def test_an_environment_of_no_package_has_none() -> None:
    """Nothing is made up."""
    assert readme_of(EnvironmentSpec.of(ScriptedEnvironment)) == ""
