"""Python that the pane offers to copy runs as it is."""

from __future__ import annotations

import subprocess
import sys

import anyio
import pytest
from playwright.async_api import Page, expect

from tests.browser.pages import InteractPage, open_view

_SNIPPET = """async (environment) => {
  const { clientSnippet } = await import("./snippets.js");
  const answer = await fetch(`../schema?environment=${environment}`);
  return clientSnippet({ environment, schemas: await answer.json() });
}"""
_PROGRAM = """async (records) => {
  const { asPython } = await import("./snippets.js");
  return asPython("coding_env", records);
}"""


async def _run(program: str) -> str:
    ended = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=15
        )
    )
    assert ended.returncode == 0, f"{program}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.parametrize("environment", ["echo_env", "CartPole-v1", "coding_env"])
async def test_the_client_snippet(page: Page, pane_url: str, environment: str) -> None:
    """For each environment, it plays a step of this server."""
    await open_view(page, pane_url, "interact")
    program = await page.evaluate(_SNIPPET, environment)
    printed = await _run(program)
    assert len(printed.splitlines()) == 2


async def test_an_episode_as_a_program(page: Page, pane_url: str) -> None:
    """What hides in text is written so that one sees it."""
    await open_view(page, pane_url, "interact")
    tricky = "print('\u202equote \" and \\\\ and \U0001f600 done')"
    records = [
        {
            "kind": "reset",
            "request": {"seed": 2**60, "episode_id": "e", "options": None},
        },
        {"kind": "step", "request": {"code": tricky, "timeout": None}},
        {"kind": "error", "request": {"code": "1 / 0", "timeout": 2.5}},
        {"kind": "state", "request": None},
        {"kind": "ended", "request": None},
    ]
    program = await page.evaluate(_PROGRAM, records)
    assert "\u202e" not in program  # what one reads is what runs
    assert "\\u202e" in program
    assert program.count("await env.step(") == 2
    await _run(program)


async def test_the_snippet_of_a_step(page: Page, pane_url: str) -> None:
    """One record is one statement."""
    view = await InteractPage(page, pane_url).open()
    await view.reset(seed=3)
    await expect(view.history).to_contain_text("reset")
    text = await page.evaluate(
        """async () => (await import("./snippets.js")).asPython("echo_env",
           { kind: "step", request: { message: "hi", flag: true, none: null } })"""
    )
    expected = '{"message": "hi", "flag": True, "none": None}'
    assert text == f"result = await env.step({expected})"
