"""Observations that attack the page: nothing runs, nothing leaves, nothing breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Dialog

from tests.browser.components import Lab
from tests.browser.conftest import serve_web_process
from tests.browser.hostile_environment import ATTACKS

pytestmark = pytest.mark.timeout(30)

_TARGET: Final = "tests.browser.hostile_environment:HostileEnvironment"
_CONNECT: Final = """
async () => {
  const url = new URL("../ws", document.baseURI);
  url.protocol = "ws:";
  const socket = new WebSocket(url, ["openenv.v1.json"]);
  const waiting = new Map();
  // Large answers come in pieces.
  const pieces = {};
  const take = (message) => {
    if (message[0] === "chunk") {
      const [, stream, final, data] = message;
      pieces[stream] = (pieces[stream] ?? "") + atob(data);
      if (!final) return;
      const bytes = Uint8Array.from(pieces[stream], (letter) => letter.charCodeAt(0));
      take(JSON.parse(new TextDecoder().decode(bytes)));
    } else if (["reply", "error"].includes(message[0])) {
      waiting.get(message[2])?.(message);
    }
  };
  socket.onmessage = (event) => JSON.parse(event.data).forEach(take);
  await new Promise((onopen, onerror) => Object.assign(socket, { onopen, onerror }));
  let seq = 0;
  window.ask = (kind, ...rest) =>
    new Promise((done) => {
      seq += 1;
      waiting.set(seq, done);
      socket.send(JSON.stringify([[kind, 1, seq, ...rest]]));
    });
  const key = [...crypto.getRandomValues(new Uint8Array(16))];
  const hexadecimal = key.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const hello = ["hello", 1, "hostile", {}, null];
  socket.send(JSON.stringify([hello, ["open", 1, hexadecimal]]));
  window.schemas = await (await fetch("../schema")).json();
}
"""
_RENDER: Final = """
async (attack) => {
  const answer = attack === null ? await ask("reset") : await ask("step", { attack });
  if (answer[0] !== "reply") return { problem: JSON.stringify(answer) };
  const observation = answer[3];
  const start = performance.now();
  const schema = Object.values(schemas.environments)[0].observation;
  const views = [
    lab.renderObservation(observation, { schema }),
    lab.renderTree(observation, { open: Infinity }),
    lab.renderDiff(observation, { ...observation, value: { new: observation.value } }),
    lab.renderDiff(null, observation),
    lab.renderMarkdown(lab.write(observation, 100000)),
    lab.renderCode(lab.write(observation, 100000), "python"),
  ];
  const beside = document.createElement("p");
  beside.textContent = "beside";
  box.replaceChildren(...views, beside);
  for (const button of box.querySelectorAll(".observation button")) button.click();
  box.querySelector(".segments button").click();
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  const has = (selector) => box.querySelectorAll(selector).length;
  const contained = ".scroll, .tree, pre, .visually-hidden";
  const outside = [...box.querySelectorAll("*")].filter((element) => {
    const { right, width } = element.getBoundingClientRect();
    return width && right > innerWidth + 1 && !element.closest(contained);
  });
  beside.scrollIntoView();
  const { left, top } = beside.getBoundingClientRect();
  return {
    took: performance.now() - start,
    markup: has("script, iframe, style, form, meta, base, object, embed"),
    handlers: [...document.querySelectorAll("*")].flatMap((element) =>
      element.getAttributeNames().filter((name) => name.startsWith("on"))),
    links: has("a:not([href^='https://'], [href^='http://'], [href^='mailto:'])"),
    polluted: ({}).polluted === true || window.harmed === true,
    wide: document.documentElement.scrollWidth > innerWidth,
    outside: outside.slice(0, 3).map((element) => element.outerHTML.slice(0, 100)),
    covered: document.elementFromPoint(left + 2, top + 2) !== beside,
  };
}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(browser: Browser) -> AsyncIterator[Lab]:
    """A page that plays the hostile environment over its own socket."""
    async with (
        serve_web_process(_TARGET) as process,
        Lab.open(browser, process.url) as opened,
    ):
        await opened.page.evaluate(_CONNECT)
        opened.page.on("dialog", _harmed)
        yield opened


def _harmed(dialog: Dialog) -> None:
    raise AssertionError(f"expected no dialog, got {dialog.message!r}")


async def _endure(lab: Lab, attack: str | None) -> None:
    asked: list[str] = []
    listen = asked.append
    lab.page.on("request", lambda request: listen(request.url))
    url = lab.page.url
    seen: dict[str, Any] = await lab.page.evaluate(_RENDER, attack)
    assert seen.pop("took", 0) < 6000
    assert seen == {
        "markup": 0,
        "handlers": [],
        "links": 0,
        "polluted": False,
        "wide": False,
        "outside": [],
        "covered": False,
    }
    assert [one for one in asked if not one.startswith("data:image/")] == []
    assert lab.page.url == url
    assert lab.faults.unexpected == []


async def test_markdown_harms_nobody(lab: Lab) -> None:
    """Markdown with markup, scripts, odd links and endless nesting is only text."""
    await _endure(lab, None)


@pytest.mark.parametrize("attack", ATTACKS)
async def test_observation_harms_nobody(lab: Lab, attack: str) -> None:
    """No script runs, no request leaves, no dialog opens, and the page goes on."""
    await _endure(lab, attack)


async def test_a_narrow_page_is_not_broken_either(lab: Lab) -> None:
    """On a telephone nothing sticks out."""
    await lab.page.set_viewport_size({"width": 390, "height": 800})
    try:
        for attack in ("markup", "one long word", "many columns", "a thin picture"):
            await _endure(lab, attack)
    finally:
        await lab.page.set_viewport_size({"width": 1280, "height": 800})


async def test_schema_harms_nobody(lab: Lab) -> None:
    """Titles, help, defaults and patterns of a schema are text and bounded work."""
    seen = await lab.page.evaluate(
        """() => {
          const form = document.createElement("schema-form");
          form.setSchema(Object.values(schemas.environments)[0].action);
          box.replaceChildren(form);
          const start = performance.now();
          form.value = { attack: "x", note: "a".repeat(60) + "!" };
          form.check();
          form.showErrors([{ path: ["note"], message: "<script>alert(1)</script>" }]);
          return {
            quick: performance.now() - start < 1000,
            markup: box.querySelectorAll("script, img, iframe, style, form").length,
            harmed: window.harmed ?? null,
          };
        }"""
    )
    assert seen == {"quick": True, "markup": 0, "harmed": None}
