"""The pane's static files, read once and made a little smaller."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["STATIC", "StaticFile", "read_files", "strip_source"]

STATIC: Final = Path(__file__).parent / "static"

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
"""Not the machine's table, which says different things on different machines."""
_STRIPPED: Final = frozenset({".css", ".js"})


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is served."""

    body: bytes
    media_type: str
    etag: str


def read_files(folder: Path = STATIC) -> dict[str, StaticFile]:
    """Read all files of a folder, by path; what has no known type is left out.

    Hidden files and what lies in hidden folders are left out too: an editor's, say.
    """
    files: dict[str, StaticFile] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        media_type = _TYPES.get(path.suffix)
        hidden = any(part.startswith(".") for part in relative.parts)
        if media_type is None or hidden or not path.is_file():
            continue
        body = path.read_bytes()
        if path.suffix in _STRIPPED:
            text = strip_source(body.decode(), slashes=path.suffix == ".js")
            body = text.encode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()[:18])
        files[relative.as_posix()] = StaticFile(
            body, media_type, f'"{digest.decode()}"'
        )
    return files


def strip_source(text: str, *, slashes: bool) -> str:
    """Leave out indentation and comments that have their lines to themselves.

    Every line stays a line, so that the browser's line numbers are the file's. It knows
    nothing of strings: no literal may go over several lines, which the linter forbids.

    Args:
        text: The source of a script or a style sheet.
        slashes: Whether two slashes begin a comment.
    """
    return "\n".join(_stripped(text.split("\n"), slashes=slashes))


def _stripped(lines: list[str], *, slashes: bool) -> Iterator[str]:
    inside = False
    for line in lines:
        kept = line.strip()
        if not inside:
            if slashes and kept.startswith("//"):
                yield ""
                continue
            inside = kept.startswith("/*")
        if inside:
            _, end, rest = kept.partition("*/")
            inside = not end
            # A comment with code behind it is one for the code: a type, say.
            kept = kept if rest and kept.startswith("/*") else rest.strip()
        yield kept
