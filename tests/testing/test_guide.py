"""The snippets of docs/testing.md run as the guide says."""

from __future__ import annotations

import re

import pytest

from openenv_async.conformance import CHECKS
from tests.sources import ROOT

_GUIDE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
_SNIPPET = re.compile(r"^```(python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(60)
def test_snippets_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a file of tests; the settings are those that the guide shows."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    count = 0
    for language, text in _SNIPPET.findall(_GUIDE):
        if language == "toml":
            scope = 'asyncio_default_fixture_loop_scope = "function"\n'
            (pytester.path / "pyproject.toml").write_text(text + scope)
        else:
            count += text.count("def test_")
            pytester.makepyfile(**{f"test_{count}": text})
    result = pytester.runpytest_subprocess("-W", "error")
    result.assert_outcomes(passed=count)
    assert count == 8


def test_every_check_is_explained() -> None:
    """The table has a row for each."""
    rows = re.findall(r"^\| ([a-z ,]+) \| ", _GUIDE, re.MULTILINE)
    listed = [name.strip() for row in rows for name in row.split(",")]
    assert [name for name in CHECKS if name not in listed] == []
