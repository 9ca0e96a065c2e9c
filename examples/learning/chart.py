"""Learning curves as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .journal import Journal

__all__ = ["draw"]

_COLOURS = ("#0b6bcb", "#c2571a")
_MUTED = "#5b6570"
_SHARES = {
    "policy_busy": "policy called",
    "model_busy": "model computing",
    "training": "learner training",
}


def draw(journals: Sequence[Journal], path: Path, *, environment: str) -> Path:
    """Draw how runs went, and return where the picture is.

    Args:
        journals: One for each run; those without an update are left out.
        path: Of the PNG.
        environment: Its name.
    """
    journals = [journal for journal in journals if journal.rows]
    figure = Figure(figsize=(9.6, 6.4), dpi=125, layout="constrained")
    axes = figure.subplot_mosaic("AA;BC", height_ratios=(1.5, 1))
    for panel in axes.values():
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(colors=_MUTED)
    _returns(axes["A"], journals)
    axes["A"].set_title(f"{environment}: mean return of 100 episodes", loc="left")
    _lags(axes["B"], journals)
    _busy(axes["C"], journals)
    figure.savefig(path)
    return path


def _returns(panel: Any, journals: Sequence[Journal]) -> None:
    for journal, colour in zip(journals, _COLOURS, strict=False):
        rows = journal.rows
        seconds = [row.workload.seconds for row in rows]
        means = [row.mean_return for row in rows]
        panel.plot(seconds, means, color=colour, label=_label(journal), linewidth=2)
        panel.plot(seconds[-1], means[-1], "o", color=colour)
    if journals:
        panel.axhline(journals[0].goal, color=_MUTED, linestyle="--", linewidth=1)
        panel.legend(frameon=False, loc="best")
    panel.set_xlabel("seconds since the first reset")
    panel.set_ylim(0, 510)
    panel.set_xlim(left=0)


def _label(journal: Journal) -> str:
    row = journal.rows[-1]
    speed = row.steps / row.workload.seconds
    return f"{journal.name}: {row.steps:,} steps, {speed:,.0f} a second"


def _lags(panel: Any, journals: Sequence[Journal]) -> None:
    for journal, colour in zip(journals, _COLOURS, strict=False):
        updates = [row.update for row in journal.rows]
        versions = [update.version for update in updates]
        panel.plot(versions, [update.lag_mean for update in updates], color=colour)
        panel.fill_between(
            versions,
            [update.lag_max for update in updates],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
    panel.set_title("Policy lag: mean and maximum", loc="left", fontsize=10)
    panel.set_xlabel("update")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylabel("updates behind", color=_MUTED)
    panel.set_ylim(bottom=0)


def _busy(panel: Any, journals: Sequence[Journal]) -> None:
    height = 0.8 / max(1, len(journals))
    for place, (journal, colour) in enumerate(zip(journals, _COLOURS, strict=False)):
        workload = journal.rows[-1].workload
        shares = [100 * getattr(workload, name) for name in _SHARES]
        at = [row + place * height for row in range(len(shares))]
        bars = panel.barh(at, shares, height=height * 0.9, color=colour)
        panel.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=8)
    middle = height * (len(journals) - 1) / 2
    panel.set_yticks([row + middle for row in range(len(_SHARES))], _SHARES.values())
    panel.invert_yaxis()
    panel.set_title("Share of the time, in %", loc="left", fontsize=10)
    panel.set_xlim(0, 100)
