"""Hidden tests that are code: they neither meet the solution nor can it touch them."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from coding_env import CodeAction, CodingEnv
from coding_env.environment import CodingEnvironment
from coding_env.sandbox.inside import examiner

from openenv_async import connect
from openenv_async.client.env import EnvClient

STACK = """
class Empty(LookupError):
    pass
class Stack:
    def __init__(self): self.items = []
    def push(self, item): self.items.append(item)
    def pop(self):
        if not self.items: raise Empty("there is nothing")
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __eq__(self, other): return self.items == other.items
    def __add__(self, n): s = Stack(); s.items = [i + n for i in self.items]; return s
class Words(list):
    pass
class Bad(ValueError):
    def __init__(self, a, b): super().__init__(f"{a} and {b}"); self.a = a
def twice(f): return lambda x: f(f(x))
def fill(found): found += [2, 3]
def pairs(n): yield from ((i, {i: {i}}) for i in range(n))
def words(text): return Words(text.split())
def fail(kind): raise {"value": ValueError("v"), "exit": SystemExit(3), "bad": Bad(1, 2)}[kind]
async def later(n): return n + 1
def kinds():
    import collections, datetime, decimal, fractions
    P = collections.namedtuple("P", "x y")
    return [1, 2.5, 10**30, 1j, None, True, b"a", {1: (2,)}, {3}, frozenset([4]), range(3),
            collections.deque([1]), decimal.Decimal("1.10"), fractions.Fraction(1, 3), P(1, 2),
            datetime.date(2024, 1, 2), datetime.timedelta(1), collections.Counter("aab"),
            float("inf"), bytearray(b"b")]
"""
HOLDING = """
s = Stack(); s.push([1]); s.push((2,)); assert s.pop() == (2,) and len(s) == 1
assert isinstance(s, Stack) and not isinstance([], Stack) and s == s
assert twice(lambda x: x + 5)(1) == 11
found = [1]; fill(found); assert found == [1, 2, 3]
assert list(pairs(2)) == [(0, {0: {0}}), (1, {1: {1}})]
assert words("a b") == ["a", "b"] and words("a") != ["b"] and words("a")[0] == "a"
try:
    s.pop(); s.pop()
    assert False
except LookupError as exc:
    assert type(exc).__name__ == "Empty" and isinstance(exc, Empty) and "nothing" in str(exc)
try:
    fail("bad"); assert False
except Bad as exc:
    assert exc.a == 1 and str(exc) == "1 and 2"
try:
    fail("exit"); assert False
except SystemExit as exc:
    assert exc.code == 3
import asyncio
async def main(): assert await later(1) == 2
import collections, datetime, decimal, fractions, math
found = kinds(); P = found[14]
assert found[:14] == [1, 2.5, 10**30, 1j, None, True, b"a", {1: (2,)}, {3}, {4}, range(3),
    collections.deque([1]), decimal.Decimal("1.1"), fractions.Fraction(1, 3)]
assert P == (1, 2) and P.y == 2
assert found[15:] == [datetime.date(2024, 1, 2), datetime.timedelta(1), {"a": 2, "b": 1},
    math.inf, b"b"]
"""
FAILING = """
assert Stack() == [], "an object is not a list, whatever its own == says"
assert twice(lambda x: x + 1)(1) == 2
s = Stack(); assert s + 1 == s, "its own + is not trusted beside a value of the tests"
assert undefined(1)
assert twice(lambda x: 1 // x)(0) == 0
"""


def row(**columns: Any) -> dict[str, Any]:
    return {"name": "own", "text": "Write it.", **columns}


async def results(env: EnvClient[Any, Any, Any], solution: str, **columns: Any) -> list[str]:
    await env.reset(row=row(**columns))
    seen = (await env.step(CodeAction(solution, submit=True, timeout=60.0))).observation
    assert seen.tests_total == len(seen.results)
    return list(seen.results)


async def test_objects_of_a_solution_are_tested_from_outside() -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        found = await results(env, STACK, tests=[HOLDING])
        assert found == ["passed"] * len(found)
        assert len(found) == 12
        errors = ["TypeError", "NameError", "ZeroDivisionError"]
        found = await results(env, STACK, tests=[FAILING])
        assert found == ["failed", "failed", *errors]
        trusted = ["s = Stack(); s.push(1)\nassert (s + 1).pop() == 2"]
        assert await results(env, STACK, tests=trusted) == ["TypeError"]
        assert await results(env, STACK, tests=trusted, operators=True) == ["passed"]
        awaited = ["import asyncio\nassert asyncio.run(main()) == 2\nasync def main(): ..."]
        code = "async def main():\n    return 2\n"
        asynchronous = ["import asyncio\nasync def run(): return await main()"]
        asynchronous += ["assert asyncio.run(run()) == 2"]
        assert await results(env, code, tests=asynchronous) == ["passed"]
        assert await results(env, code, tests=awaited) == ["NameError"]


async def test_a_solution_that_ends_or_hangs_costs_one_test() -> None:
    solution = """
import os
def f(n):
    if n == 1: os._exit(0)
    while n == 2: pass
    return n
"""
    tests = ["assert f(0) == 0", "assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 3"]
    params = {"test_timeout": 0.5}
    async with connect(CodingEnvironment, client=CodingEnv, params=params) as env:
        found = await results(env, solution, tests=tests)
        assert found == ["passed", "RuntimeError", "Timeout", "passed"]
        assert await results(env, "1/0", tests=tests) == ["ZeroDivisionError"] * 4


CHEATS = {
    "always equal": """
class Right:
    def __eq__(self, other): return True
    __ne__ = __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True
    def __sub__(self, other): return 0.0
    __rsub__ = __add__ = __radd__ = __sub__
    def __abs__(self): return 0.0
    def __hash__(self): return 0
    def __bool__(self): return True
    def __float__(self): return 0.0
def f(n): return Right()
""",
    "builtins replaced": """
import builtins
abs = len = sorted = isinstance = lambda *args: True
for name in ("abs", "len", "sorted", "AssertionError"): setattr(builtins, name, lambda *a: 0)
def f(n): return 0.5
""",
    "looks for the tests": """
import gc, sys, os
def f(n):
    seen = [o for o in gc.get_objects() if type(o) is str and "assert f(" in o]
    seen += [v for frame in sys._current_frames().values() for v in frame.f_back.f_locals.values()
             if "assert f(" in str(v)]
    for root, _, names in os.walk("/"): seen += [n for n in names if n.startswith("test_")]
    return 7 if seen else 0.5
""",
    "ends the tests": """
import sys, os
class Interrupted(BaseException): pass
class Skipped(Exception): pass
KINDS = (SystemExit, KeyboardInterrupt, GeneratorExit, Interrupted, Skipped)
def f(n): raise KINDS[n % 5]()
""",
    "says that they passed": """
import gc, json
def f(n):
    for o in gc.get_objects():
        if type(o).__name__ == "Objects":
            o.answer = lambda request: json.dumps({"value": {"object": ["x", "int", False]}})
    return 1
""",
    "changes what it is given": """
def f(n): return 0.5
def g(values, wanted=None):
    values.clear(); return values
""",
    "calls the tests back": """
def f(n):
    for number in range(20):
        try: _callback(number, [], {})
        except Exception: pass
    return 0.5
""",
}
HIDDEN = [
    "assert f(0) == 1.25",
    "assert abs(f(1) - 3.5) < 1e-6",
    "assert sorted([f(2), 9]) == [4.75, 9]",
    "assert f(3) > 99 and f(3) < 101",
    "assert 2 * f(4) == 31 and round(f(4)) == 16",
]


@pytest.mark.parametrize("name", CHEATS)
async def test_no_cheat_passes_assertions(name: str) -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        found = await results(env, CHEATS[name], tests=HIDDEN)
        assert "passed" not in found
        assert len(found) == 5
        honest = "def f(n): return [1.25, 3.5, 4.75, 100, 15.5][n]"
        assert await results(env, honest, tests=HIDDEN) == ["passed"] * 5


FILE = """
import pytest
import solution
from solution import f

@pytest.fixture
def numbers():
    return range(2)

@pytest.mark.parametrize("n", [0, 1])
def test_f(n, numbers):
    assert n in numbers
    assert f(n) == [1.25, 3.5][n]

def test_near():
    assert f(2) == pytest.approx(4.75)

def test_error():
    with pytest.raises(IndexError, match="range"):
        f(9)

class TestPrinted:
    def test_out(self, capsys, tmp_path):
        solution.hello(5)
        assert capsys.readouterr().out == "hello 5\\n"
"""
GOOD = """
from helper import VALUES
def f(n): return VALUES[n]
def hello(n): print("hello", n)
"""


async def test_files_of_pytest_test_several_files() -> None:
    assert importlib.util.find_spec("pytest")
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        await env.reset(row=row(pytest={"test_it.py": FILE}))
        files = {"solution.py": GOOD, "helper.py": "VALUES = [1.25, 3.5, 4.75]"}
        result = await env.step(CodeAction(files=files, submit=True))
        assert (result.reward, result.observation.results) == (1.0, ["passed"] * 5)
        await env.reset(row=row(pytest={"test_it.py": FILE}))
        files["helper.py"] = "VALUES = [1.25, 3, 4.75]"
        result = await env.step(CodeAction(files=files, submit=True))
        assert (result.reward, result.observation.tests_passed) == (0.8, 4)
        await env.reset(row=row(pytest={"test_it.py": FILE}))
        result = await env.step(CodeAction(CHEATS["always equal"], submit=True))
        assert result.reward == 0.0, result


def test_each_statement_with_an_assertion_is_a_test() -> None:
    source = """
def helper(x): assert x
assert f(1)
for i in range(3):
    assert f(i)
try:
    f(2); assert False
except ValueError: pass
x = 1
"""
    assert examiner.count_units(source, called=False) == 3
    check = "def check(candidate):\n    assert candidate(1)\n    y = 2\n    assert candidate(y)\n"
    assert examiner.count_units(check, called=True) == 2
    assert examiner.count_units(check, called=False) == 0
