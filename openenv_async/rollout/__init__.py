"""Plays episodes, many at once, and records them."""

from .agents import AgentEnv
from .batches import EpisodeBatch, StepColumns, to_batch
from .collector import Collector, collect
from .episodes import (
    Attempt,
    EnvironmentFailure,
    Episode,
    EpisodeStep,
    EpisodeTiming,
    InfrastructureFailure,
    Outcome,
    PolicyFailure,
    StepTiming,
    Task,
    Terminated,
    Truncated,
    TruncationReason,
)
from .options import (
    AdaptiveConcurrency,
    Batching,
    CollectorOptions,
    CutOff,
)
from .policies import (
    Agent,
    AnyPolicy,
    BatchPolicy,
    Decision,
    EpisodeBatchPolicy,
    EpisodeContext,
    Policy,
)
from .seeding import derive_seed
from .starts import TasksLike
from .timing import Bottleneck, Latency, RunStatistics, SlowSession, TimeShares

__all__ = [
    "AdaptiveConcurrency",
    "Agent",
    "AgentEnv",
    "AnyPolicy",
    "Attempt",
    "BatchPolicy",
    "Batching",
    "Bottleneck",
    "Collector",
    "CollectorOptions",
    "CutOff",
    "Decision",
    "EnvironmentFailure",
    "Episode",
    "EpisodeBatch",
    "EpisodeBatchPolicy",
    "EpisodeContext",
    "EpisodeStep",
    "EpisodeTiming",
    "InfrastructureFailure",
    "Latency",
    "Outcome",
    "Policy",
    "PolicyFailure",
    "RunStatistics",
    "SlowSession",
    "StepColumns",
    "StepTiming",
    "Task",
    "TasksLike",
    "Terminated",
    "TimeShares",
    "Truncated",
    "TruncationReason",
    "collect",
    "derive_seed",
    "to_batch",
]
