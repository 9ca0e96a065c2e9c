"""What tests do in the pane's pages, by what a user sees."""

from __future__ import annotations

import re
from typing import Final

from playwright.async_api import Locator, Page, expect

__all__ = [
    "VIEWS",
    "InteractPage",
    "has_no_sideways_scroll",
    "is_connected",
    "open_view",
]

VIEWS: Final = ("interact", "sessions", "server")
"""Routes of the live pane."""


async def is_connected(page: Page) -> None:
    """Wait until the pane's socket is open."""
    await expect(page.locator("#status")).to_have_text("connected")


async def open_view(page: Page, pane_url: str, view: str) -> None:
    """Go to a view, such as `sessions/s1`, and wait until it is connected."""
    await page.goto(f"{pane_url}#/{view}")
    await is_connected(page)


async def has_no_sideways_scroll(page: Page) -> None:
    """The page itself does not scroll sideways; tables within it may."""
    width, wanted = await page.evaluate(
        "[innerWidth, document.documentElement.scrollWidth]"
    )
    assert wanted <= width, f"expected at most {width} px, got {wanted} px"


class InteractPage:
    """The view in which one environment is driven by hand."""

    def __init__(self, page: Page, pane_url: str) -> None:
        self.page = page
        self.pane_url = pane_url
        self.actions = page.get_by_role("region", name="Actions")
        self.observation = page.get_by_role("region", name="Observation")
        self.state = page.get_by_role("region", name="State")
        self.history = page.get_by_role("region", name="History")
        self.alert = self.actions.get_by_role("alert")

    async def open(self, environment: str | None = None) -> InteractPage:
        """Go there, and choose an environment other than the default."""
        await open_view(self.page, self.pane_url, "interact")
        if environment is not None:
            await self.page.get_by_label("Environment").select_option(environment)
        await expect(self.button("Reset")).to_be_enabled()
        return self

    def button(self, name: str) -> Locator:
        """A button of the view."""
        return self.actions.get_by_role("button", name=name, exact=True)

    def field(self, name: str) -> Locator:
        """A field of the action."""
        return self.actions.get_by_role("group", name="Action").get_by_label(
            re.compile(rf"^{re.escape(name)}\b")
        )

    async def reset(self, seed: int | None = None) -> None:
        """Begin an episode, and wait for its first observation."""
        if seed is not None:
            await self.page.get_by_label("Seed").fill(str(seed))
        await self.button("Reset").click()
        await self.observed("reset")

    async def step(self) -> None:
        """Send the action that is in the form, and wait for the observation."""
        before = await self.observation.locator(".badge").first.text_content()
        await self.button("Step").click()
        await expect(self.observation.locator(".badge").first).not_to_have_text(
            before or ""
        )

    async def observed(self, kind: str) -> None:
        """Wait for an observation of a kind of request."""
        await expect(self.observation.locator(".badge").first).to_have_text(
            re.compile(rf"^{kind} ")
        )
