"""The environment: an interpreter with a context in it, and a question."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from typing import Any, Final

from coding_env.sandbox import Execution, Limits, Sandbox

from openenv_async import Certification, Environment, StepResult
from openenv_async.errors import EpisodeNotStarted, OpenEnvError
from openenv_async.responders import Responder, load_responder
from repl_env.answers import PRELUDE, is_right, printed_answer
from repl_env.language import LanguageModel
from repl_env.models import CodeBlockResult, REPLAction, REPLObservation, REPLState
from repl_env.tasks import Split, draw

__all__ = ["REPLEnvironment"]

_MIB: Final = 1 << 20


class REPLEnvironment(Environment[REPLAction, REPLObservation, REPLState]):
    """A long-lived REPL: the context is a variable, and the code can ask a language model.

    If an answer is expected, the reward is the sum of what applies; otherwise there is none.

    Args:
        max_iterations: steps per episode; default ``REPL_MAX_ITERATIONS``, else 30.
        split: of the bundled tasks: ``train`` or ``test``; ``None``: both.
        responder: answers ``llm_query``; what ``load_responder`` takes, or a responder. Default
            ``REPL_RESPONDER``; without one, questions raise.
        max_llm_calls: questions per episode.
        max_llm_tokens: of each reply.
        context_preview_length: characters.
        reward_on_success: for the right answer; a wrong one gets 0.
        reward_on_iteration: for each step.
        reward_on_error: for each step whose code fails.
        reward_on_failure: for using up the steps without an answer.
        packages: installed packages that code may import, with what they need.
        memory_mib, max_output_size: see ``coding_env.sandbox.Limits``.

    Raises:
        InvalidOption: ``responder`` describes none.
    """

    name = "repl"
    isolation = "inline"  # it waits for the sandbox's processes, on the loop
    session_options = frozenset({"max_iterations", "split"})

    def __init__(
        self,
        max_iterations: int | None = None,
        split: Split | None = "train",
        responder: str | Responder | None = None,
        max_llm_calls: int = 200,
        max_llm_tokens: int | None = 1024,
        context_preview_length: int = 500,
        reward_on_success: float = 1.0,
        reward_on_iteration: float = 0.0,
        reward_on_error: float = -0.05,
        reward_on_failure: float = -0.1,
        packages: Sequence[str] = (),
        memory_mib: int = 256,
        max_output_size: int = 8192,
    ) -> None:
        self._most = max_iterations or int(os.environ.get("REPL_MAX_ITERATIONS", "30"))
        self._split = split
        responder = responder or os.environ.get("REPL_RESPONDER")
        self._own_responder = isinstance(responder, str)
        self._responder = load_responder(responder) if isinstance(responder, str) else responder
        self._model = LanguageModel(self._responder, max_llm_calls, max_llm_tokens)
        self._preview_length = context_preview_length
        self._rewards = {
            "success": reward_on_success,
            "iteration": reward_on_iteration,
            "error": reward_on_error,
            "failure": reward_on_failure,
        }
        self._sandbox = Sandbox(
            Limits(memory_size=memory_mib * _MIB, max_output_size=max_output_size),
            {
                "llm_query": self._model.query,
                "llm_query_batched": self._model.query_batched,
                "_final_answer": self._take_answer,
            },
            tuple(packages),
        )
        self._context: Any = ""
        self._task_prompt, self._task = "", ""
        self._expected: str | None = None
        self._answer: str | None = None
        self._iteration = self._limit = self._seed = 0
        self._seconds = 0.0
        self._variables: dict[str, str] = {}

    @classmethod
    def certification_for(cls, **params: Any) -> Certification | None:
        """The statements for a certificate."""
        from repl_env.certification import certification

        return certification(**params)

    async def reset(
        self,
        *,
        seed: int | None = None,
        context: Any = None,
        task_prompt: str | None = None,
        expected_answer: str | None = None,
        max_iterations: int | None = None,
        task: str | None = None,
        split: Split | None = None,
    ) -> REPLObservation:
        """Begin: with a context and question of your own, or with a bundled task.

        Args:
            seed: of the bundled task, of the module ``random`` and of questions to the model.
            context: becomes the variable ``context``: text, or whatever JSON can say.
            task_prompt: the question.
            expected_answer: the right answer; without it there is no reward.
            max_iterations: in place of the constructor's.
            task, split: which bundled task, if neither context nor question is given.
        """
        self._seed = random.SystemRandom().getrandbits(31) if seed is None else seed
        if context is None and task_prompt is None:
            drawn = draw(self._seed, task, split or self._split)
            self._task, self._context = drawn.name, drawn.context
            self._task_prompt, self._expected = drawn.task_prompt, drawn.expected_answer
        else:
            self._task, self._context = "", "" if context is None else context
            self._task_prompt, self._expected = task_prompt or "", expected_answer
        self._iteration, self._limit = 0, max_iterations or self._most
        self._answer, self._seconds = None, 0.0
        self._model.begin(self._seed)
        await self._sandbox.start(self._seed)
        await self._load()
        return self._observed(CodeBlockResult(locals_snapshot=self._variables))

    async def _load(self) -> None:
        """Put what every episode begins with into a new interpreter."""
        await self._sandbox.execute(PRELUDE, hidden=True)
        await self._sandbox.set(
            {"context": self._context, "answer": {"content": "", "ready": False}}
        )
        await self._look()

    async def _look(self) -> dict[str, Any]:
        """Read the variables; gives ``answer`` as text."""
        seen = await self._sandbox.variables(("answer",))
        if seen.restarted or seen.reply is None:
            await self._load()
            return {}
        self._variables = seen.reply.variables
        found = seen.reply.asked.get("answer")
        return found if isinstance(found, dict) else {}

    async def _take_answer(self, *args: Any) -> None:
        if self._answer is None:
            self._answer = str(args[0]) if args else ""

    async def step(self, action: REPLAction) -> StepResult[REPLObservation]:
        """Run code, look for the final answer, score it.

        Raises:
            EpisodeNotStarted: the last step was cancelled, and its interpreter killed.
            EnvironmentDied: the interpreter was lost, through no fault of the code.
            ResponderFailed, DeadlineExceeded: the model that the code asked gave no answer; the
                step is not counted.
        """
        if not self._sandbox.usable:
            raise EpisodeNotStarted("the interpreter is gone with the step before: call reset()")
        began = time.monotonic()
        execution = Execution()
        if action.code:
            execution = await self._sandbox.execute(action.code, action.timeout)
        if execution.restarted:
            await self._load()
        elif self._answer is None:
            self._answer = await self._found(action, execution.stdout)
        else:
            await self._look()
        try:
            self._model.check()
        except OpenEnvError:
            self._answer = None  # such a step is not scored: it may be taken again
            raise
        self._seconds += time.monotonic() - began
        self._iteration += 1
        terminated = self._answer is not None
        truncated = not terminated and self._iteration >= self._limit
        result = CodeBlockResult(
            stdout=execution.stdout,
            stderr=execution.stderr,
            locals_snapshot=self._variables,
            success=not execution.error_type,
            exception=execution.error_type or None,
            restarted=execution.restarted,
        )
        return StepResult(
            self._observed(result, done=terminated or truncated),
            reward=self._reward(result.success, truncated),
            terminated=terminated,
            truncated=truncated,
        )

    async def _found(self, action: REPLAction, stdout: str) -> str | None:
        """The final answer, if this step gave one: printed, in ``answer``, or in the action."""
        answer = await self._look()
        text, variable = printed_answer(stdout)
        if variable:
            seen = await self._sandbox.variables((variable,))
            value = seen.reply.asked.get(variable) if seen.reply is not None else None
            text = "" if value is None else str(value)
        if text:
            return text
        if answer.get("ready") == "True":
            return str(answer.get("content", ""))
        if action.is_final:
            given = action.final_answer
            return str(answer.get("content", "")) if given is None else given
        return None

    def _reward(self, success: bool, truncated: bool) -> float | None:
        if self._expected is None:
            return None
        reward = self._rewards["iteration"] + (0.0 if success else self._rewards["error"])
        if self._answer is not None and is_right(self._answer, self._expected):
            reward += self._rewards["success"]
        return reward + (self._rewards["failure"] if truncated else 0.0)

    def _observed(self, result: CodeBlockResult, done: bool = False) -> REPLObservation:
        text = self._context if isinstance(self._context, str) else repr(self._context)
        return REPLObservation(
            result=result,
            task_prompt=self._task_prompt,
            context_preview=text[: self._preview_length] or None,
            context_length=len(text),
            available_variables=list(self._variables),
            iteration=self._iteration,
            max_iterations=self._limit,
            final_answer=self._answer,
            done=done,
        )

    async def state(self) -> REPLState:
        """Return the position of the episode; never the expected answer."""
        return REPLState(
            context=self._context,
            task_prompt=self._task_prompt,
            iteration=self._iteration,
            max_iterations=self._limit,
            namespace_keys=list(self._variables),
            final_answer=self._answer,
            total_execution_time=self._seconds,
            llm_calls=self._model.calls,
            task=self._task,
            seed=self._seed,
        )

    async def close(self) -> None:
        """End the interpreter."""
        try:
            await self._sandbox.aclose()
        finally:
            if self._own_responder and self._responder is not None:
                await self._responder.aclose()
