"""Tasks with hidden tests, and the judge that runs them."""

from __future__ import annotations

from .base import Task, Tasks, TaskSet, UnknownTask
from .finding import find_tasks, hidden_of
from .judge import JudgeFault, Verdict, judge, judge_code

__all__ = ["JudgeFault", "Task", "TaskSet", "Tasks", "UnknownTask", "Verdict"]
__all__ += ["find_tasks", "hidden_of", "judge", "judge_code"]
