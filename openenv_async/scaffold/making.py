"""`make_environment`: a package with an environment that works and passes its tests."""

from __future__ import annotations

import dataclasses
import importlib.util
import keyword
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import LocalProtocolError
from ..version import VERSION

__all__ = ["Names", "make_environment", "names_of"]

_TEMPLATE: Final = Path(__file__).parent / "template"
_SUFFIX: Final = ".tmpl"
"""Of the template's files, so that no tool takes them for what they become."""
_LONGEST: Final = 60
_TAKEN: Final = frozenset({"tests", "test", "server", "models", "client", "env"})
"""Names that a package of this kind has inside, or that say nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
    """One name in the spellings that a package needs.

    Args:
        package: For `import`.
        distribution: For `pip install`.
        prefix: Of the classes.
    """

    package: str
    distribution: str
    prefix: str


def names_of(name: str) -> Names:
    """Spell a name in all ways.

    `word-guess`, `Word Guess` and `word_guess` are the package `word_guess`, the
    distribution `word-guess`, and classes like `WordGuessAction`.

    Raises:
        LocalProtocolError: It cannot be a package's; says why.
    """
    package = re.sub(r"[-_. ]+", "_", name.strip()).strip("_").lower()
    trouble = _trouble(package)
    if trouble:
        raise LocalProtocolError(
            f"expected a name of letters, digits and dashes that no module has, got "
            f"{name!r}: {trouble}"
        )
    words = package.removesuffix("_env").split("_")
    return Names(
        package=package,
        distribution=package.replace("_", "-"),
        prefix="".join(word.capitalize() for word in words),
    )


def _trouble(package: str) -> str:
    """Why a package cannot have a name; empty if it can."""
    odd = sorted(set(re.findall(r"[^a-z0-9_]", package)))
    if not package:
        return "nothing is left of it"
    if odd:
        return f"it has {' '.join(odd)}"
    if package[0].isdigit():
        return "it begins with a digit"
    if len(package) > _LONGEST:
        return f"it has more than {_LONGEST} characters"
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        return "it is a keyword of Python"
    if package in sys.stdlib_module_names or package in _TAKEN:
        return "it is the name of another module"
    return ""


def make_environment(name: str, *, parent: Path | None = None) -> Path:
    """Make a package: environment, models, client, server, tests, README, Dockerfile.

    It is complete when it appears, and nothing that was there is touched.

    Args:
        name: What it is called; see `names_of`.
        parent: Where its folder goes; None takes the working directory.

    Returns:
        Its folder.

    Raises:
        LocalProtocolError: The name is impossible, another installed module has it, or
            there is something in its place.
    """
    names = names_of(name)
    parent = Path.cwd() if parent is None else parent
    folder = parent / names.package
    if folder.exists() or folder.is_symlink():
        raise LocalProtocolError(
            f"expected a new folder for {names.package!r}, got {str(folder)!r}, which "
            "is there already"
        )
    found = importlib.util.find_spec(names.package)
    if found is not None:
        raise LocalProtocolError(
            f"expected a name that no module has, got {names.package!r}, which is "
            f"{found.origin or 'a module'}"
        )
    try:
        parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, so that moving it there is one step.
        made = Path(tempfile.mkdtemp(prefix=f".{names.package}-", dir=parent))
    except OSError as error:
        raise LocalProtocolError(
            f"expected a folder to write to, got {str(parent)!r}: {error}"
        ) from error
    try:
        for path, text in _files(names):
            target = made / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        # A temporary folder is its owner's alone; this one is not temporary.
        made.chmod(0o777 & ~_umask())
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder


def _umask() -> int:
    # Reading it means setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _files(names: Names) -> Iterator[tuple[str, str]]:
    """The package's files with their contents."""
    words = {
        "@package@": names.package,
        "@distribution@": names.distribution,
        "@Prefix@": names.prefix,
        "@version@": VERSION,
    }
    pattern = re.compile("|".join(words))

    def filled(text: str) -> str:
        return pattern.sub(lambda match: words[match[0]], text)

    for path in sorted(_TEMPLATE.rglob(f"*{_SUFFIX}")):
        relative = path.relative_to(_TEMPLATE).as_posix().removesuffix(_SUFFIX)
        yield filled(relative), filled(path.read_text(encoding="utf-8"))
