"""Grading: verdicts against a plain run of solution and tests in a fresh interpreter."""

from __future__ import annotations

import ast
import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from typing import Any, Final

import pytest
from coding_env.grading import Submission, grade, prints
from coding_env.sandbox import Limits, Sandbox
from coding_env.tasks import BUNDLED
from coding_env.tasks.model import Case, Checks, Task

TESTS: Final = 6
CPU: Final = 0.2
"""Seconds of CPU time that a test may take, on both sides."""

REFERENCE: Final = """
import copy, json, signal, sys
original, mutant, name, tests = json.load(sys.stdin)
class Late(BaseException): pass
def late(*_): raise Late
signal.signal(signal.SIGVTALRM, late)
known, tried, passed = {}, {}, []
exec(original, known)
try:
    signal.setitimer(signal.ITIMER_VIRTUAL, 1.0)
    exec(mutant, tried)
except BaseException:
    tried = {}
for args in map(eval, tests):
    wanted = known[name](*copy.deepcopy(args))
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, float(sys.argv[1]))
        passed.append(bool(tried[name](*copy.deepcopy(args)) == wanted))
    except BaseException:
        passed.append(False)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
print(json.dumps(passed))
"""


class Mutation(ast.NodeTransformer):
    """One change at the place of a number; counts the places without one."""

    def __init__(self, rng: random.Random, place: int) -> None:
        self.rng, self.place, self.seen = rng, place, -1

    def here(self) -> bool:
        self.seen += 1
        return self.seen == self.place

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if self.here():
            node.op = self.rng.choice([ast.Add(), ast.Sub(), ast.Mult(), ast.FloorDiv(), ast.Mod()])
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if self.here():
            node.ops[0] = self.rng.choice([ast.Lt(), ast.LtE(), ast.Gt(), ast.Eq(), ast.NotEq()])
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, int) and self.here():
            return ast.Constant(node.value + self.rng.choice([-1, 1]))
        if isinstance(node.value, str) and self.here():
            return ast.Constant(node.value + "x")
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if self.here():
            kept = node.value or ast.Constant(None)
            node.value = self.rng.choice(
                [ast.Constant(None), ast.Tuple([kept], ast.Load()), ast.Constant(True)]
            )
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if self.here():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        return ast.Pass() if self.here() else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        return ast.Pass() if self.here() else node


def mutated(source: str, rng: random.Random) -> str:
    """The source with one change; with none in one of twenty."""
    if rng.random() < 0.05:
        return source
    places = Mutation(rng, -2)
    places.visit(ast.parse(source))
    changed = Mutation(rng, rng.randint(0, places.seen)).visit(ast.parse(source))
    return ast.unparse(ast.fix_missing_locations(changed))


def reference(original: str, mutant: str, name: str, cases: list[Case]) -> list[bool]:
    given = json.dumps([original, mutant, name, [repr(case.args) for case in cases]])
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", REFERENCE, str(CPU)],
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found: list[bool] = json.loads(ran.stdout.splitlines()[-1])
    return found


def assertions(task: Task, cases: list[Case], original: str) -> Checks:
    """The same tests, as assertions."""
    namespace: dict[str, Any] = {}
    exec(original, namespace)
    name = task.entry_point
    results = [namespace[name](*ast.literal_eval(repr(case.args))) for case in cases]
    lines = [
        f"assert {name}(*{case.args!r}) == {result!r}"
        for case, result in zip(cases, results, strict=True)
    ]
    return Checks("\n".join(lines))


@pytest.mark.parametrize(
    ("pairs", "part"),
    [(24, "some"), *(pytest.param(100, n, marks=pytest.mark.heavy) for n in range(10))],
)
async def test_verdicts_are_those_of_a_plain_run(pairs: int, part: object) -> None:
    rng = random.Random(f"pairs/{part}")
    limits = Limits(cpu_timeout=CPU)
    counts: Counter[str] = Counter()
    differing = []
    async with Sandbox(limits) as box:

        async def results(mutant: str, tests: Any, entry_point: str) -> list[bool]:
            graded = await grade(
                box,
                Submission(mutant, {}),
                tests,
                entry_point=entry_point,
                limits=limits,
                packages=(),
                seed=0,
                timeout=300.0,
                test_timeout=60.0,
            )
            return [result == "passed" for result in graded.results]

        for number in range(pairs):
            task = rng.choice(BUNDLED)
            original = task.solution()
            mutant = mutated(original, rng)
            cases = task.tests(TESTS, rng)
            assert isinstance(cases, list)
            wanted = await asyncio.to_thread(reference, original, mutant, task.entry_point, cases)
            found = {"calls": await results(mutant, cases, task.entry_point)}
            if number % 8 == 0:
                found["assertions"] = await results(mutant, assertions(task, cases, original), "")
            for form, passed in found.items():
                counts[f"{form}: pairs"] += 1
                counts[f"{form}: tests passed"] += sum(passed)
                counts[f"{form}: tests failed"] += len(passed) - sum(passed)
                if passed != wanted:
                    differing.append((form, task.name, mutant, passed, wanted))
            counts["mutants that fail"] += not all(wanted)
    sys.stdout.write(f"{dict(counts)}, differing: {len(differing)}\n")
    assert differing == []
    assert counts["mutants that fail"] > pairs / 3
    assert counts["calls: tests passed"] > pairs


@pytest.mark.parametrize(
    ("text", "wanted", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1 2  \n3\n\n", "1 2\n3", True),
        ("\n1", "1", False),
        ("1  2", "1 2", False),
        ("1", "1.0", True),
        ("0.3333333333", "0.33333333333", True),
        ("0.3333", "0.3334", False),
        ("1e3", "1000.0", True),
        ("01", "1", False),
        ("a", "b", False),
        ("1\n2", "1 2", False),
        ("", "\n", True),
        ("nan", "1.5", False),
    ],
)
def test_printed_text(text: str, wanted: str, same: bool) -> None:
    assert prints(text, wanted) is same
