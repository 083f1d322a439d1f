"""``rollout_func``: a batch's episodes all at once, generated in batches.

Rules:

- The trainer's thread generates; episodes run on the background loop and wait for it there.
- The tokens of an episode are kept as they were sampled: the completion is the model's messages
  with the environment's turns between them, which ``env_mask`` marks with 0.
- A failure is not a zero: its row is masked throughout and its reward is ``None``. TRL leaves such
  a row out of the group's baseline and gives it no advantage, whatever other reward functions say
  (``masking``).
- A message that cannot be made an action, or whose action the environment refuses, is a mistake:
  the model is told, where the format can, and asked again. The last that is allowed ends the
  episode; its row counts if the environment gave a penalty, else it is masked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from openenv_async.client.arguments import reset_arguments
from openenv_async.client.loop_thread import background_loop
from openenv_async.errors import CallerError, InvalidOption, UnreadableReply, error_text
from openenv_async.integrations.trl.formats import ChatFormat, EpisodeFormat
from openenv_async.integrations.trl.generation import Batcher, Generate, Request, generate
from openenv_async.integrations.trl.masking import mask_failures
from openenv_async.integrations.trl.rows import Row, columns_of, same_seed
from openenv_async.integrations.trl.shared import SharedSessions
from openenv_async.rollouts import Retry, Summary, Turn, collect
from openenv_async.rollouts.groups import InvalidActions
from openenv_async.rollouts.run import MAX_MISTAKES, OnMistake, PolicyFailed
from openenv_async.targets.resolve import Target
from openenv_async.types import EpisodeInfo, StepResult

__all__ = ["RolloutFunc", "make_rollout_func"]

log = logging.getLogger("openenv_async.integrations.trl")

_CLOSE_PATIENCE: Final = 30.0


class _RowClient:
    """A client whose episodes are the rows of a batch: the seed it is reset with is the row's."""

    def __init__(self, client: Any, run: _Run) -> None:
        self._client = client
        self._run = run
        self._row: Row | None = None

    @property
    def episode(self) -> EpisodeInfo | None:
        return getattr(self._client, "episode", None)

    @property
    def leaving(self) -> bool:
        return getattr(self._client, "leaving", False)

    async def open(self) -> None:
        if hasattr(self._client, "open"):
            await self._client.open()

    async def close(self) -> None:
        await self._client.close()

    async def reset(self, *, seed: int) -> StepResult[Any]:
        row = self._row = self._run.rows[seed]
        row.restart()
        result: StepResult[Any] = await self._client.reset(
            **reset_arguments(self._run.options[seed])
        )
        with _told_as_the_policys():
            row.prompt_ids = list(
                self._run.format.begin(row.prompt, result.observation, self._run.tokenizer)
            )
        return result

    async def step(self, action: Any) -> StepResult[Any]:
        row, run = self._row, self._run
        assert row is not None
        result: StepResult[Any] = await self._client.step(action)
        if not result.done:
            with _told_as_the_policys():
                between = list(run.format.follow(result.observation, row.said, run.tokenizer))
            if len(row.completion_ids) + len(between) >= run.max_completion_length:
                result.truncated = True  # no room for another message
            else:
                row.add(between, None, 0)
        return result


@contextlib.contextmanager
def _told_as_the_policys() -> Iterator[None]:
    """Raise what a format raises as the policy's failure, not the environment's."""
    try:
        yield
    except CallerError:
        raise  # a setting that is wrong for every row
    except Exception as exc:
        raise PolicyFailed from exc


class _Run:
    """One call of a rollout function; it owns the task that plays."""

    def __init__(self, made: RolloutFunc, prompts: Sequence[Any], trainer: Any) -> None:
        self.format = made.format
        self.rows = [Row(prompt) for prompt in prompts]
        self.options = [dict(made.reset(prompt)) for prompt in prompts]
        processing = trainer.processing_class
        self.tokenizer = getattr(processing, "tokenizer", processing)
        self.max_completion_length: int = (
            made.max_completion_length or trainer.max_completion_length
        )
        self.max_turn_tokens = made.max_turn_tokens or self.max_completion_length
        self.concurrency = min(made.concurrency or len(self.rows), len(self.rows))
        self.summary = Summary(len(self.rows))
        self.batcher = Batcher(made.batch_wait, made.max_batch, self._running)
        self._made = made
        self._playing: asyncio.Task[None] | None = None

    def _running(self) -> int:
        return min(self.concurrency, len(self.rows) - self.summary.episodes)

    async def begin(self) -> None:
        """Play from now on; ``end`` or ``stop`` waits for it."""
        self._playing = asyncio.create_task(self._play())

    async def end(self) -> None:
        """Wait until all rows are played, every one has an outcome then, or raise what failed."""
        assert self._playing is not None
        await self._playing

    async def stop(self, why: BaseException) -> str:
        """Cancel what still plays and close its sessions; return what to add to ``why``."""
        playing = self._playing
        if playing is None:
            return ""
        playing.cancel()
        _, late = await asyncio.wait([playing], timeout=_CLOSE_PATIENCE)
        if late:
            return f"the sessions of its episodes were not closed within {_CLOSE_PATIENCE:g} s"
        failed = None if playing.cancelled() else playing.exception()
        return "" if failed is None or failed is why else f"its episodes ended with {failed!r}"

    async def _play(self) -> None:
        made = self._made
        try:
            stream = collect(
                lambda: _RowClient(made.source.client(), self),
                self._decide,
                episodes=len(self.rows),
                concurrency=self.concurrency,
                seeds=range(len(self.rows)),
                max_steps=made.max_steps,
                timeout=made.timeout,
                deadline=made.deadline,
                retry=made.retry or ("unstarted" if made.source.is_pool else "never"),
                record=False,
                on_mistake=made.on_mistake,
                max_mistakes=made.max_mistakes,
                summary=self.summary,
            )
            async with contextlib.aclosing(stream):
                async for outcome in stream:
                    self.rows[outcome.index].outcome = outcome
                    self.batcher.changed()
        except Exception:
            if not all(row.nonsense for row in self.rows):
                raise
        finally:
            self.batcher.finish()
        if all(row.nonsense for row in self.rows):
            log.warning("in every episode of this batch a message could not be made an action")

    async def _decide(self, observation: Any, turn: Turn) -> Any:
        row = self.rows[turn.index]
        if turn.mistake is not None:
            self._correct(row, turn.mistake.message)
        room = self.max_completion_length - len(row.completion_ids)
        request = Request(row.prompt_ids + row.completion_ids, min(room, self.max_turn_tokens))
        ids, logprobs = await self.batcher.ask(request)
        row.counted = row.counted and logprobs is not None
        row.said = ids
        row.add(ids, logprobs, 1)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        try:
            return self.format.action(text, ids)
        except Exception as exc:
            row.nonsense = True
            reason = error_text(exc) or type(exc).__name__
            raise UnreadableReply(reason, reply=text) from exc

    def _correct(self, row: Row, message: str) -> None:
        """Add what tells the model its mistake; where there is no room, that is another one."""
        between = list(self.format.correct(message, row.said, self.tokenizer))  # type: ignore[attr-defined]  # asked for by "tell" alone
        if len(row.completion_ids) + len(between) >= self.max_completion_length:
            raise UnreadableReply("there are no tokens left to mend the mistake")
        row.add(between, None, 0)


class RolloutFunc:
    """The result of ``make_rollout_func``: a callable for ``GRPOTrainer(rollout_func=...)``.

    Attributes:
        summary: of the last batch; ``None`` before there was one.
    """

    def __init__(
        self,
        source: Target | SharedSessions,
        *,
        format: EpisodeFormat | None = None,
        reset: Callable[[Any], Mapping[str, Any]] = same_seed,
        max_steps: int | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        concurrency: int | None = None,
        max_completion_length: int | None = None,
        max_turn_tokens: int | None = None,
        batch_wait: float = 0.05,
        max_batch: int | None = None,
        retry: Retry | None = None,
        on_mistake: OnMistake | None = None,
        max_mistakes: int = MAX_MISTAKES,
        invalid_actions: InvalidActions | None = None,
        generate: Generate = generate,
        **source_options: Any,
    ) -> None:
        self.source = SharedSessions.of(source, **source_options)
        self.format: EpisodeFormat = format or ChatFormat()
        self.reset = reset
        self.max_steps = max_steps
        self.timeout = timeout
        self.deadline = deadline
        self.concurrency = concurrency
        self.max_completion_length = max_completion_length
        self.max_turn_tokens = max_turn_tokens
        self.batch_wait = batch_wait
        self.max_batch = max_batch
        self.retry = retry
        can_tell = hasattr(self.format, "correct")
        if on_mistake == "tell" and not can_tell:
            raise InvalidOption(
                f"{type(self.format).__name__} cannot tell the model its mistakes: it has no"
                " correct(); choose on_mistake='end' or 'raise'"
            )
        self.on_mistake: OnMistake = on_mistake or ("tell" if can_tell else "end")
        self.max_mistakes = max_mistakes
        self.invalid_actions = invalid_actions
        self.generate: Generate = generate
        self.summary: Summary | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "summary": None}

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Play one episode per prompt.

        Returns:
            ``prompt_ids``, ``completion_ids``, ``logprobs``, ``env_mask``, each a list per
            prompt; and for reward functions ``env_reward`` (``None`` where there is none),
            ``env_status``, ``env_failed``, ``env_steps`` and ``env_mistakes``.

        Raises:
            CallerError: a reset option does not fit the environment.
            Exception: what the generation raised; what the format raised, if in every row, unless
                it was the model's messages that could not be made actions.
        """
        mask_failures()
        if not prompts:
            return {name: [] for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask")}
        background = background_loop()
        run = background.run(self._run_of(prompts, trainer))
        try:
            background.run(run.begin())
            while (batch := background.run(run.batcher.take())) is not None:
                most = max(request.max_new_tokens for request in batch)
                ids, logprobs = self.generate(
                    trainer, [request.prompt_ids for request in batch], most
                )
                background.loop.call_soon_threadsafe(run.batcher.answer, batch, ids, logprobs)
            background.run(run.end())
        except BaseException as exc:
            if left := background.run(run.stop(exc)):
                exc.add_note(left)
            raise
        self.summary = run.summary
        end = run.tokenizer.eos_token_id
        filler = run.tokenizer.pad_token_id if end is None else end
        return columns_of(run.rows, filler, self.invalid_actions)

    async def _run_of(self, prompts: Sequence[Any], trainer: Any) -> _Run:
        return _Run(self, prompts, trainer)  # on the loop that its events belong to

    def close(self) -> None:
        """Release the environments; done at exit as well. Idempotent."""
        self.source.close()


def make_rollout_func(source: Target | SharedSessions, **options: Any) -> RolloutFunc:
    """A ``rollout_func`` for TRL's ``GRPOTrainer``.

    Give the trainer ``rollout_reward`` as its reward function, for the environment's own reward,
    and any others beside it: the rows of episodes that failed are left out of all of them.

    Args:
        source: any target: a name, a URL, several, an environment class, a pool, a client, …
        options:
            format: how episodes are told to the model; ``ChatFormat()`` by default.
            reset: makes the arguments of ``reset`` of a row's prompt. By default a seed that
                is the same for the same prompt, so that a group plays one episode;
                ``reset_from_json`` reads rows of ``episode_rows``.
            max_steps, timeout, deadline, retry: as of ``rollouts.collect``; ``timeout`` covers
                the time that the model takes.
            concurrency: episodes at once; by default all.
            on_mistake, max_mistakes: as of ``rollouts.collect``. By default the model is told
                where the format can (``TextFormat``), else the episode ends.
            invalid_actions: ``keep`` or ``mask`` the rows that a mistake ended; by default those
                are kept for which the environment gave a penalty.
            max_completion_length: tokens of an episode, the environment's included; by default
                the trainer's. An episode that runs out of them is truncated.
            max_turn_tokens: of one message.
            batch_wait: seconds that a batch of requests waits for further ones.
            max_batch: prompts generated at once.
            generate: samples completions; by default with the trainer's model.
            params, token, and those of ``EnvPool``: as of ``SharedSessions``.

    Raises:
        TargetNotFound: no installed environment has this name.
    """
    return RolloutFunc(source, **options)
