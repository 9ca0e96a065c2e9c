"""An environment with tools of every kind, for tests."""

from __future__ import annotations

from typing import Any

import anyio

from openenv_async.tools import (
    EpisodeBegun,
    ToolEnvironment,
    ToolFailure,
    ToolResult,
    tool,
)

__all__ = ["Shop"]


class OutOfStock(Exception):
    """Not the agent's doing."""


class Shop(ToolEnvironment):
    """Sell apples."""

    fatal = (OutOfStock,)

    def __init__(self) -> None:
        self.sold = 0

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> EpisodeBegun:
        """Open the shop."""
        super().reset(episode_id=episode_id)
        self.sold = 0
        return EpisodeBegun(prompt="Sell three apples.")

    @tool
    def sell(self, apples: int, customer: str = "anybody") -> dict[str, Any]:
        """Sell some apples.

        Returns nothing to the stock.

        Args:
            apples: How many.
            customer: To whom;
                a name.

        Returns:
            What was sold so far.
        """
        self.sold += apples
        return {"sold": self.sold, "customer": customer}

    @tool(name="close_deal", description="Finish.")
    def finish(self) -> ToolResult:
        """Not shown."""
        return ToolResult(
            value="done",
            reward=float(self.sold == 3),
            terminated=True,
            metadata={"sold": self.sold},
        )

    @tool(timeout=0.05)
    async def wait(self, seconds: float) -> str:
        """Wait for customers."""
        await anyio.sleep(seconds)
        return "waited"

    @tool
    def drop(self, how: str) -> None:
        """Drop an apple."""
        if how == "told":
            raise ToolFailure("it fell", error_type="transport_error", reward=-1.0)
        if how == "fatally":
            raise OutOfStock("no apples left")
        raise ValueError("slipped")
