"""The environment: an episode is a task in a container of its own, which ends with its tests.

Rules:

- A reset removes the container that there was, and starts another of the task's image.
- A command is run once. The tests are copied in when the episode ends, never before.
- The end is ``submit``, the step limit or ``agent.timeout_sec``; each is graded. ``submit``
  terminates, the others truncate.
- A failure around a command or the tests is an error and gives no reward.
"""

from __future__ import annotations

import asyncio
import functools
import random
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from openenv_async.compat.harbor.archives import folder_archive
from openenv_async.compat.harbor.config import EnvironmentSection, resolved_variables
from openenv_async.compat.harbor.folders import HarborTask, read_folder
from openenv_async.compat.harbor.grading import grade, the_reward
from openenv_async.compat.harbor.images import task_image
from openenv_async.compat.harbor.models import HarborAction, HarborObservation, HarborState
from openenv_async.environment import Environment
from openenv_async.errors import (
    EnvironmentDied,
    EnvironmentFailure,
    EnvironmentStartFailed,
    EpisodeEnded,
    EpisodeNotStarted,
    InvalidAction,
    InvalidOption,
    InvalidTasks,
    ProviderError,
)
from openenv_async.hosts import HostedText
from openenv_async.providers.docker.sandbox import (
    Sandbox,
    Sandboxes,
    SandboxOptions,
    shared_sandboxes,
)
from openenv_async.tasks import TaskTable
from openenv_async.types import StepResult

__all__ = ["HarborEnvironment", "host_of"]

_START_TIMEOUT: Final = 120.0
_SHORT: Final = 60.0
_LOGS: Final = "/logs/verifier /logs/agent /logs/artifacts"
_MAX_TIMEOUT: Final = 3600.0
SPLIT: Final = "all"
"""The only split: a folder of tasks has no others."""


@functools.lru_cache(maxsize=8)
def _tasks_of(folder: str, skip_unsupported: bool) -> tuple[HarborTask, ...]:
    """Return the tasks of a folder, read once: every session asks for them."""
    return tuple(read_folder(Path(folder), skip_unsupported=skip_unsupported))


def _check_variables(task: HarborTask, variables: Mapping[str, str]) -> None:
    """Refuse a task with a variable that has no value.

    Raises:
        InvalidTasks: with the name of the task and the variable.
    """
    try:
        for given in (task.config.environment.env, task.config.verifier.env):
            resolved_variables(given, variables)
    except InvalidTasks as exc:
        raise InvalidTasks(f"{task.id}: {exc.message}", **exc.detail) from None


class HarborEnvironment(Environment[HarborAction, HarborObservation, HarborState]):
    """A folder of Harbor tasks, worked on by shell commands in containers.

    Args:
        folder: of tasks, or of one task.
        images: names of images to use for others, such as one that is here for a registry's.
        max_steps: after how many the tests run.
        command_timeout: seconds that a command has, and the most that it may ask for.
        max_output: bytes of a command's output that are kept.
        memory, cpus, pids: limits of a container whose task names none.
        network: ``False``: no container has a network, whatever its task says.
        variables: values of ``${NAME}`` in the variables of tasks. An agent can read them.
        reward_key: the reward that counts where the tests give several.
        skip_unsupported: leave out the tasks that cannot be played here.
        with_solution: copy a task's reference solution to ``/solution``, to try the task itself:
            the command ``/solution/solve.sh`` then solves it.
        engine: address of the Docker Engine; by default as the ``docker`` command finds it.

    Raises:
        TargetNotFound: there are no tasks in the folder.
        InvalidTasks: one cannot be read, or asks for what cannot be had here.
    """

    isolation = "inline"
    description = "Harbor tasks: shell commands in a container, graded by the task's tests."

    def __init__(
        self,
        folder: str,
        *,
        images: Mapping[str, str] | None = None,
        max_steps: int | None = None,
        command_timeout: float = 60.0,
        max_output: int = 32 * 1024,
        memory: int | str = "2g",
        cpus: float = 2.0,
        pids: int = 4096,
        network: bool = True,
        variables: Mapping[str, str] | None = None,
        reward_key: str = "reward",
        skip_unsupported: bool = False,
        with_solution: bool = False,
        engine: str | None = None,
    ) -> None:
        if max_steps is not None and max_steps < 1:
            raise InvalidOption(f"max_steps is at least 1, got {max_steps}", option="max_steps")
        if not 0 < command_timeout <= _MAX_TIMEOUT:
            raise InvalidOption(
                f"command_timeout is more than 0 and at most {_MAX_TIMEOUT:g} seconds, got"
                f" {command_timeout}",
                option="command_timeout",
            )
        if max_output < 1024:
            raise InvalidOption(f"max_output is at least 1024, got {max_output}")
        self._tasks = {task.id: task for task in _tasks_of(str(folder), skip_unsupported)}
        self._images = dict(images or {})
        self._max_steps = max_steps
        self._command_timeout = command_timeout
        self._max_output = max_output
        try:
            self._limits = SandboxOptions(memory=memory, cpus=cpus, pids=pids, network=network)
        except ValueError as exc:
            raise InvalidOption(f"the limits of a container are wrong: {exc}") from None
        self._variables = dict(variables or {})
        for task in self._tasks.values():
            _check_variables(task, self._variables)
        self._reward_key = reward_key
        self._with_solution = with_solution
        self._engine = engine
        self._stack = AsyncExitStack()
        self._owner: Sandboxes | None = None
        self._box: Sandbox | None = None
        self._task: HarborTask | None = None
        self._folder = self._workdir = "/"
        self._steps = 0
        self._until = 0.0
        self._ended = False

    @classmethod
    def tasks_for(cls, **params: Any) -> TaskTable | None:
        """The tasks of the folder; what is listed of one is its instruction and its name."""
        folder = params.get("folder")
        if folder is None:
            return None
        tasks = _tasks_of(str(folder), bool(params.get("skip_unsupported", False)))
        for task in tasks:
            _check_variables(task, params.get("variables") or {})
        return TaskTable({SPLIT: [task.public() for task in tasks]})

    async def reset(
        self, *, seed: int | None = None, task_id: str | None = None
    ) -> HarborObservation:
        """Begin with a fresh container of the task's image.

        Args:
            seed: chooses a task where none is named.
            task_id: of the task.
        """
        if task_id is None:
            task = random.Random(seed).choice(list(self._tasks.values()))
        elif (named := self._tasks.get(task_id)) is not None:
            task = named
        else:
            raise InvalidOption(
                f"there is no task {task_id!r:.80}: there are {', '.join(list(self._tasks)[:8])}",
                option="task_id",
            )
        async with _translated(EnvironmentStartFailed, f"the container of {task.id} did not start"):
            await self._begin(task)
        return HarborObservation(task.instruction, folder=self._folder)

    async def _begin(self, task: HarborTask) -> None:
        self._task, self._steps, self._ended = task, 0, True
        if self._box is not None:
            self._box.discard()
            self._box = None
        if self._owner is None:
            self._owner = await self._stack.enter_async_context(shared_sandboxes(self._engine))
        environment = task.config.environment
        image = await task_image(self._owner, task, self._images)
        box = await self._owner.start(image, self._options(task), timeout=_START_TIMEOUT)
        self._box = box
        await self._check(box, f"mkdir -p {_LOGS} && chmod 777 {_LOGS}")
        self._workdir = environment.workdir or await box.working_folder()
        self._folder = self._workdir
        if environment.workdir is not None:
            await self._check(box, f"mkdir -p -- {shlex.quote(environment.workdir)}")
        if self._with_solution and task.solution.is_dir():
            await box.put(await asyncio.to_thread(folder_archive, task.solution, "solution"), "/")
            await self._check(box, "chmod +x /solution/solve.sh")
        await self._healthy(box, environment)
        limit = task.config.agent.timeout_sec
        now = asyncio.get_running_loop().time()
        self._until = float("inf") if limit is None else now + limit
        self._ended = False

    def _options(self, task: HarborTask) -> SandboxOptions:
        """Return the limits of a task's container, and the environment's own where it has none."""
        environment = task.config.environment
        own = self._limits
        env = resolved_variables(environment.env, self._variables)
        if self._with_solution:
            env |= resolved_variables(task.config.solution.env, self._variables)
        memory = environment.memory_mb
        return SandboxOptions(
            memory=own.memory if memory is None else memory * 2**20,
            cpus=own.cpus if environment.cpus is None else environment.cpus,
            pids=own.pids,
            network=own.network and environment.network_mode == "public",
            env=env,
            labels={"openenv_async.harbor.task": task.id},
        )

    async def _check(self, box: Sandbox, command: str) -> None:
        """Run a command of ours as root, which has to succeed."""
        done = await box.run(command, timeout=_SHORT, user="root")
        if done.exit_code != 0:
            raise EnvironmentStartFailed(
                f"the container {box.name} is not ready: {command!r:.120} ended with"
                f" {done.exit_code}: {done.output[-300:].strip()}"
            )

    async def _healthy(self, box: Sandbox, environment: EnvironmentSection) -> None:
        """Wait until the task's healthcheck succeeds, as Harbor and Docker count its failures."""
        check = environment.healthcheck
        if check is None:
            return
        loop = asyncio.get_running_loop()
        begun = loop.time()
        failures = 0
        while True:
            starting = loop.time() - begun < check.start_period_sec
            done = await box.run(check.command, timeout=check.timeout_sec, folder=self._workdir)
            if done.exit_code == 0:
                return
            failures += not starting
            if failures >= check.retries:
                raise EnvironmentStartFailed(
                    f"environment.healthcheck failed {failures} times: {check.command!r:.120}:"
                    f" {done.output[-300:].strip()}"
                )
            await asyncio.sleep(check.start_interval_sec if starting else check.interval_sec)

    async def step(self, action: HarborAction) -> StepResult[HarborObservation]:
        """Run a command; at the end of the episode the tests, too."""
        box, task = self._box, self._task
        if task is None:
            raise EpisodeNotStarted("step() before reset(): call reset() first")
        if self._ended or box is None:
            raise EpisodeEnded("step() after the episode ended: call reset() first")
        if not action.command and not action.submit:
            raise InvalidAction("there is no command: give one, or submit")
        if "\0" in action.command:
            raise InvalidAction("a command has no NUL character")
        self._steps += 1
        seen = HarborObservation(folder=self._folder)
        async with self._failing():
            if action.command:
                seen = await self._run(box, task, action)
            over = self._steps == self._max_steps or self._now() >= self._until
            if not action.submit and not over:
                return StepResult(seen)
            self._ended = True
            graded = await grade(
                box,
                task,
                resolved_variables(task.config.verifier.env, self._variables),
                folder=self._workdir,
                user=task.config.verifier.user,
            )
            reward = the_reward(graded.rewards, self._reward_key)
        box.discard()
        return StepResult(
            seen,
            reward,
            terminated=action.submit,
            truncated=not action.submit,
            info={
                "rewards": dict(graded.rewards),
                "tests_exit_code": graded.exit_code,
                "tests_output": graded.output,
            },
        )

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _run(self, box: Sandbox, task: HarborTask, action: HarborAction) -> HarborObservation:
        wanted = self._command_timeout
        if action.timeout is not None:
            wanted = min(action.timeout, self._command_timeout)
        done = await box.run(
            action.command,
            timeout=max(0.1, min(wanted, self._until - self._now())),
            folder=self._folder,
            user=task.config.agent.user,
            max_output=self._max_output,
        )
        self._folder = done.folder or self._folder
        return HarborObservation("", done.output, done.exit_code, self._folder, done.timed_out)

    @asynccontextmanager
    async def _failing(self) -> AsyncIterator[None]:
        """End the episode of what fails, or is cancelled: its container is in no known state."""
        try:
            async with _translated(EnvironmentDied, "the container failed"):
                yield
        except BaseException:
            self._ended = True
            raise

    def state(self) -> HarborState:
        """Return the position of the episode."""
        task = "" if self._task is None else self._task.id
        return HarborState(task, self._steps, self._max_steps, self._ended)

    async def close(self) -> None:
        """Remove the container."""
        box, self._box, self._owner = self._box, None, None
        try:
            if box is not None:
                await box.remove()
        finally:
            await self._stack.aclose()


@asynccontextmanager
async def _translated(kind: type[EnvironmentFailure], words: str) -> AsyncIterator[None]:
    """Raise what goes wrong with the Engine as the environment's failure."""
    try:
        yield
    except ProviderError as exc:
        raise kind(
            f"{words}: {exc.message}",
            retryable=exc.retryable,
            log_tail=exc.log_tail,
            exit_code=exc.exit_code,
        ) from exc


def host_of(text: str) -> HostedText:
    """Return the environment of a target such as ``harbor:FOLDER``.

    Raises:
        TargetNotFound: there are no tasks in the folder.
    """
    folder = Path(text).expanduser().resolve()
    read_folder(folder, skip_unsupported=True)
    return HostedText(HarborEnvironment, {"folder": str(folder)}, folder.name)
