"""The environment: it runs code, each session's in a fenced process of its own."""

from __future__ import annotations

import dataclasses
import uuid
from importlib.metadata import version
from typing import Any, Final

import msgspec

from openenv_async import (
    Environment,
    EnvironmentMetadata,
    EnvironmentSpec,
    InvalidAction,
    LocalProtocolError,
)

from ..models import CodeError, CodingAction, CodingObservation, CodingState
from ..sandbox import Execution, PoolConfig, Sandbox, SandboxPool
from ..sandbox.survey import survey
from ..tasks import (
    Task,
    TaskSet,
    UnknownTask,
    Verdict,
    find_tasks,
    hidden_of,
    judge_code,
)
from .settings import Settings
from .shared import SharedPool

__all__ = ["CodingEnvironment", "coding_environment"]

_PASSED: Final = 1.0
_FAILED: Final = 0.0


def coding_environment(**options: object) -> EnvironmentSpec:
    """Describe the environment with an operator's options, so that it can be served.

    The fences that this machine offers are put up once, and the metadata tells of them.

    Args:
        options: See `Settings`.

    Raises:
        LocalProtocolError: An option is unknown or cannot be meant, or a fence is
            required that is not in force here.
        ProviderError: No worker can be started on this machine.
    """
    settings = Settings.of(options)
    fences = survey(_pool_config(settings, _task_set(settings)))
    missing = set(settings.required()) - {one.name for one in fences if one.in_force}
    if missing:
        found = {one.name: one.detail for one in fences if one.name in missing}
        raise LocalProtocolError(
            f"expected the fences {sorted(missing)} in force, got {found}"
        )
    spec = EnvironmentSpec.of(CodingEnvironment, arguments=options)
    extra: dict[str, object] = {
        "fences": [msgspec.structs.asdict(fence) for fence in fences],
        "settings": msgspec.structs.asdict(settings),
    }
    metadata = msgspec.structs.replace(spec.metadata, extra=extra)
    return dataclasses.replace(spec, metadata=metadata)


def _task_set(settings: Settings) -> TaskSet | None:
    if settings.tasks is None:
        return None
    try:
        return find_tasks(settings.tasks)
    except ValueError as error:
        raise LocalProtocolError(str(error)) from error


def _pool_config(settings: Settings, tasks: TaskSet | None) -> PoolConfig:
    if tasks is None or settings.tasks is None:
        return settings.pool_config(())
    config = settings.pool_config(hidden_of(settings.tasks, tasks))
    imports = dict.fromkeys((*config.authorized_imports, *tasks.imports))
    return msgspec.structs.replace(config, authorized_imports=tuple(imports))


class CodingEnvironment(Environment[CodingAction, CodingObservation, CodingState]):
    """Runs Python code in a fenced process per session; optionally sets tasks.

    Args:
        options: See `Settings`.

    Raises:
        LocalProtocolError: An option is unknown or cannot be meant.
    """

    name = "coding_env"
    execution = "inline"

    def __init__(self, **options: object) -> None:
        self._settings = Settings.of(options)
        self._tasks = _task_set(self._settings)
        self._config = _pool_config(self._settings, self._tasks)
        self._shared: SharedPool | None = None
        self._sandbox: Sandbox | None = None
        self._task: Task | None = None
        self._episode_id: str | None = None
        self._steps = 0
        self._attempts = 0

    # The episode

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> CodingObservation:
        """Begin an episode in a new worker, which knows nothing of earlier ones.

        Args:
            seed: Chooses the task, where there are tasks; seeds in a row choose tasks
                in a row.
            episode_id: A random one if None.
            options: `task_id`: the task, where there are tasks.

        Raises:
            InvalidAction: The options do not fit; the environment was not touched.
            ProviderError: No worker can be started.
        """
        task = self._choose(options or {}, seed)
        old, self._sandbox = self._sandbox, None
        if old is not None:
            old.kill()
        pool = self._join()
        try:
            sandbox = await pool.start(self._settings.interpreter)
        finally:
            if old is not None:
                await old.aclose()
        self._sandbox = sandbox
        self._task = task
        self._episode_id = episode_id or str(uuid.uuid4())
        self._steps = self._attempts = 0
        metadata = _fences_of(pool)
        if task is None:
            return CodingObservation(metadata=metadata)
        if task.setup:
            setup = await sandbox.run(task.setup, timeout=self._settings.max_timeout)
            if setup.error is not None:
                # Such as an import that the operator has not authorized.
                metadata["setup_error"] = f"{setup.error.type}: {setup.error.message}"
        return CodingObservation(
            prompt=task.prompt, task_id=task.task_id, metadata=metadata
        )

    async def step(self, action: CodingAction) -> CodingObservation:
        """Run code, and judge it where there is a task.

        Cancelling kills the worker, and with it everything that the code defined.

        Raises:
            InvalidAction: The timeout is not within its bounds; nothing was run.
            LocalProtocolError: There was no reset.
            ServerDied: The worker was lost through no fault of the code.
        """
        timeout = self._timeout(action.timeout)
        sandbox = self._sandbox
        if sandbox is None:
            raise LocalProtocolError("expected reset() before step()")
        execution = await sandbox.run(action.code, timeout=timeout)
        self._steps += 1
        if self._task is None:
            return _observed(execution)
        verdict = await self._judge(self._task, action.code, execution, timeout)
        self._attempts += 1
        most = self._settings.max_attempts
        is_last = most is not None and self._attempts >= most
        return _observed(execution, self._task, verdict, is_last=is_last)

    def state(self) -> CodingState:
        """Tell where the episode stands."""
        return CodingState(
            episode_id=self._episode_id,
            step_count=self._steps,
            interpreter=self._settings.interpreter,
            authorized_imports=list(self._config.authorized_imports),
            alive=self._sandbox is not None and self._sandbox.is_alive,
            task_id=None if self._task is None else self._task.task_id,
            attempts=self._attempts,
        )

    @classmethod
    async def shutdown(cls) -> None:
        """End the processes that wait for further sessions."""
        await SharedPool.close_idle()

    async def close(self) -> None:
        """End the worker, and remove its directory."""
        sandbox, self._sandbox = self._sandbox, None
        shared, self._shared = self._shared, None
        try:
            if sandbox is not None:
                await sandbox.aclose()
        finally:
            if shared is not None:
                await shared.leave(self._settings.linger)

    @classmethod
    def metadata(cls) -> EnvironmentMetadata:
        """Describe the environment; `coding_environment` adds the fences."""
        return EnvironmentMetadata(
            name=cls.name,
            description="Runs Python code, each session's in a fenced process",
            version=version("openenv-async-coding-env"),
        )

    # Details

    def _join(self) -> SandboxPool:
        if self._shared is None:
            self._shared = SharedPool.of(self._config)
            self._shared.join()
        return self._shared.pool

    def _choose(self, options: dict[str, Any], seed: int | None) -> Task | None:
        expected = ["task_id"] if self._tasks is not None else []
        for name in options:
            if name not in expected:
                raise InvalidAction(f"expected options of {expected}, got {name!r}")
        if self._tasks is None:
            return None
        task_id = options.get("task_id")
        if task_id is not None and not isinstance(task_id, str):
            raise InvalidAction(f"expected 'task_id' as text, got {task_id!r}")
        try:
            return self._tasks.choose(task_id=task_id, seed=seed)
        except UnknownTask as error:
            raise InvalidAction(str(error)) from error

    def _timeout(self, asked: float | None) -> float:
        if asked is None:
            return self._settings.timeout
        most = self._settings.max_timeout
        if not 0 < asked <= most:
            raise InvalidAction(
                f"expected 'timeout' as seconds above 0 and up to {most:g}, "
                f"got {asked!r}"
            )
        return asked

    async def _judge(
        self, task: Task, code: str, execution: Execution, timeout: float
    ) -> Verdict:
        if execution.killed is not None or execution.error is not None:
            # The judge would run it once more, with the same end.
            return Verdict(passed=False, message="the code did not come to its end")
        return await judge_code(
            task,
            code,
            self._join(),
            kind=self._settings.interpreter,
            timeout=timeout,
        )


def _fences_of(pool: SandboxPool) -> dict[str, Any]:
    return {
        "fences": [fence.name for fence in pool.fences if fence.in_force],
        "missing_fences": [fence.name for fence in pool.fences if not fence.in_force],
    }


def _observed(
    execution: Execution,
    task: Task | None = None,
    verdict: Verdict | None = None,
    *,
    is_last: bool = False,
) -> CodingObservation:
    error = execution.error
    passed = None if verdict is None else verdict.passed
    reward = None
    if passed is not None:
        reward = _PASSED if passed else _FAILED
    return CodingObservation(
        stdout=execution.stdout,
        stderr=execution.stderr,
        exit_code=execution.exit_code,
        result=execution.result,
        error=None
        if error is None
        else CodeError(type=error.type, message=error.message, line=error.line),
        stdout_truncated=execution.stdout_truncated,
        stderr_truncated=execution.stderr_truncated,
        result_truncated=execution.result_truncated,
        task_id=None if task is None else task.task_id,
        passed=passed,
        reward=reward,
        terminated=passed is True,
        # Nobody shall go on in a worker that has forgotten everything.
        truncated=passed is not True and (is_last or execution.killed is not None),
        metadata=_details(execution, verdict),
    )


def _details(execution: Execution, verdict: Verdict | None) -> dict[str, Any]:
    """What is worth recording, where it is not what is expected anyway."""
    found: dict[str, Any] = {}
    if execution.stdout_truncated:
        found["stdout_bytes"] = execution.stdout_bytes
    if execution.stderr_truncated:
        found["stderr_bytes"] = execution.stderr_bytes
    if execution.killed is not None:
        found["killed"] = execution.killed
    if verdict is not None:
        found["verdict"] = verdict.message
    return found
