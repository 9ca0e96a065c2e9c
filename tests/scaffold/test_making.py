"""A new package works at once, whatever its name, and nothing is overwritten."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from openenv_async import LocalProtocolError
from openenv_async.environment import ENTRY_POINTS
from openenv_async.scaffold import (
    Names,
    importable_target,
    make_environment,
    making,
    names_of,
    search_path,
    source_folder,
)
from openenv_async.version import VERSION

# Names


@pytest.mark.parametrize(
    ("name", "package", "prefix"),
    [
        ("guess", "guess", "Guess"),
        ("word-guess", "word_guess", "WordGuess"),
        ("Word Guess", "word_guess", "WordGuess"),
        ("word__guess.v2", "word_guess_v2", "WordGuessV2"),
        ("-x-", "x", "X"),
        ("chess_env", "chess_env", "Chess"),
        ("GAME-2048", "game_2048", "Game2048"),
    ],
)
def test_names_are_spelled_in_all_ways(name: str, package: str, prefix: str) -> None:
    """A package, a distribution and classes come from one name."""
    assert names_of(name) == Names(
        package=package, distribution=package.replace("_", "-"), prefix=prefix
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "nothing is left"),
        (" -._", "nothing is left"),
        ("a/b", "it has /"),
        ("../up", "it has /"),
        ("naïve", "it has ï"),
        ("a$b!", r"it has ! \$"),
        ("2048", "begins with a digit"),
        ("class", "keyword"),
        ("match", "keyword"),
        ("json", "another module"),
        ("tests", "another module"),
        ("x" * 61, "more than 60"),
    ],
)
def test_impossible_names_say_why(name: str, why: str) -> None:
    """What no package can be called is named, with the reason."""
    with pytest.raises(LocalProtocolError, match=why) as caught:
        names_of(name)
    assert repr(name) in caught.value.message
    assert caught.value.fault == "caller"


# Making


def _text(folder: Path) -> str:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return "\n".join(f"{path}\n{path.read_text()}" for path in paths)


def test_a_package_is_complete(tmp_path: Path) -> None:
    """It has all parts, under its own name, and nothing of the template's."""
    folder = make_environment("Word Guess", parent=tmp_path)
    assert folder == tmp_path / "word_guess"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert names >= {
        *("pyproject.toml", "README.md", "openenv.yaml", ".dockerignore"),
        *("word_guess/__init__.py", "word_guess/models.py", "word_guess/client.py"),
        *("word_guess/server/environment.py", "word_guess/server/app.py"),
        *("tests/test_word_guess_environment.py", "tests/test_word_guess_served.py"),
    }
    assert f"openenv-async:{VERSION}" in (folder / "Dockerfile").read_text()
    text = _text(folder)
    assert "@package@" not in text
    assert "@Prefix@" not in text
    assert ".tmpl" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["word_guess"]


def test_its_project_is_consistent(tmp_path: Path) -> None:
    """Distribution, entry point and settings of pytest name the same thing."""
    folder = make_environment("word-guess", parent=tmp_path)
    table = tomllib.loads((folder / "pyproject.toml").read_text())
    entries = table["project"]["entry-points"][ENTRY_POINTS]
    target = "word_guess.server.environment:WordGuessEnvironment"
    assert table["project"]["name"] == "word-guess"
    assert entries == {"word_guess": target}
    assert table["tool"]["pytest"]["ini_options"]["openenv_environment"] == target


def test_its_folder_is_like_any_other(tmp_path: Path) -> None:
    """Who may read the parent's other folders may read it."""
    folder = make_environment("guess", parent=tmp_path)
    (tmp_path / "other").mkdir()
    expected = stat.S_IMODE((tmp_path / "other").stat().st_mode)
    assert stat.S_IMODE(folder.stat().st_mode) == expected


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    """Whatever is there already stays as it is."""
    place = tmp_path / "guess"
    match kind:
        case "folder":
            place.mkdir()
        case "file":
            place.write_text("mine")
        case _:
            place.symlink_to("nowhere")
    with pytest.raises(LocalProtocolError, match="there already"):
        make_environment("guess", parent=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["guess"]
    assert kind != "file" or place.read_text() == "mine"


def test_another_module_s_name_is_refused(tmp_path: Path) -> None:
    """A package that would hide an installed one is not made."""
    with pytest.raises(LocalProtocolError, match=r"which is .*echo_env"):
        make_environment("echo-env", parent=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that could not be completed is removed."""

    def files(_names: Names) -> object:
        yield "a", "text"
        raise OSError("disk full")

    monkeypatch.setattr(making, "_files", files)
    with pytest.raises(OSError, match="disk full"):
        make_environment("guess", parent=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_parent_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    """The trouble with the parent is named; a missing one is made."""
    (tmp_path / "file").touch()
    with pytest.raises(LocalProtocolError, match="folder to write to"):
        make_environment("guess", parent=tmp_path / "file" / "below")
    assert make_environment("guess", parent=tmp_path / "a" / "b").is_dir()


# What is made works


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", ["word-guess", "A.very_long-name 2 env"])
def test_its_own_tests_pass_as_it_is(tmp_path: Path, name: str) -> None:
    """pytest passes in the folder, with warnings as errors, without installing it."""
    folder = make_environment(name, parent=tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_it_satisfies_the_linter(tmp_path: Path) -> None:
    """Ruff has nothing to say, neither about code nor about its format."""
    folder = make_environment("word-guess", parent=tmp_path)
    for command in (
        ["ruff", "check", "--isolated", "--select", "E,F,W,I,B,UP,D1", "--ignore=D107"],
        ["ruff", "format", "--isolated", "--check"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command, "."],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=15,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


# Folders


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that was just made; the search path is restored afterwards."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return make_environment("word-guess", parent=tmp_path)


def test_a_folder_is_a_target(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It becomes what it registers, and importable here and elsewhere."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    target = "word_guess.server.environment:WordGuessEnvironment"
    assert importable_target(str(folder)) == target
    assert str(folder) in sys.path
    assert search_path(str(folder)) == {"PYTHONPATH": str(folder)}
    monkeypatch.setenv("PYTHONPATH", "before")
    assert search_path(str(folder)) == {"PYTHONPATH": f"{folder}{os.pathsep}before"}


def test_other_targets_stay_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, paths of modules and addresses are not touched."""
    monkeypatch.chdir(folder.parent)
    for target in ("echo_env", "a.b:C?x=1", "ws://host:1", "ws+unix:///a/s"):
        assert importable_target(target) == target
        assert search_path(target) == {}
    assert str(folder.parent) in sys.path


def test_a_target_has_a_source_where_it_need_not_be_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own folder, or the working directory, if its module is there."""
    monkeypatch.chdir(folder)
    (folder / "single.py").touch()
    for target in (".", "word_guess.server:App", "single:App"):
        assert source_folder(target) == str(folder)
    for target in ("echo_env", "single", "other:App", "ws://single:1"):
        assert source_folder(target) == ""


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[project", "readable"),
        ("[project]\nname = 'a'\n", r"got \[\]"),
        (
            f"[project.entry-points.'{ENTRY_POINTS}']\na = 'a:A'\nb = 'b:B'\n",
            r"got \['a', 'b'\]",
        ),
    ],
)
def test_a_folder_without_one_environment_is_an_error(
    tmp_path: Path, text: str, match: str
) -> None:
    """Unreadable projects, and those that register none or several, are named."""
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(LocalProtocolError, match=match):
        importable_target(str(tmp_path))
