"""Runs on disk: what writes episodes, reads them, and goes on after a crash."""

from .manifest import EnvironmentRecord, EpisodeFormat, Manifest, distribution_versions
from .reader import Run, open_run
from .recording import record_episodes
from .replaying import Difference, ReplayReport, replay
from .rows import Summary
from .running import Rollout, RolloutPlan, rollout
from .salvaging import Salvaged
from .summary import Distribution, RunSummary, Tally, summarise
from .tasks import count_tasks, read_tasks
from .writer import RunWriter

__all__ = [
    "Difference",
    "Distribution",
    "EnvironmentRecord",
    "EpisodeFormat",
    "Manifest",
    "ReplayReport",
    "Rollout",
    "RolloutPlan",
    "Run",
    "RunSummary",
    "RunWriter",
    "Salvaged",
    "Summary",
    "Tally",
    "count_tasks",
    "distribution_versions",
    "open_run",
    "read_tasks",
    "record_episodes",
    "replay",
    "rollout",
    "summarise",
]
