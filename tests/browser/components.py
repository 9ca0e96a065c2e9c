"""A bare page on which tests put the pane's forms and renderers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, final

import axe_playwright_python
from playwright.async_api import Browser, Locator, Page

from tests.browser.conftest import PATIENCE, Faults

__all__ = ["Lab"]

_AXE: Final = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
_OPEN: Final = """
async () => {
  document.documentElement.lang = "en";
  document.title = "Components";
  const sheets = ["base.css", "components.css"].map((name) => {
    const link = Object.assign(document.createElement("link"), { rel: "stylesheet" });
    const loaded = new Promise((done) => link.addEventListener("load", done));
    link.href = name;
    document.head.append(link);
    return loaded;
  });
  const main = document.createElement("main");
  const box = Object.assign(document.createElement("div"), { id: "box" });
  box.className = "card";
  main.append(Object.assign(document.createElement("h1"), { textContent: "Lab" }), box);
  document.body.replaceChildren(main);
  const names = ["form/schema-form", "form/controls", "render/observation",
    "render/tree", "render/markdown", "render/diff", "render/text", "render/values"];
  const url = (name) => new URL(`${name}.js`, document.baseURI).href;
  const modules = await Promise.all(names.map((name) => import(url(name))));
  window.lab = Object.assign({}, ...modules);
  window.submitted = 0;
  await Promise.all(sheets);
}
"""


@final
class Lab:
    """The components in a page of the pane's origin, under its policy."""

    def __init__(self, page: Page, faults: Faults) -> None:
        self.page = page
        self.faults = faults
        self.box = page.locator("#box")

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, browser: Browser, url: str) -> AsyncIterator[Lab]:
        """Go to a file of the pane that runs nothing, and load the components there.

        Nothing may go wrong in the page until it is closed.
        """
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE)
        faults = Faults()
        faults.watch(page)
        # The browser asks for an icon of a page that names none.
        await page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        await page.goto(f"{url}types.js")
        await page.evaluate(_OPEN)
        yield cls(page, faults)
        assert not faults.unexpected, "\n".join(faults.unexpected)
        await page.close()

    async def form(self, schema: object) -> None:
        """Show the form of a schema."""
        await self.page.evaluate(
            """(schema) => {
              window.form = document.createElement("schema-form");
              form.addEventListener("submit", () => (window.submitted += 1));
              form.setSchema(JSON.parse(schema));
              box.replaceChildren(form);
            }""",
            json.dumps(schema),
        )

    def field(self, name: str) -> Locator:
        """The control with a label."""
        return self.page.get_by_label(name, exact=True)

    async def text(self) -> str:
        """The form's value, as it would be sent."""
        text: str = await self.page.evaluate("JSON.stringify(form.value)")
        return text

    async def value(self) -> Any:
        """The form's value."""
        return json.loads(await self.text())

    async def fill(self, value: object) -> None:
        """Give the form a value, with integers kept exact."""
        await self.page.evaluate(
            "(text) => { form.value = lab.exactly(text) }", json.dumps(value)
        )

    async def check(self) -> dict[str, str]:
        """What is wrong with the form: messages by path."""
        found = await self.page.evaluate("form.check()")
        return {
            ".".join(map(str, problem["path"])): problem["message"] for problem in found
        }

    async def submitted(self) -> int:
        """How often the form was submitted."""
        count: int = await self.page.evaluate("submitted")
        return count

    async def show(self, call: str, *arguments: object) -> None:
        """Put what a renderer makes on the page, such as `renderTree`."""
        await self.page.evaluate(
            """([call, values]) =>
              box.replaceChildren(lab[call](...values.map((text) => JSON.parse(text))))
            """,
            [call, [json.dumps(argument) for argument in arguments]],
        )

    async def violations(self) -> list[str]:
        """What axe finds serious or critical, as rule and element."""
        await self.page.evaluate(_AXE)
        found: dict[str, Any] = await self.page.evaluate("axe.run()")
        return [
            f"{rule['id']}: {node['html'][:120]}"
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]
