"""`openenv-async rollout` plays, keeps, goes on, and ends as it says."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openenv_async.rollout import EnvironmentFailure
from openenv_async.rollout.runs import open_run
from tests.chaos.processes import SCRIPTED, running
from tests.cli.commands import Outcome
from tests.cli.run_commands import (
    ENVIRONMENT,
    actions_file,
    run_command,
    run_json,
)
from tests.rollout.runs import write_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

_CARTPOLE = "gymnasium_env?id=CartPole-v1"


# To disk and back


@pytest.mark.parametrize("episode_format", ["jsonl", "parquet"])
def test_cartpole_goes_to_disk_and_can_be_replayed(
    tmp_path: Path, episode_format: str
) -> None:
    """Episodes of a Gymnasium environment are recorded, shown and reproduced."""
    run = str(tmp_path / "run")
    policy = actions_file(tmp_path, {"action": 0}, {"action": 1})
    result = run_json(
        *("rollout", _CARTPOLE, "--policy", policy, "--tasks", "6"),
        *("--group-size", "2", "-c", "4", "--out", run, "--format", episode_format),
    )
    assert (result["recorded"], result["episodes"], result["failed"]) == (12, 12, 0)
    assert result["statistics"]["outcomes"] == {"terminated": 12}
    assert result["statistics"]["bottleneck"]["bound_by"]

    episodes = {episode.id: episode for episode in open_run(run)}
    assert set(episodes) == {f"{task}/{index}" for task in range(6) for index in (0, 1)}
    assert len({episode.seed for episode in episodes.values()}) == 12
    first = episodes["0/0"]
    assert first.initial_observation is not None
    assert first.initial_observation["observation"].shape == (4,)
    assert first.return_ == first.length > 5

    shown = run_command("show", run).stdout
    assert "12, all of 6 tasks" in shown
    assert re.search(r"terminated\s+12", shown)
    steps = run_command("show", run, "--episode", "0/0").stdout
    assert len(re.findall(r'\{"action":[01]', steps)) == first.length
    assert "<f4[4]" in steps

    report = run_json("replay", run)
    assert report["episodes"] == 12
    assert report["steps"] == sum(episode.length for episode in episodes.values())
    assert report["differing"] == 0


def test_a_run_can_be_watched_in_the_debug_pane(tmp_path: Path) -> None:
    """Its address is told when the run begins, and how to look at it when it ended."""
    run = str(tmp_path / "run")
    done = run_command("rollout", "echo_env", "--max-steps", "3", "--out", run, "--web")
    assert re.search(r"debug pane while it runs: http://\S+/web/", done.stderr)
    assert f"show {run}" in done.stderr
    refused = run_command(
        "rollout", "ws://localhost:1", "--out", f"{run}-2", "--web", status=2
    )
    assert "got 'ws://localhost:1'" in refused.stderr


# Going on


def test_resuming_plays_what_is_missing(tmp_path: Path) -> None:
    """A second command with more tasks plays only the new ones; none is there twice."""
    run = str(tmp_path / "run")
    arguments = ("echo_env", "--max-steps", "3", "--out", run, "--group-size", "2")
    run_command("rollout", *arguments, "--tasks", "3")
    before = {episode.id: episode.session for episode in open_run(run)}
    refused = run_command("rollout", *arguments, "--tasks", "5", status=2)
    assert "expected no run at" in refused.stderr
    result = run_json("rollout", *arguments, "--tasks", "5", "--resume")
    assert (result["recorded"], result["episodes"]) == (4, 10)
    after = {episode.id: episode.session for episode in open_run(run)}
    assert len(list(open_run(run).summaries())) == len(after) == 10
    assert after.items() >= before.items()
    nothing = run_json("rollout", *arguments, "--tasks", "5", "--resume")
    assert (nothing["recorded"], nothing["episodes"]) == (0, 10)
    other = run_command("rollout", *arguments, "--resume", "--seed", "1", status=2)
    assert "expected seed 0 as in the run" in other.stderr


def test_a_partly_recorded_group_is_completed(tmp_path: Path) -> None:
    """Of a group only the episodes that are missing are played, with their seeds."""
    run = tmp_path / "run"
    arguments = ("echo_env", "--max-steps", "2", "--group-size", "4")
    run_command("rollout", *arguments, "--out", str(run), "--tasks", "2")
    whole = {episode.id: episode.seed for episode in open_run(run)}
    (path,) = run.glob("*.zst")
    half = [episode for episode in open_run(run) if episode.group_index % 2]
    path.unlink()
    manifest = (run / "manifest.json").read_bytes()
    (run / "manifest.json").unlink()
    write_run(run, half)
    (run / "manifest.json").write_bytes(manifest)
    result = run_json(
        "rollout", *arguments, "--out", str(run), "--tasks", "2", "--resume"
    )
    assert (result["recorded"], result["episodes"]) == (4, 8)
    assert {episode.id: episode.seed for episode in open_run(run)} == whole


def test_what_failed_is_played_again_when_asked(tmp_path: Path) -> None:
    """--retry-failed replaces failures; without it they stay as they are."""
    run = str(tmp_path / "run")
    policy = actions_file(tmp_path, {"do": "fail", "text": "broken"})
    arguments = (SCRIPTED, "--policy", policy, "--tasks", "2", "--out", run)
    done = run_command("rollout", *arguments, status=1)
    assert "2 environment_failed: ValueError" in done.stdout
    shown = run_command("show", run, "--episode", "0/0").stdout
    assert "environment_failed: ValueError" in shown
    assert "broken" in shown
    assert "the first one: 'scripted' raised ValueError in step: broken" in done.stdout
    unchanged = run_json("rollout", *arguments, "--resume", status=1)
    assert (unchanged["recorded"], unchanged["failed_before"]) == (0, 2)
    actions_file(tmp_path, {"do": "truncate"})
    again = ("--resume", "--retry-failed")
    assert run_json("rollout", *arguments, *again)["recorded"] == 2
    assert run_json("show", run)["summary"]["outcomes"] == {"truncated: environment": 2}
    (earlier,) = open_run(run).episode("0/0").earlier_attempts
    assert isinstance(earlier.outcome, EnvironmentFailure)
    assert "broken" in earlier.outcome.message
    misused = run_command("rollout", *arguments, "--retry-failed", status=2)
    assert "expected --resume" in misused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """What was finished is there, the rest is resumable, and no server is left."""
    run = tmp_path / "run"
    arguments = [
        *("-m", "openenv_async.cli", "rollout", "echo_env", "--tasks", "100000"),
        *("--max-steps", "20", "--out", str(run)),
    ]
    with running(arguments, tmp_path, ENVIRONMENT) as process:
        end = time.monotonic() + 30
        while not list(run.glob("episodes-*")) or not any(open_run(run).summaries()):
            assert time.monotonic() < end, process.output()
            time.sleep(0.02)
        process.signal(number)
        assert process.wait(30) == 128 + number
        output = process.output()
    assert "go on with: openenv-async rollout echo_env" in output
    assert "--resume" in output
    summaries = list(open_run(run).summaries())
    assert f"has {len(summaries)} of 100000\n" in output
    assert f"recorded {len(summaries)} episodes with {20 * len(summaries)} " in output
    assert all(summary.reason == "max_steps" for summary in summaries)
    result = run_json(
        *("rollout", "echo_env", "--tasks", "3", "--max-steps", "20", "--resume"),
        *("--out", str(run)),
    )
    assert result["recorded"] + len(summaries) == result["episodes"]


def test_a_killed_rollout_goes_on(tmp_path: Path) -> None:
    """After SIGKILL the run has all that was acknowledged, and can be resumed."""
    run = tmp_path / "run"
    arguments = ["rollout", "echo_env", "--max-steps", "10", "--out", str(run)]
    command = ["-m", "openenv_async.cli", *arguments, "--tasks", "5000"]
    with running(command, tmp_path, ENVIRONMENT) as process:
        end = time.monotonic() + 30
        while not list(run.glob("episodes-*")) or not any(open_run(run).summaries()):
            assert time.monotonic() < end, process.output()
            time.sleep(0.02)
        process.kill()
    before = {summary.id: summary.session for summary in open_run(run).summaries()}
    assert before
    result = run_json(*arguments, "--tasks", "200", "--resume")
    after = [(summary.id, summary.session) for summary in open_run(run).summaries()]
    assert len(after) == len(dict(after)) == result["episodes"] >= 200
    assert dict(after).items() >= before.items()


def test_a_second_rollout_into_the_same_run_is_refused(tmp_path: Path) -> None:
    """While one writes, another one is told its process."""
    run = tmp_path / "run"
    common = ("rollout", "echo_env", "--tasks", "100000", "--out", str(run))
    command = ["-m", "openenv_async.cli", *common, "--max-steps", "9"]
    with running(command, tmp_path, ENVIRONMENT) as process:
        end = time.monotonic() + 30
        while not list(run.glob("episodes-*")):
            assert time.monotonic() < end, process.output()
            time.sleep(0.02)
        refused = run_command(*common, "--max-steps", "9", "--resume", status=2)
        assert f"got process {process.pid} writing to it" in refused.stderr
        process.signal(signal.SIGINT)
        process.wait(30)


# Tasks, servers, mistakes


def test_tasks_come_from_a_file(tmp_path: Path) -> None:
    """Ids, seeds, options and metadata of the file are the episodes'."""
    tasks, run = tmp_path / "tasks.jsonl", tmp_path / "run"
    tasks.write_text(
        '{"id": "easy", "seed": 5, "options": {"length": 2}, "metadata": {"k": 1}}\n'
        '{"id": "hard", "options": {"length": 4}}\n'
    )
    policy = actions_file(tmp_path, {"do": "count"})
    run_command(
        *("rollout", SCRIPTED, "--policy", policy, "--tasks", str(tasks)),
        *("--out", str(run)),
    )
    easy, hard = (open_run(run).episode(f"{name}/0") for name in ("easy", "hard"))
    assert (easy.length, hard.length) == (2, 4)
    assert easy.seed == 5
    assert easy.task.metadata == {"k": 1}
    assert easy.initial_observation is not None
    assert easy.initial_observation["text"] == "seed 5"


def test_a_running_server_is_used(tmp_path: Path) -> None:
    """With an address nothing is started, and replay finds the server by itself."""
    serve = [
        *("-m", "openenv_async.cli", "serve", "echo_env", "--uds", str(tmp_path / "s"))
    ]
    url, run = f"ws+unix://{tmp_path / 's'}", str(tmp_path / "run")
    with running(serve, tmp_path) as server:
        server.line("serving ")
        run_command("rollout", url, "--tasks", "4", "--max-steps", "2", "--out", run)
        assert open_run(run).manifest.environment.target == url
        assert run_json("replay", run)["steps"] == 8
        (tmp_path / "policy_here.py").write_text(
            "from openenv_async.rollout.adapters import ScriptedPolicy\n"
            "made = ScriptedPolicy([{'message': 'x'}], repeat=True)\n"
        )
        # The installed command: `python -m` finds the working directory by itself.
        done = subprocess.run(
            [
                Path(sys.executable).with_name("openenv-async"),
                *("rollout", url, "--policy", "policy_here:made"),
                *("--max-steps", "2", "--out", "other"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    failed = run_command("replay", run, status=1)
    assert str(tmp_path / "s") in failed.stderr


def test_a_killed_server_is_told_and_waited_for(tmp_path: Path) -> None:
    """Not for ever, nor in silence: what is recorded is told, and how to go on."""
    (tmp_path / "slow_policy.py").write_text(
        "import asyncio\n"
        "class Slow:\n"
        "    async def act(self, observation, episode):\n"
        "        await asyncio.sleep(0.02)\n"
        "        return {'message': 'x'}\n"
    )
    serve = [
        *("-m", "openenv_async.cli", "serve", "echo_env", "--uds", str(tmp_path / "s"))
    ]
    run = tmp_path / "run"
    command = [
        *("-m", "openenv_async.cli", "rollout", f"ws+unix://{tmp_path / 's'}"),
        *("--policy", "slow_policy:Slow", "--tasks", "1000", "--max-steps", "5"),
        *("--recovery-timeout", "2", "--out", str(run)),
    ]
    with running(serve, tmp_path) as server:
        server.line("serving ")
        found = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
        with running(command, tmp_path, found) as process:
            end = time.monotonic() + 30
            while not list(run.glob("episodes-*")) or not any(
                open_run(run).summaries()
            ):
                assert time.monotonic() < end, process.output()
                time.sleep(0.02)
            server.kill()
            assert process.wait(20) == 1
            output = process.output()
    count = len(list(open_run(run).summaries()))
    assert "connection lost: 16 sessions without a server" in output
    assert f"recorded {count} episodes with {5 * count} steps" in output
    assert f"has {count} of 1000\n" in output
    assert "environment" not in output.partition("bound by")[2]
    assert "go on with: openenv-async rollout" in output
    assert "again within 2 s, got no answer" in output


def test_a_run_that_is_not_there_is_begun_aloud(tmp_path: Path) -> None:
    """Whoever mistyped the folder to resume is told so."""
    arguments = ("echo_env", "--max-steps", "1", "--out", str(tmp_path / "mistyped"))
    done = run_command("rollout", *arguments, "--resume")
    assert f"no run at {tmp_path / 'mistyped'} yet: begun anew" in done.stderr
    again = run_command("rollout", *arguments, "--resume")
    assert "begun anew" not in again.stderr


def test_a_damaged_run_is_mended_when_asked(tmp_path: Path) -> None:
    """Without --salvage nothing is touched; with it what is lost is played again."""
    run = tmp_path / "run"
    arguments = ("rollout", "echo_env", "--max-steps", "2", "--out", str(run))
    run_command(*arguments, "--tasks", "30")
    (path,) = run.glob("*.zst")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    refused = run_command(*arguments, "--tasks", "30", "--resume", status=1)
    assert "expected whole frames" in refused.stderr
    assert path.read_bytes() == content
    mended = run_command(*arguments, "--tasks", "30", "--resume", "--salvage")
    assert "was damaged: kept" in mended.stderr
    assert "has 30 of 30" in mended.stdout
    assert (run / f"{path.name}.damaged").read_bytes() == content


def test_several_servers_share_the_sessions(tmp_path: Path) -> None:
    """--replicas starts so many servers, and all episodes come."""
    run = str(tmp_path / "run")
    result = run_json(
        *("rollout", SCRIPTED, "--replicas", "2", "-c", "4", "--tasks", "8"),
        *("--policy", actions_file(tmp_path, {"do": "pid"}), "--max-steps", "1"),
        *("--out", run),
    )
    assert result["recorded"] == 8
    pids = {episode.steps[0].observation["text"] for episode in open_run(run)}
    assert len(pids) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rollout", "gymnasium_env?id=Nope-v9"), "'Nope-v9'"),
        (("rollout", "echo_env", "--salvage"), "--resume with --salvage"),
        (("rollout",), "expected an environment or --image"),
        (("rollout", "echo_env", "--policy", "x"), "expected a policy as"),
        (("rollout", "echo_env", "--sampling", "["), "a JSON object"),
        (("rollout", "echo_env", "--tasks", "nowhere"), "a file of tasks"),
        *(
            (
                ("rollout", "echo_env", "--tasks", text),
                f"above 0 for --tasks, or a file of JSON lines, got {text!r}",
            )
            for text in ("0", "-1", "1e3", "2.5")
        ),
        (("rollout", "echo_env", "--replicas", "99"), "no more replicas than"),
        (("rollout", "ws://x", "--replicas", "2"), "one for a server that runs"),
        (("rollout", "no_such_env"), "importable package"),
    ],
)
def test_a_mistake_is_said_in_one_line(
    tmp_path: Path,
    command: Callable[..., Outcome],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    """A wrong name, option or file is no traceback."""
    outcome = command(*arguments, "--out", str(tmp_path / "run"))
    assert outcome.status == 2
    assert message in outcome.errors
    assert "openenv-async: expected" in outcome.errors
    assert not (tmp_path / "run").exists()


def test_two_tasks_of_an_id_are_refused_at_once(
    tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    """With the lines of both, before anything is begun."""
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"id": "a"}\n\n{"id": "b"}\n{"id": "a"}\n')
    run = tmp_path / "run"
    outcome = command("rollout", "echo_env", "--tasks", str(tasks), "--out", str(run))
    assert outcome.status == 2
    assert f"got 'a' in lines 1 and 4 of {str(tasks)!r}" in outcome.errors
    assert not run.exists()


_POLICIES = """
from pathlib import Path
import anyio

class Hanging:
    async def act(self, observation, episode):
        Path(__file__).with_name("called").touch()
        await anyio.sleep_forever()

class Silent:
    async def act(self, observation, episode):
        raise ValueError

class Sync:
    def act(self, observation, episode):
        return {"message": "x"}

hanging, silent, sync = Hanging(), Silent(), Sync()
"""


def _play_here(folder: Path, policy: str) -> list[str]:
    """Arguments that play with a policy of a module in the working directory."""
    (folder / "policies.py").write_text(_POLICIES)
    return [
        *("-m", "openenv_async.cli", "rollout", "echo_env", "--max-steps", "1"),
        *("--policy", f"policies:{policy}", "--out", str(folder / "run")),
    ]


def _played_here(folder: Path, policy: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *_play_here(folder, policy)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_run_without_an_episode_can_go_on_too(tmp_path: Path) -> None:
    """Whoever interrupts it is told how."""
    arguments = _play_here(tmp_path, "hanging")
    variables = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    with running(arguments, tmp_path, variables) as process:
        end = time.monotonic() + 30
        while not (tmp_path / "called").exists():
            assert time.monotonic() < end, process.output()
            time.sleep(0.02)
        process.signal(signal.SIGINT)
        assert process.wait(30) == 130
        output = process.output()
    assert "recorded 0 episodes" in output
    assert "go on with: openenv-async rollout echo_env" in output


def test_a_refused_policy_is_in_nobodys_way(tmp_path: Path) -> None:
    """The corrected command needs neither --resume nor another folder."""
    refused = _played_here(tmp_path, "sync")
    assert refused.returncode == 2, refused.stderr
    assert "expected `async def act`" in refused.stderr
    assert "go on with" not in refused.stderr
    done = _played_here(tmp_path, "silent")
    assert done.returncode == 1, done.stderr
    assert "has 1 of 1" in done.stdout
    # Without a text, where it was raised says which one it was.
    assert re.search(
        r'1 policy_failed: ValueError\n +the first one: \(no message\) File "\S+'
        r'policies.py", line \d+, in act',
        done.stdout,
    )
