"""Hard tasks: an algorithm."""

from __future__ import annotations

import heapq
import random

from coding_env.tasks.model import FunctionTask, Task

__all__ = ["TASKS"]


def _edits(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def _words(rng: random.Random) -> list[str]:
    return ["".join(rng.choice("abc") for _ in range(rng.randint(1, 9))) for _ in range(2)]


def _evaluate(text: str) -> int:
    tokens = text.replace("(", " ( ").replace(")", " ) ").split()[::-1]

    def operand() -> int:
        token = tokens.pop()
        if token != "(":
            return int(token)
        value = total()
        tokens.pop()
        return value

    def total() -> int:
        value = operand()
        while tokens and tokens[-1] != ")":
            sign, right = tokens.pop(), operand()
            value = (
                value + right if sign == "+" else value - right if sign == "-" else value * right
            )
        return value

    return total()


def _formula(rng: random.Random, depth: int = 3) -> str:
    if not depth or rng.random() < 0.2:
        return str(rng.randint(0, 9))
    parts = f"{_formula(rng, depth - 1)} {rng.choice('+-*')} {_formula(rng, depth - 1)}"
    return f"({parts})" if rng.random() < 0.5 else parts


def _build_order(needs: dict[str, list[str]]) -> list[str] | None:
    waiting = {name: set(before) for name, before in needs.items()}
    ready = [name for name, before in waiting.items() if not before]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        name = heapq.heappop(ready)
        order.append(name)
        for other, before in waiting.items():
            if name in before:
                before.remove(name)
                if not before:
                    heapq.heappush(ready, other)
    return order if len(order) == len(needs) else None


def _needs(rng: random.Random) -> dict[str, list[str]]:
    names = rng.sample("abcdefg", rng.randint(2, 7))
    needs = {name: rng.sample(names[:i], rng.randint(0, min(i, 2))) for i, name in enumerate(names)}
    if rng.random() < 0.2:
        needs[names[0]] = [names[-1]]
    return needs


def _cheapest(grid: list[list[int]]) -> int:
    height, width = len(grid), len(grid[0])
    cost = {(0, 0): grid[0][0]}
    queue = [(grid[0][0], 0, 0)]
    while queue:
        so_far, y, x = heapq.heappop(queue)
        if (y, x) == (height - 1, width - 1):
            return so_far
        for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if 0 <= v < height and 0 <= u < width:
                total = so_far + grid[v][u]
                if total < cost.get((v, u), total + 1):
                    cost[v, u] = total
                    heapq.heappush(queue, (total, v, u))
    return -1


def _grid(rng: random.Random) -> list[list[int]]:
    width = rng.randint(1, 6)
    return [[rng.randint(0, 9) for _ in range(width)] for _ in range(rng.randint(1, 6))]


TASKS: list[Task] = [
    FunctionTask(
        "fewest-edits",
        "train",
        "hard",
        "fewest_edits",
        "fewest_edits(left: str, right: str) -> int:",
        "With how few edits does left become right? An edit inserts, removes or replaces one"
        " letter.",
        _edits,
        [["kitten", "sitting"], ["ab", "ba"]],
        [["", ""], ["", "abc"], ["same", "same"]],
        _words,
    ),
    FunctionTask(
        "evaluate",
        "train",
        "hard",
        "evaluate",
        "evaluate(formula: str) -> int:",
        "Work the formula out: whole numbers, +, - and * between blanks, and brackets. All three"
        " bind equally, from left to right: 1 + 2 * 3 is 9.",
        _evaluate,
        [["1 + 2 * 3"], ["1 + (2 * 3)"]],
        [["7"], ["9 - 3 - 2"], ["((2))"]],
        lambda rng: [_formula(rng)],
    ),
    FunctionTask(
        "build-order",
        "test",
        "hard",
        "build_order",
        "build_order(needs: dict[str, list[str]]) -> list[str] | None:",
        "needs names, for every part, the parts that must be built before it. Return the order"
        " that builds them all and, among those possible, comes first in the alphabet (compare"
        " the first parts, then the second ones, and so on). None if there is no such order.",
        _build_order,
        [[{"b": ["a"], "a": [], "c": []}], [{"x": ["y"], "y": ["x"]}]],
        [[{}], [{"a": ["a"]}], [{"a": ["z"], "z": []}]],
        lambda rng: [_needs(rng)],
    ),
    FunctionTask(
        "cheapest-path",
        "test",
        "hard",
        "cheapest_path",
        "cheapest_path(grid: list[list[int]]) -> int:",
        "Go from the upper left to the lower right cell of the grid in steps up, down, left and"
        " right. Every cell that you enter costs its number (0 or more), the first one included."
        " Return the lowest cost.",
        _cheapest,
        [[[[1, 9], [1, 1]]], [[[1, 9, 1], [1, 9, 1], [1, 1, 1]]]],
        [[[[4]]], [[[1, 2, 3]]], [[[0, 9, 0, 0], [0, 9, 0, 9], [0, 0, 0, 0]]]],
        lambda rng: [_grid(rng)],
    ),
]
