"""Opens a run with pandas, Polars and Hugging Face `datasets`, as their users would.

Run as `python -m tests.rollout.runs_tools FOLDER FORMAT`; prints what each saw as JSON.
It is a process of its own because the three bring threads, warnings and caches.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["main"]


def _pandas(folder: Path, episode_format: str) -> list[dict[str, Any]]:
    import pandas as pd  # noqa: PLC0415 (takes seconds to import)

    if episode_format == "parquet":
        frames = [pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    else:
        frames = [
            pd.read_json(path, lines=True, dtype=False)
            for path in sorted(folder.glob("*.jsonl.zst"))
        ]
    return json.loads(  # type: ignore[no-any-return]  # of JSON
        pd.concat(frames).drop(columns="arrays").to_json(orient="records")
    )


def _polars(folder: Path, episode_format: str) -> list[dict[str, Any]]:
    import polars as pl  # noqa: PLC0415 (takes seconds to import)

    if episode_format == "parquet":
        frame = pl.read_parquet(folder / "*.parquet")
        # Without the reader's own threads and glob, too.
        assert frame.equals(pl.scan_parquet(folder / "*.parquet").collect())
    else:
        paths = sorted(folder.glob("*.jsonl.zst"))
        frame = pl.concat([pl.read_ndjson(path) for path in paths])
    return frame.drop("arrays").to_dicts()


def _datasets(folder: Path, episode_format: str) -> list[dict[str, Any]]:
    import datasets  # noqa: PLC0415 (takes seconds to import)

    kind, pattern = {
        "parquet": ("parquet", "episodes-*.parquet"),
        "jsonl": ("json", "episodes-*.jsonl.zst"),
    }[episode_format]
    dataset = datasets.load_dataset(
        kind,
        data_files=str(folder / pattern),
        split="train",
        cache_dir=str(folder.parent / "cache"),
    )
    return dataset.remove_columns("arrays").to_list()  # type: ignore[no-any-return]  # untyped


_TOOLS: dict[str, Callable[[Path, str], list[dict[str, Any]]]] = {
    "pandas": _pandas,
    "polars": _polars,
    "datasets": _datasets,
}


def main() -> None:
    """Open the run with each tool and print the columns that a user looks at."""
    folder, episode_format = Path(sys.argv[1]), sys.argv[2]
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = str(folder.parent / "home")
    seen = {
        tool: [
            {
                "id": row["id"],
                "return": row["return"],
                "status": row["status"],
                "failure": row["failure"]["name"],
                "rewards": [step["reward"] for step in row["steps"]],
                "token_ids": [list(step["token_ids"]) for step in row["steps"]],
                "actions": [json.loads(step["action"]) for step in row["steps"]],
                "policy_ns": [step["timing"]["policy_ns"] for step in row["steps"]],
            }
            for row in read(folder, episode_format)
        ]
        for tool, read in _TOOLS.items()
    }
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
