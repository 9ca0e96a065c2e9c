"""Frames recorded from OpenEnv 0.10.0, and when an answer of ours agrees with one.

Ours agrees if a client of OpenEnv cannot tell the difference: everything that it reads
is equal. Texts that name a library's own words, and what only we add, may differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

__all__ = ["disagreement", "recorded"]

_FOLDER: Final = Path(__file__).parent / "recorded"
_ERRORS_OF_TYPES: Final = {"int_parsing": "int_type"}
"""pydantic parses text to numbers, and names its failure after that."""
_OURS: Final = ("errors", "error_code", "executed")


def recorded(name: str) -> list[dict[str, Any]]:
    """The exchanges of one transcript, in order."""
    lines = (_FOLDER / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def disagreement(ours: Any, theirs: Any) -> str:
    """How two answers differ for a client; empty if they do not."""
    if ours["type"] != theirs["type"]:
        return f"type {ours['type']!r} instead of {theirs['type']!r}"
    mine, expected = ours["data"], theirs["data"]
    if ours["type"] == "error":
        return _errors_differ(mine, expected)
    if ours["type"] == "mcp":
        return rpc_disagreement(mine, expected)
    return "" if mine == expected else f"{mine!r} instead of {expected!r}"


def _errors_differ(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    if "errors" in theirs:
        found = problem_of(ours["errors"][0])
        if found not in [problem_of(problem) for problem in theirs["errors"]]:
            return f"problem {found!r} instead of {theirs['errors']!r}"
    mine = {key: value for key, value in ours.items() if key not in _OURS}
    expected = {key: value for key, value in theirs.items() if key not in _OURS}
    if theirs["code"] == "INVALID_JSON":
        # The decoder's own words follow.
        mine["message"] = mine["message"][: len("Invalid JSON: ")]
        expected["message"] = "Invalid JSON: "
    return "" if mine == expected else f"{mine!r} instead of {expected!r}"


def problem_of(problem: dict[str, Any]) -> tuple[str, list[str | int], object]:
    """What a client can make use of in a validation error."""
    kind = problem["type"]
    return _ERRORS_OF_TYPES.get(kind, kind), problem["loc"], problem["input"]


def rpc_disagreement(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """How two JSON-RPC responses differ for a client."""
    if "error" in theirs:
        mine, expected = ours.get("error"), theirs["error"]
        if mine is None or mine["code"] != expected["code"]:
            return f"{mine!r} instead of {expected!r}"
        if expected["code"] not in (-32600, -32700) and (
            mine["message"] != expected["message"]
        ):
            return f"{mine['message']!r} instead of {expected['message']!r}"
        return ""
    mine, expected = dict(ours["result"]), dict(theirs["result"])
    if "session_id" in expected:
        mine["session_id"] = expected["session_id"] if mine["session_id"] else ""
    if ours["id"] != theirs["id"] or mine != expected:
        return f"{ours!r} instead of {theirs!r}"
    return ""
