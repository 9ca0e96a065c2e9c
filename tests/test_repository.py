"""What holds for every file of the repository."""

from __future__ import annotations

import os
import re
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from openenv_async.version import VERSION
from tests.sources import ROOT

_TEXT = {".py", ".md", ".toml", ".txt", ".in", ".yaml", ".yml", ".json", ".html"}
_TEXT |= {".js", ".css", ".sh", ""}
_NOT_OURS = {"runs", "build", "dist", "htmlcov", "__pycache__", "node_modules"}
_MACHINE = re.compile(r"(?<![\w.~/-])/(work|root|home/\w+|Users/\w+)/")
_SILENCER = re.compile(r"# (?:noqa|type: ignore|pyright: ignore)\b(.*)")
_REASON = re.compile(r": [A-Z]+\d+(, [A-Z]+\d+)* \(\w.*\)$|\[[\w, -]+\]  # \w")


def _files(*suffixes: str) -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _NOT_OURS and (name == ".ci" or not name.startswith("."))
        )
        for path in map(Path(folder).joinpath, sorted(names)):
            # Measuring coverage leaves data without a suffix.
            if path.suffix in suffixes and not path.name.startswith(".coverage"):
                yield path


def _lines(*suffixes: str) -> Iterator[tuple[str, str]]:
    for path in _files(*suffixes):
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def _comments(path: Path) -> Iterator[tokenize.TokenInfo]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token


def _none(faults: Iterable[object]) -> None:
    listed = [str(fault).removeprefix(f"{ROOT}/") for fault in faults]
    assert not listed, "\n".join(listed)


def test_files_end_with_a_newline() -> None:
    """Text files that are not empty end with exactly one newline."""
    texts = {path: path.read_bytes() for path in _files(*_TEXT)}
    _none(
        path
        for path, text in texts.items()
        if text and (not text.endswith(b"\n") or text.endswith(b"\n\n"))
    )


def test_files_name_no_machine() -> None:
    """No file names a folder of somebody's machine."""
    _none(at for at, line in _lines(*_TEXT) if _MACHINE.search(line))


def test_modules_are_short() -> None:
    """No module of the package is longer than 600 lines."""
    package = ROOT / "openenv_async"
    lengths = {path: len(path.read_text().splitlines()) for path in _files(".py")}
    _none(
        f"{path}: {length} lines"
        for path, length in lengths.items()
        if length > 600 and package in path.parents
    )


def test_silenced_checks_say_why() -> None:
    """Every noqa and ignore carries a code and a reason."""
    _none(
        f"{path}:{token.start[0]}: {token.string}"
        for path in _files(".py")
        for token in _comments(path)
        if (found := _SILENCER.search(token.string)) and not _REASON.match(found[1])
    )


def test_version_is_the_distribution_s() -> None:
    """The package and its pyproject.toml name the same version."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["version"] == VERSION
