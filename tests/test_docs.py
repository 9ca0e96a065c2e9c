"""The documents agree with the code, and their snippets run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources import ROOT

_SPECIFICATION = ROOT / "docs" / "protocol.md"
_HEADING = re.compile(r"^#{2,4} (?P<number>\d+(?:\.\d+)*) ", re.MULTILINE)
_CITED = (
    # "section 5.3", "sections 3.7 and 5.6"
    re.compile(r"\bsections? (\d+(?:\.\d+)*)(?: and (\d+(?:\.\d+)*))?"),
    # "(5.3)" and "# 5.3. Why"
    re.compile(r"\((\d+\.\d+)\)(?!\s*[\d*/+])"),
    re.compile(r"# (\d+\.\d+)\. "),
)
_SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)")


def _sections() -> list[str]:
    text = _SPECIFICATION.read_text(encoding="utf-8")
    return [found["number"] for found in _HEADING.finditer(text)]


def _prose(path: Path) -> str:
    """Comments and texts of a module: where sections are cited."""
    source = path.read_text(encoding="utf-8")
    texts = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return "\n".join([*texts, *re.findall(r"#.*", source)])


def _snippets() -> list[str]:
    return _SNIPPET.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def test_the_specification_is_up_to_date() -> None:
    """What is generated in the specification is what the generator makes now."""
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_sections_are_numbered_in_order() -> None:
    """Sections count from 1, and subsections from 1 within each."""
    before = [0]
    for number in _sections():
        parts = [int(part) for part in number.split(".")]
        level = len(parts)
        following = [*before, 0][:level]
        following[-1] += 1
        assert parts == following, f"section {number}"
        before = parts


def test_cited_sections_exist() -> None:
    """Code and documents cite sections that the specification has."""
    sections = set(_sections())
    texts = {
        path: _prose(path)
        for folder in ("openenv_async", "tests/protocol")
        for path in (ROOT / folder).rglob("*.py")
    }
    # Generated blocks aside, it cites only itself.
    texts[_SPECIFICATION] = re.sub(
        r"RFC \d+, section", "", _SPECIFICATION.read_text(encoding="utf-8")
    )
    cited = [
        (path.relative_to(ROOT), number)
        for path, text in texts.items()
        for pattern in _CITED
        for found in pattern.findall(text)
        for number in ([found] if isinstance(found, str) else found)
        if number
    ]
    assert len(cited) > 50
    missing = [f"{path}: {number}" for path, number in cited if number not in sections]
    assert not missing, "\n".join(missing)


def test_every_message_is_specified() -> None:
    """The specification has the fields of every message, each once."""
    text = _SPECIFICATION.read_text(encoding="utf-8")
    rows = re.findall(r"^\| 0 \| tag \| `\"(\w+)\"` \|", text, re.MULTILINE)
    tables = (ROOT / "openenv_async" / "messages.py").read_text(encoding="utf-8")
    assert sorted(rows) == sorted(re.findall(r"\btag=\"(\w+)\"", tables))


@pytest.mark.parametrize(
    "document",
    ["README.md", "docs/protocol.md", "docs/glossary.md", "docs/openenv.md"],
)
def test_links_lead_somewhere(document: str) -> None:
    """Relative links name files that exist, and headings of this document."""
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target, anchor in _LINK.findall(text):
        assert not target or (path.parent / target).exists(), target
        assert target or anchor in headings, anchor


@pytest.mark.parametrize("number", range(len(_snippets())))
def test_snippets_of_the_readme_compile(number: int) -> None:
    """Every Python snippet of the README is Python; some leave out the program."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compile(_snippets()[number], f"README.md, snippet {number + 1}", "exec", flags)


@pytest.mark.timeout(70)
def test_the_first_snippet_of_the_readme_runs(tmp_path: Path) -> None:
    """What a reader tries first does what its comments say."""
    program = tmp_path / "first.py"
    program.write_text(_snippets()[0], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, many = done.stdout.splitlines()
    assert "hi" in one
    float(many)
    assert not done.stderr


def test_the_readmes_environment_works(tmp_path: Path) -> None:
    """The environment that the README writes can be served and played."""
    environment = next(text for text in _snippets() if "class GuessEnvironment" in text)
    (tmp_path / "guess.py").write_text(environment, encoding="utf-8")
    program = tmp_path / "play.py"
    program.write_text(
        "import asyncio\n"
        "from guess import GuessAction, GuessEnvironment\n"
        "from openenv_async.environment import EnvironmentSpec\n"
        "async def main() -> None:\n"
        "    assert EnvironmentSpec.of(GuessEnvironment).execution == 'inline'\n"
        "    played = GuessEnvironment()\n"
        "    await played.reset(seed=7)\n"
        "    hints = [(await played.step(GuessAction(number=n))) for n in (9, 3, 7)]\n"
        "    print([(hint.hint, hint.done) for hint in hints])\n"
        "asyncio.run(main())\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[('lower', False), ('higher', False), ('yes', True)]\n", (
        done.stderr
    )
