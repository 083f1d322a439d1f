"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

__all__ = ["CodeBlockResult", "ModelCall", "REPLAction", "REPLObservation", "REPLState"]


@dataclass
class REPLAction:
    """Code to run, or the final answer, or both.

    Attributes:
        code: Python; what it makes stays for the next step.
        is_final: end the episode with ``final_answer``, after ``code`` has run.
        final_answer: ``None``: what ``answer["content"]`` holds.
        timeout: seconds that the code may take, its questions to the model included; more than 0
            and at most 3600.
    """

    code: str = ""
    is_final: bool = False
    final_answer: str | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 60.0


@dataclass
class CodeBlockResult:
    """The outcome of the code.

    Attributes:
        stdout, stderr: what was written; what is too long is cut, and a last line says so.
        locals_snapshot: the variables, each with the start of its repr.
        success: it neither raised nor met a limit.
        exception: the exception's class or the limit; ``None`` if it went well.
        restarted: the interpreter was replaced: only the context was loaded anew.
    """

    stdout: str = ""
    stderr: str = ""
    locals_snapshot: dict[str, str] = field(default_factory=dict)
    success: bool = True
    exception: str | None = None
    restarted: bool = False


@dataclass
class REPLObservation:
    """The agent's view of the episode.

    Attributes:
        result: of the code.
        task_prompt: the question.
        context_preview: the context's first characters; ``None`` if there is no context.
        context_length: its length in characters.
        available_variables: what the namespace holds.
        iteration: steps so far.
        max_iterations: steps that there may be.
        final_answer: ``None`` until there is one.
        done: the episode is over.
    """

    result: CodeBlockResult
    task_prompt: str
    context_preview: str | None
    context_length: int
    available_variables: list[str]
    iteration: int
    max_iterations: int
    final_answer: str | None = None
    done: bool = False


@dataclass
class ModelCall:
    """A question to a language model, or a child that was opened.

    Attributes:
        path: ``3.1``: the second question of the child that the episode's fourth question opened.
        kind: ``llm``: a question of the code. ``turn``: of a child's conversation. ``rlm``: a
            child, from its question to its answer.
        depth: of the REPL that asked; 0 is the episode's own.
        model: its name; empty: the one that answers where none is named.
        prompt: the start of the last message.
        reply: the start of the answer.
        prompt_tokens, completion_tokens: ``None`` where the responder does not tell.
        iterations: turns of a child.
        error: why there is no answer; empty if there is one.
        seconds: that it took, the wait for its turn included; in the state, not in the info.
    """

    path: str
    kind: str
    depth: int
    model: str
    prompt: str
    reply: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    iterations: int = 0
    error: str = ""
    seconds: float = 0.0


@dataclass
class REPLState:
    """The position of the episode.

    Attributes:
        context: all of it, as it was loaded.
        namespace_keys: names of the variables.
        total_execution_time: seconds that steps have taken; the one thing here that a seed does
            not fix.
        llm_calls: questions to models so far, those of children included.
        task: name of the bundled task, if it is one.
        seed: of the episode, drawn if none was given.
        split: of the bundled task.
        llm_tokens: of prompts and replies so far, children included.
        children: that ``rlm_query`` has opened so far.
        llm_trace: all those questions and children, by their paths.
    """

    context: Any
    task_prompt: str
    iteration: int
    max_iterations: int
    namespace_keys: list[str]
    final_answer: str | None
    total_execution_time: float
    llm_calls: int
    task: str
    seed: int
    split: str = ""
    llm_tokens: int = 0
    children: int = 0
    llm_trace: list[ModelCall] = field(default_factory=list)
