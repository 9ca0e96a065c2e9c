"""An environment that observes whatever harms a page, by name."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Annotated, Any, Final

from msgspec import Meta

from openenv_async import Action, Array, Environment, Observation, State

__all__ = ["ATTACKS", "HostileEnvironment"]

_SCRIPT: Final = "window.harmed = true"
_MARKUP: Final = (
    f"</pre></div></script><script>{_SCRIPT}</script>"
    f'<img src=x onerror="{_SCRIPT}"><svg/onload="{_SCRIPT}">'
    '<iframe src="https://example.org/"></iframe><style>*{display:none}</style>'
    '<form action="https://example.org/"><input autofocus onfocus="alert(1)">'
    f'<a href="javascript:{_SCRIPT}">x</a><base href="https://example.org/">'
    '<meta http-equiv="refresh" content="0;url=https://example.org/">'
)
_MARKDOWN: Final = (
    f"# {_MARKUP}\n\n{_MARKUP}\n\n[a](javascript:{_SCRIPT}) [b](JaVaScRiPt:alert(1)) "
    "[c](data:text/html,<script>alert(1)</script>) [d](//example.org) "
    '[e](\x01javascript:alert(1)) [f](vbscript:x) [g](https://example.org/"onclick=x) '
    "![](https://example.org/pixel.png) [ref]: https://example.org\n\n"
    + "> " * 500
    + "deep\n\n"
    + "".join("  " * level + "- item\n" for level in range(200))
    + "*" * 3000
    + "[" * 3000
    + "`" * 3000
)


def _bomb() -> str:
    """A PNG of a few hundred bytes that claims 3.6 gigapixels."""
    header = struct.pack(">2I5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    chunks = [
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    ]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def _deep(levels: int) -> object:
    value: object = _MARKUP
    for level in range(levels):
        value = [value] if level % 2 else {"__proto__": value}
    return value


def _array(dtype: str, shape: tuple[int, ...], data: bytes = b"\0" * 8) -> Array:
    return Array(dtype=dtype, shape=shape, data=memoryview(data))


ATTACKS: Final[dict[str, Any]] = {
    "markup": _MARKUP,
    "markup in keys": {_MARKUP: {_MARKUP: _MARKUP}},
    "markup in a table": [{_MARKUP: _MARKUP, "b": n} for n in range(5)],
    "markup in code": {"stdout": _MARKUP, "stderr": _MARKUP, "exit_code": _MARKUP},
    "markup in an error": {
        "stdout": 5,
        "exit_code": 1,
        "error": {"type": _MARKUP, "message": _MARKUP, "line": _MARKUP},
    },
    "prototypes": {
        "__proto__": {"polluted": True},
        "constructor": {"prototype": {"polluted": True}},
        "toString": 1,
        "hasOwnProperty": None,
        "length": -1,
        "then": "x",
        "toJSON": "x",
    },
    "tables of prototypes": [{"__proto__": n, "constructor": n} for n in range(3)],
    "directions": "user\u202e\u2066gnp.exe\u2069\u200b\u200d\ufeff\U000e0041" * 200,
    "controls": "".join(map(chr, range(0xA0))) + "\x1b[2J\x1b]0;title\x07\x1bP1\x1b\\",
    "unfinished escapes": "\x1b[" * 20_000 + "\x1b]" * 20_000 + "\x1b[38;2;1" * 10_000,
    "colours": "\x1b[31ma\x1b[0mb" * 50_000,
    "marks on marks": "Z" + "\u0301\u0317\u0353" * 5_000,
    "one long word": "w" * 3_000_000,
    "many lines": "\n" * 500_000,
    "many items": [[n, {"n": n}] for n in range(40_000)],
    "many keys": {f"key {n}": n for n in range(60_000)},
    "many columns": [{f"c{n}": n for n in range(2_000)} for _ in range(20)],
    "depth": _deep(400),
    "no array": {"kind": "array", "dtype": "<f4", "shape": [2**52], "data": "AAAA"},
    "negative shape": {"kind": "array", "dtype": "<f4", "shape": [-1], "data": ""},
    "many dimensions": {
        "kind": "array",
        "dtype": "|u1",
        "shape": [1] * 5_000,
        "data": "AA==",
    },
    "a shape of nothing": {
        "kind": "array",
        "dtype": "|u1",
        "shape": [0, 2**40],
        "data": "",
    },
    "a type of markup": {
        "kind": "array",
        "dtype": _MARKUP,
        "shape": [1],
        "data": "AA==",
    },
    "not finite": _array("<f8", (2,), struct.pack("<2d", float("nan"), float("inf"))),
    "a thin picture": _array("|u1", (8, 200_000), b"\x7f" * 1_600_000),
    "an image bomb": _bomb(),
    "no image": "iVBORw0KGgo" + "A" * 1000,
    "an image with a script": "data:image/svg+xml;base64,"
    + base64.b64encode(f"<svg onload='{_SCRIPT}'/>".encode()).decode(),
    "an address": f"javascript:{_SCRIPT}",
    "numbers": [1e308, -1e308, 2**63, 5e-324, 0.1],
    "dicts in a dict": {"kind": "dict", "items": {"kind": "dict", "items": {"a": 1}}},
}
"""Observations by what is wrong with them."""


class HostileAction(Action):
    attack: str
    note: Annotated[
        str,
        Meta(
            title=_MARKUP,
            description=_MARKUP,
            # Takes for ever on what nearly fits.
            pattern="^(a+)+$",
            extra_json_schema={"examples": [_MARKUP], "format": _MARKUP},
        ),
    ] = _MARKUP


class HostileObservation(Observation):
    value: Any = None
    markdown: Annotated[
        str, Meta(extra_json_schema={"contentMediaType": "text/markdown"})
    ] = ""


class HostileEnvironment(Environment[HostileAction, HostileObservation, State]):
    """Observes attacks."""

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> HostileObservation:
        """Observe the worst Markdown."""
        return HostileObservation(markdown=_MARKDOWN)

    async def step(self, action: HostileAction) -> HostileObservation:
        """Observe what was asked for."""
        return HostileObservation(value=ATTACKS[action.attack])

    def state(self) -> State:
        """Nothing of interest."""
        return State()
