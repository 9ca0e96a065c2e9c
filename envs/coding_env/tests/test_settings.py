"""An operator's options: what they become, and what is refused."""

from __future__ import annotations

import pytest

from coding_env.sandbox import Limits
from coding_env.server.environment import CodingEnvironment, coding_environment
from coding_env.server.settings import Settings
from openenv_async import LocalProtocolError
from openenv_async.environment import find_spec


def test_defaults_are_those_of_the_limits() -> None:
    """Without options a worker gets the limits that the sandbox documents."""
    assert Settings.of({}).limits() == Limits()


@pytest.mark.parametrize("given", ["math, json,,math", ["math", "json"]])
def test_imports_are_a_list_or_a_text(given: object) -> None:
    """Modules are named in a list or with commas, and count once."""
    settings = Settings.of({"authorized_imports": given})
    assert settings.imports() == ("math", "json")
    assert settings.pool_config(()).authorized_imports == ("math", "json")


def test_a_judge_is_ready_only_where_there_are_tasks() -> None:
    """The judge's interpreter is imported where tasks need it."""
    assert Settings.of({}).pool_config(()).kinds == ("smolagents",)
    with_tasks = Settings.of({"tasks": "human_eval", "interpreter": "cpython"})
    assert with_tasks.pool_config(("/x",)).kinds == ("cpython", "judge")
    assert with_tasks.pool_config(("/x",)).hidden == ("/x",)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"interpreter": "ruby"}, r"'interpreter' .*'cpython'.* got 'ruby'"),
        ({"memory_mib": "many"}, r"'memory_mib' .*int.* got 'many'"),
        ({"memory_mib": 1}, "'memory_mib' as an integer from 16 to [0-9]+, got 1"),
        ({"output_bytes": 2**21}, "'output_bytes' .* to 1048576, got 2097152"),
        ({"timeout": 0}, "'timeout' as seconds above 0 .* got 0"),
        ({"timeout": float("nan")}, "'timeout' .* got nan"),
        ({"timeout": 61.0}, "at most 'max_timeout', 60, got 61.0"),
        ({"max_timeout": 1e9}, r"'max_timeout' .* got 1000000000.0"),
        ({"linger": -1}, "'linger' as seconds from 0 up, got -1"),
        ({"max_attempts": 0}, r"'max_attempts' .* got 0"),
        ({"namespaces": "perhaps"}, r"'namespaces' .*'auto'.* got 'perhaps'"),
        ({"authorized_imports": [1]}, r"'authorized_imports' .* got \[1\]"),
        ({"memroy_mib": 1}, r"options of \[.*'memory_mib'.*\], got 'memroy_mib'"),
        ({"tasks": "no such set"}, "got 'no such set'"),
    ],
)
def test_wrong_options_are_refused_by_name(
    options: dict[str, object], text: str
) -> None:
    """An error names the option, its value and what was expected, before any start."""
    with pytest.raises(LocalProtocolError, match=text):
        CodingEnvironment(**options)
    with pytest.raises(LocalProtocolError, match=text):
        coding_environment(**options)


def test_the_entry_point_takes_options() -> None:
    """`coding_env?...` is found, with its options and its fences in the metadata."""
    spec = find_spec("coding_env?interpreter=cpython&memory_mib=128")
    assert (spec.name, spec.execution) == ("coding_env", "inline")
    extra = spec.metadata.extra
    assert extra["settings"]["memory_mib"] == 128
    assert extra["settings"]["interpreter"] == "cpython"
    names = [fence["name"] for fence in extra["fences"] if fence["in_force"]]
    assert {"limits", "descriptors", "environment"} <= set(names)
    limits = next(fence for fence in extra["fences"] if fence["name"] == "limits")
    assert "128 MiB of memory" in limits["detail"]


def test_required_fences_are_insisted_on() -> None:
    """A server starts only where the fences hold that its operator requires."""
    coding_environment(require_fences="limits,descriptors")
    with pytest.raises(LocalProtocolError, match=r"'namespaces'.* in force"):
        coding_environment(require_fences=["namespaces"], namespaces="off")
    with pytest.raises(LocalProtocolError, match="'moat'"):
        coding_environment(require_fences="moat")
