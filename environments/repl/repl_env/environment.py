"""The environment: an interpreter with a context in it, and a question."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from coding_env.sandbox import Limits

from openenv_async import Certification, Environment, StepResult
from openenv_async.errors import EpisodeNotStarted, InvalidOption, OpenEnvError
from openenv_async.responders import Responder, load_responder
from openenv_async.rubrics import part, weighted
from repl_env.children import Children
from repl_env.language import Budgets, LanguageModel, Node
from repl_env.models import CodeBlockResult, ModelCall, REPLAction, REPLObservation, REPLState
from repl_env.repl import Repl, Settings
from repl_env.scoring import Expected, Mode, Scoring, load_scoring, score
from repl_env.tasks import LENGTH, TABLE, Split, draw

__all__ = ["REPLEnvironment"]

_MIB: Final = 1 << 20
_LONG: Final = 100_000
"""Characters of a text from which on it is made in a thread: the loop serves other sessions."""
Depth = Annotated[int, msgspec.Meta(ge=1, le=8)]
Turns = Annotated[int, msgspec.Meta(ge=1, le=100)]


class REPLEnvironment(Environment[REPLAction, REPLObservation, REPLState]):
    """A long-lived REPL: the context is a variable, and the code can ask language models.

    If an answer is expected, the reward is the sum of what applies; otherwise there is none. The
    info of a step has its parts, and ``llm_calls``: what was asked of models in it.

    Args:
        max_iterations: steps per episode; default ``REPL_MAX_ITERATIONS``, else 30.
        split: of the bundled tasks: ``train`` or ``test``; ``None``: both.
        context_length: characters of their texts, from 4,000 to 4,000,000.
        scoring: how answers are compared: ``exact``, ``tolerant``, ``fuzzy``, ``module:function``
            or a function; see ``scoring``.
        responder: answers ``llm_query`` and the turns of children; what ``load_responder`` takes,
            or a responder. Default ``REPL_RESPONDER``; without one, questions raise.
        models: further ones by name, for ``llm_query(prompt, model="small")``.
        max_llm_calls: questions per episode, the turns of children included.
        max_llm_tokens: of each reply.
        max_total_tokens: of all prompts and replies of an episode; ``None``: any.
        max_concurrency: questions of an episode that are under way at once.
        rlm_max_depth: of REPLs: with 1 ``rlm_query`` is ``llm_query``, with 2 it opens children,
            with 3 theirs do, too.
        rlm_max_iterations: turns of a child.
        rlm_max_children: that an episode may open.
        rlm_timeout: seconds that a child may take.
        trace_length: characters of each prompt and reply that the trace keeps.
        context_preview_length: characters.
        reward_on_success: for the right answer; a wrong one gets 0.
        reward_on_iteration: for each step.
        reward_on_error: for each step whose code fails.
        reward_on_failure: for using up the steps without an answer.
        packages: installed packages that code may import, with what they need.
        memory_mib, max_output_size: see ``coding_env.sandbox.Limits``.

    Raises:
        InvalidOption: an argument makes no sense.
    """

    name = "repl"
    isolation = "inline"  # it waits for the sandbox's processes, on the loop
    session_options = frozenset({"max_iterations", "split", "context_length"})
    tasks = TABLE

    def __init__(
        self,
        max_iterations: int | None = None,
        split: Split | None = "train",
        context_length: int = LENGTH,
        scoring: Scoring = "tolerant",
        responder: str | Responder | None = None,
        models: Mapping[str, str | Responder] | None = None,
        max_llm_calls: int = 200,
        max_llm_tokens: int | None = 1024,
        max_total_tokens: int | None = None,
        max_concurrency: int = 8,
        rlm_max_depth: Depth = 2,
        rlm_max_iterations: Turns = 10,
        rlm_max_children: int = 32,
        rlm_timeout: float = 600.0,
        trace_length: int = 500,
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
        self._split, self._length = split, context_length
        self._scoring = load_scoring(scoring)
        self._own: list[Responder] = []
        if max_concurrency < 1:
            raise InvalidOption(f"max_concurrency is {max_concurrency}: it is at least 1")
        self._model = LanguageModel(
            self._loaded(responder or os.environ.get("REPL_RESPONDER"), models or {}),
            Budgets(
                calls=max_llm_calls,
                tokens=max_total_tokens,
                reply_tokens=max_llm_tokens,
                children=rlm_max_children,
                concurrency=max_concurrency,
                shown=trace_length,
            ),
        )
        self._depth = rlm_max_depth
        self._preview_length = context_preview_length
        self._rubric = weighted(
            [
                (reward_on_success, part(_answer)),
                (reward_on_iteration, part(lambda: 1.0, name="iteration")),
                (reward_on_error, part(lambda success: not success, name="error")),
                (reward_on_failure, part(lambda truncated: truncated, name="failure")),
            ]
        )
        limits = Limits(memory_size=memory_mib * _MIB, max_output_size=max_output_size)
        settings = Settings(limits, tuple(packages))
        self._children = Children(settings, rlm_max_iterations, rlm_timeout)
        self._repl = Repl(settings, Node(self._model, (), "", self._children.open))
        self._context: Any = ""
        self._task_prompt, self._task, self._task_split = "", "", ""
        self._expected: Expected | None = None
        self._scored_by = self._scoring
        self._iteration = self._limit = self._seed = 0
        self._seconds = 0.0

    def _loaded(
        self, responder: str | Responder | None, models: Mapping[str, str | Responder]
    ) -> dict[str, Responder]:
        """Return the responders by name; those that are made here are closed with it."""
        found: dict[str, Responder] = {}
        for name, given in {"": responder, **models}.items():
            if isinstance(given, str):
                given = load_responder(given)
                self._own.append(given)
            if given is not None:
                found[name] = given
        return found

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
        expected_answer: Expected | None = None,
        max_iterations: int | None = None,
        task: str | None = None,
        split: Split | None = None,
        context_length: int | None = None,
        scoring: Mode | None = None,
        llm_model: str | None = None,
        rlm_max_depth: Depth | None = None,
        rlm_max_iterations: Turns | None = None,
    ) -> REPLObservation:
        """Begin: with a context and question of your own, or with a bundled task.

        Args:
            seed: of the bundled task, of the module ``random`` and of questions to models.
            context: becomes the variable ``context``: text, or whatever JSON can say.
            task_prompt: the question.
            expected_answer: the right answer, or several; without it there is no reward.
            task: which bundled task, if neither context nor question is given: ``count``, or one
                text of it, ``count/test/17``.
            max_iterations, split, context_length, scoring, rlm_max_depth, rlm_max_iterations: in
                place of the constructor's.
            llm_model: which of the server's models answers where the code names none.
        """
        self._seed = random.SystemRandom().getrandbits(31) if seed is None else seed
        if context is None and task_prompt is None:
            length = self._length if context_length is None else context_length
            asked = self._seed, task, split or self._split, length
            drawn = await asyncio.to_thread(draw, *asked) if length > _LONG else draw(*asked)
            self._task, self._task_split = drawn.name, drawn.split
            self._context, self._task_prompt = drawn.context, drawn.task_prompt
            self._expected = drawn.expected_answer
        else:
            self._task = self._task_split = ""
            self._context = "" if context is None else context
            self._task_prompt, self._expected = task_prompt or "", expected_answer
        self._scored_by = self._scoring if scoring is None else scoring
        self._iteration, self._limit = 0, max_iterations or self._most
        self._seconds = 0.0
        self._model.begin(self._seed, rlm_max_depth or self._depth)
        children = self._children
        if rlm_max_iterations is not None:
            children = dataclasses.replace(children, max_iterations=rlm_max_iterations)
        name = "" if llm_model is None else self._model.named(llm_model)
        self._repl.ask = Node(self._model, (), name, children.open)
        await self._repl.begin(self._seed, self._context)
        return self._observed(CodeBlockResult(locals_snapshot=self._repl.variables))

    async def step(self, action: REPLAction) -> StepResult[REPLObservation]:
        """Run code, look for the final answer, score it.

        Raises:
            EpisodeNotStarted: the last step was cancelled, and its interpreter killed.
            EnvironmentDied: the interpreter was lost, through no fault of the code.
            ResponderFailed, DeadlineExceeded: a model that the code asked gave no answer; the
                step is not counted.
        """
        repl = self._repl
        if not repl.usable:
            raise EpisodeNotStarted("the interpreter is gone with the step before: call reset()")
        began, asked = time.monotonic(), len(self._model.trace)
        self._model.forget()
        execution = await repl.run(action.code, action.timeout)
        try:
            self._model.check()
        except OpenEnvError:
            repl.answer = None  # such a step is not scored: it may be taken again
            raise
        if repl.answer is None and action.is_final and not execution.restarted:
            repl.answer = repl.content if action.final_answer is None else action.final_answer
        self._seconds += time.monotonic() - began
        self._iteration += 1
        terminated = repl.answer is not None
        truncated = not terminated and self._iteration >= self._limit
        result = CodeBlockResult(
            stdout=execution.stdout,
            stderr=execution.stderr,
            locals_snapshot=repl.variables,
            success=not execution.error_type,
            exception=execution.error_type or None,
            restarted=execution.restarted,
        )
        reward, info = await self._reward(result.success, truncated)
        calls = _by_path(self._model.trace[asked:])
        if calls:
            info["llm_calls"] = [_without_time(call) for call in calls]
        return StepResult(
            self._observed(result, done=terminated or truncated),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            info=info,
        )

    async def _reward(self, success: bool, truncated: bool) -> tuple[float | None, dict[str, Any]]:
        if self._expected is None:
            return None, {}
        worth = 0.0
        if self._repl.answer is not None:
            worth = await score(self._repl.answer, self._expected, self._scored_by)
        scored = self._rubric.score(worth=worth, success=success, truncated=truncated)
        return scored.value, scored.info

    def _observed(self, result: CodeBlockResult, done: bool = False) -> REPLObservation:
        text = self._context if isinstance(self._context, str) else repr(self._context)
        return REPLObservation(
            result=result,
            task_prompt=self._task_prompt,
            context_preview=text[: self._preview_length] or None,
            context_length=len(text),
            available_variables=list(self._repl.variables),
            iteration=self._iteration,
            max_iterations=self._limit,
            final_answer=self._repl.answer,
            done=done,
        )

    async def state(self) -> REPLState:
        """Return the position of the episode; never the expected answer."""
        return REPLState(
            context=self._context,
            task_prompt=self._task_prompt,
            iteration=self._iteration,
            max_iterations=self._limit,
            namespace_keys=list(self._repl.variables),
            final_answer=self._repl.answer,
            total_execution_time=self._seconds,
            llm_calls=self._model.calls,
            task=self._task,
            seed=self._seed,
            split=self._task_split,
            llm_tokens=self._model.tokens,
            children=self._model.children,
            llm_trace=_by_path(self._model.trace),
        )

    async def close(self) -> None:
        """End the interpreter."""
        try:
            await self._repl.aclose()
        finally:
            for responder in self._own:
                await responder.aclose()


def _answer(worth: float) -> float:
    """The worth of the final answer, as a part of the reward."""
    return worth


def _by_path(calls: Sequence[ModelCall]) -> list[ModelCall]:
    """Calls in the order in which they were asked, children before what they ask."""
    return sorted(calls, key=lambda call: [int(each) for each in call.path.split(".")])


def _without_time(call: ModelCall) -> dict[str, Any]:
    """A call as the info tells it: what a seed and the same actions repeat."""
    told = dataclasses.asdict(call)
    del told["seconds"]
    return told
