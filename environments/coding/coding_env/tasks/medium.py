"""Medium tasks: an idea, or some care."""

from __future__ import annotations

import random

from coding_env.tasks.model import FunctionTask, Task

__all__ = ["TASKS"]

_NUMERALS = "M CM D CD C XC L XL X IX V IV I"
_PAIRS = {")": "(", "]": "[", "}": "{"}


def _merge(spans: list[list[int]]) -> list[list[int]]:
    merged: list[list[int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


def _spans(rng: random.Random) -> list[list[int]]:
    starts = [rng.randint(0, 30) for _ in range(rng.randint(2, 8))]
    return [[start, start + rng.randint(0, 8)] for start in starts]


def _balanced(text: str) -> bool:
    stack: list[str] = []
    for letter in text:
        if letter in "([{":
            stack.append(letter)
        elif letter in _PAIRS and (not stack or stack.pop() != _PAIRS[letter]):
            return False
    return not stack


def _brackets(rng: random.Random) -> str:
    """Balanced in half of the cases, otherwise with one letter changed."""
    text = ""
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(text))
        text = text[:at] + rng.choice(["()", "[]", "{}"]) + text[at:]
    if rng.random() < 0.5:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice("([{)]}x") + text[at + 1 :]
    return text


def _roman(number: int) -> str:
    parts = ""
    for value, sign in zip(
        (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1),
        _NUMERALS.split(),
        strict=True,
    ):
        parts += sign * (number // value)
        number %= value
    return parts


def _spiral(grid: list[list[int]]) -> list[int]:
    rows, path = [list(row) for row in grid], []
    while rows:
        path += rows.pop(0)
        rows = [list(row) for row in zip(*rows, strict=True)][::-1]
    return path


def _grid(rng: random.Random) -> list[list[int]]:
    width = rng.randint(1, 5)
    return [[rng.randint(0, 9) for _ in range(width)] for _ in range(rng.randint(1, 5))]


def _longest_distinct(text: str) -> int:
    best = start = 0
    last: dict[str, int] = {}
    for i, letter in enumerate(text):
        if last.get(letter, -1) >= start:
            start = last[letter] + 1
        last[letter] = i
        best = max(best, i - start + 1)
    return best


def _change(coins: list[int], amount: int) -> int:
    ways = [1] + [0] * amount
    for coin in set(coins):
        for total in range(coin, amount + 1):
            ways[total] += ways[total - coin]
    return ways[amount]


def _table(text: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for word in text.split():
        groups.setdefault("".join(sorted(word.lower())), []).append(word)
    return {key: words for key, words in groups.items() if len(words) > 1}


TASKS: list[Task] = [
    FunctionTask(
        "merge-spans",
        "train",
        "medium",
        "merge_spans",
        "merge_spans(spans: list[list[int]]) -> list[list[int]]:",
        "Each span is [start, end] with both ends included. Join spans that share a point, and"
        " return what is left from left to right.",
        _merge,
        [[[[1, 3], [2, 5], [7, 8]]], [[[4, 4], [4, 6]]]],
        [[[]], [[[0, 9], [2, 3]]], [[[5, 6], [1, 2]]]],
        lambda rng: [_spans(rng)],
    ),
    FunctionTask(
        "balanced",
        "train",
        "medium",
        "balanced",
        "balanced(text: str) -> bool:",
        "Are the brackets (), [] and {} in the text closed in the right order? Other letters do"
        " not matter.",
        _balanced,
        [["f(a[0])"], ["(]"]],
        [[""], ["([)]"], ["((("]],
        lambda rng: [_brackets(rng)],
    ),
    FunctionTask(
        "roman",
        "train",
        "medium",
        "roman",
        "roman(number: int) -> str:",
        "Write the number (1 to 3999) in Roman numerals, in their shortest form.",
        _roman,
        [[14], [1990]],
        [[1], [3999], [444]],
        lambda rng: [rng.randint(1, 3999)],
    ),
    FunctionTask(
        "spiral",
        "test",
        "medium",
        "spiral",
        "spiral(grid: list[list[int]]) -> list[int]:",
        "Walk the grid clockwise from its upper left corner inwards, and return the numbers in"
        " that order. All rows have the same length, at least 1.",
        _spiral,
        [[[[1, 2], [4, 3]]], [[[1, 2, 3], [8, 9, 4], [7, 6, 5]]]],
        [[[]], [[[5]]], [[[1], [2], [3]]]],
        lambda rng: [_grid(rng)],
    ),
    FunctionTask(
        "longest-distinct",
        "test",
        "medium",
        "longest_distinct",
        "longest_distinct(text: str) -> int:",
        "How long is the longest stretch of the text in which no letter occurs twice?",
        _longest_distinct,
        [["abca"], ["aab"]],
        [[""], ["zzzz"], ["abcdef"]],
        lambda rng: ["".join(rng.choice("abcdef") for _ in range(rng.randint(1, 30)))],
    ),
    FunctionTask(
        "ways-to-pay",
        "train",
        "medium",
        "ways_to_pay",
        "ways_to_pay(coins: list[int], amount: int) -> int:",
        "In how many ways can the amount be paid with these coins, each as often as needed? The"
        " order does not matter, and a coin that is listed twice is one kind.",
        _change,
        [[[1, 2, 5], 5], [[2], 3]],
        [[[], 0], [[], 4], [[3, 3], 6]],
        lambda rng: [[rng.randint(1, 9) for _ in range(rng.randint(1, 5))], rng.randint(0, 40)],
    ),
    FunctionTask(
        "same-letters",
        "test",
        "medium",
        "same_letters",
        "same_letters(text: str) -> dict[str, list[str]]:",
        "Group the words of the text that are made of the same letters, capitals or not. Return"
        " the groups of two or more: the sorted small letters as the key, the words in their"
        " order as the value.",
        _table,
        [["tea eat Ate bun"], ["one two"]],
        [[""], ["a a"], ["Dog god"]],
        lambda rng: [
            " ".join(
                "".join(rng.sample("abc", rng.randint(1, 3))) for _ in range(rng.randint(2, 9))
            )
        ],
    ),
]
