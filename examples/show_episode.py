"""Show one episode that examples/cartpole_batch.py recorded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

__all__: list[str] = []

EDGE = 5
"""Steps to show from the beginning and from the end."""


def find(path: Path, seed: int) -> dict[str, Any]:
    """The first episode with the seed."""
    with path.open("rb") as file:
        for line in file:
            episode: dict[str, Any] = msgspec.json.decode(line)
            if episode["seed"] == seed:
                return episode
    raise SystemExit(f"expected an episode with seed {seed} in {path}, got none")


def steps(episode: dict[str, Any]) -> Table:
    """What the agent saw, did and got, at the beginning and at the end."""
    table = Table("step", "position", "angle", "action", "reward", "took")
    count = episode["steps"]
    for step in range(count):
        if EDGE <= step < count - EDGE:
            if step == EDGE:
                table.add_row(*["..."] * 6)
            continue
        position, _, angle, _ = episode["observations"][step]
        table.add_row(
            str(step),
            f"{position:+.3f}",
            f"{angle:+.3f}",
            "right" if episode["actions"][step] else "left",
            str(episode["rewards"][step]),
            f"{episode['step_ms'][step]} ms",
        )
    return table


def main() -> None:
    """Print the episode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("seed", type=int)
    chosen = parser.parse_args()
    episode = find(chosen.path, chosen.seed)
    console = Console()
    console.print(steps(episode))
    for name in ("seed", "steps", "return", "terminated", "truncated", "failure"):
        console.print(f"{name}: {episode[name]}")
    console.print(f"time in ms: {episode['timing_ms']}")


if __name__ == "__main__":
    main()
