"""`openenv-async show` tells what a run holds."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from openenv_async.rollout.runs.store import RunStore
from tests.cli.commands import Outcome
from tests.rollout.runs import make_episode, make_manifest, write_run

Command = Callable[..., Outcome]


def test_a_run_is_shown_in_tables(tmp_path: Path, command: Command) -> None:
    """Outcomes, distributions and a histogram of the returns."""
    write_run(tmp_path, [make_episode(number, length=number) for number in range(30)])
    shown = command("show", str(tmp_path)).output
    assert re.search(r"environment\s+made", shown)
    assert re.search(r"return\s+30\s+7.25\s", shown)
    assert "0 to 1.45" in shown
    assert "environment" in shown.splitlines()[-1]
    with_json = json.loads(command("show", str(tmp_path), "--json").output)
    assert with_json["manifest"]["environment"]["name"] == "made"
    assert with_json["summary"]["returns"]["mean"] == 7.25


def test_it_is_said_how_much_is_missing(tmp_path: Path, command: Command) -> None:
    """A run that was interrupted is not shown as a whole one."""
    manifest = msgspec.structs.replace(make_manifest(), runtime={"episodes": 40})
    store = RunStore(tmp_path, manifest, durable=False)
    assert not any(store.append([make_episode(number) for number in range(10)]))
    store.close()
    shown = command("show", str(tmp_path)).output
    # Of groups of two.
    assert re.search(
        r"^episodes\s+10 of 40, of 5 tasks so far; --resume plays what is missing",
        shown,
        re.M,
    )


def test_damage_is_an_error(tmp_path: Path, command: Command) -> None:
    """A damaged byte before the end is not the end."""
    write_run(tmp_path, map(make_episode, range(6)), close=False)
    path = tmp_path / "episodes-00000.jsonl.zst"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    shown = command("show", str(tmp_path))
    assert shown.status == 1
    assert "at byte 0 of" in shown.errors
    assert "--salvage" in shown.errors


@pytest.mark.parametrize("spoil", ["missing", "other"])
def test_damaged_arrays_are_an_error(
    tmp_path: Path, command: Command, spoil: str
) -> None:
    """Although nothing of them is shown; with --quick it is said that they were not."""
    write_run(tmp_path, map(make_episode, range(6)))
    path = tmp_path / "arrays-00000.bin"
    content = path.read_bytes()
    path.unlink()
    if spoil == "other":
        path.write_bytes(content[:-1] + b"\xff")
    for more in ((), ("--json",)):
        shown = command("show", str(tmp_path), *more)
        assert shown.status == 1
        assert str(path) in shown.errors
        assert "--salvage" in shown.errors
    quick = command("show", str(tmp_path), "--quick")
    assert quick.status == 0
    assert "not verified: only what is shown here was read" in quick.output
    assert command("show", str(tmp_path), "--web", "--quick").status == 2


def test_an_empty_manifest_is_told(tmp_path: Path, command: Command) -> None:
    """Not as bad JSON."""
    (tmp_path / "manifest.json").touch()
    assert "got an empty file" in command("show", str(tmp_path)).errors


def test_an_episode_is_shown_step_by_step(tmp_path: Path, command: Command) -> None:
    """Each step with action, observation and reward; as JSON with everything."""
    write_run(tmp_path, [make_episode(3, text="x" * 100)])
    shown = command("show", str(tmp_path), "--episode", "1/1").output
    assert re.search(r'^\s*3\s+\{"move":3\}\s+\{"step":3.*\.\.\.\s+1.5', shown, re.M)
    assert "x" * 100 not in shown
    full = command("show", str(tmp_path), "--episode", "1/1", "--full").output
    assert "x" * 100 in full
    found = json.loads(
        command("show", str(tmp_path), "--episode", "1/1", "--json").output
    )
    assert found["steps"][2]["extras"]["token_ids"] == [3, 7]
    assert found["steps"][2]["observation"]["x"]["dtype"] == "<f4"
    missing = command("show", str(tmp_path), "--episode", "9/9")
    assert missing.status == 2
    assert "got '9/9'" in missing.errors


def test_a_run_is_shown_in_a_browser(tmp_path: Path) -> None:
    """The address is printed, and Ctrl-C ends it without a complaint."""
    run = tmp_path / "run"
    write_run(run, map(make_episode, range(3)))
    command = [sys.executable, "-m", "openenv_async.cli", "show", str(run), "--web"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127[.]0[.]0[.]1:\d+/", process.stdout.readline())
            assert found is not None
            with urllib.request.urlopen(f"{found[0]}run") as answer:
                assert json.load(answer)["total"] == 3
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")


def test_a_browser_needs_a_run(tmp_path: Path, command: Command) -> None:
    """Without one there is an error, and no server."""
    shown = command("show", str(tmp_path), "--web")
    assert shown.status == 2
    assert "expected a run with a manifest" in shown.errors
    assert command("show", str(tmp_path), "--web", "--json").status == 2
