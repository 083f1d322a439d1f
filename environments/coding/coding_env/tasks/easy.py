"""Easy tasks: one loop or less."""

from __future__ import annotations

import random
from typing import Any

from coding_env.tasks.model import FunctionTask, Task

__all__ = ["TASKS"]


def _word(rng: random.Random, letters: str = "abcde", most: int = 12) -> str:
    return "".join(rng.choice(letters) for _ in range(rng.randint(2, most)))


def _numbers(rng: random.Random, low: int = -20, high: int = 20, most: int = 12) -> list[int]:
    return [rng.randint(low, high) for _ in range(rng.randint(2, most))]


def _run_lengths(text: str) -> list[list[Any]]:
    runs: list[list[Any]] = []
    for letter in text:
        if runs and runs[-1][0] == letter:
            runs[-1][1] += 1
        else:
            runs.append([letter, 1])
    return runs


def _digit_sum(number: int, base: int) -> int:
    total = 0
    while number:
        number, digit = divmod(number, base)
        total += digit
    return total


def _sort_numbers(numbers: list[int]) -> list[int]:
    return sorted(numbers)


def _vowels(text: str) -> int:
    return sum(letter in "aeiou" for letter in text.lower())


def _first_repeat(numbers: list[int]) -> int | None:
    seen: set[int] = set()
    for number in numbers:
        if number in seen:
            return number
        seen.add(number)
    return None


def _running_best(numbers: list[int]) -> list[int]:
    return [max(numbers[: i + 1]) for i in range(len(numbers))]


def _mirrored(text: str) -> bool:
    letters = [letter.lower() for letter in text if letter.isalnum()]
    return letters == letters[::-1]


TASKS: list[Task] = [
    FunctionTask(
        "sort-numbers",
        "train",
        "easy",
        "sort_numbers",
        "sort_numbers(numbers: list[int]) -> list[int]:",
        "Return the numbers from the smallest to the largest.",
        _sort_numbers,
        [[[3, 1, 2]], [[5, -4, 5]]],
        [[[]], [[7]], [[2, 2, 2]]],
        lambda rng: [_numbers(rng)],
    ),
    FunctionTask(
        "count-vowels",
        "train",
        "easy",
        "count_vowels",
        "count_vowels(text: str) -> int:",
        "Count the vowels (a, e, i, o, u) in the text, whether capital or small.",
        _vowels,
        [["Open air"], ["rhythm"]],
        [[""], ["AEIOU"], ["xyz"]],
        lambda rng: [_word(rng, "aeiouAEIOUbcdxyz ", 25)],
    ),
    FunctionTask(
        "run-lengths",
        "train",
        "easy",
        "run_lengths",
        "run_lengths(text: str) -> list[list]:",
        "Cut the text into runs of equal letters. Return a list with one [letter, length] per run.",
        _run_lengths,
        [["aabbb"], ["aba"]],
        [[""], ["z"], ["aaaa"]],
        lambda rng: [_word(rng, "ab", 15)],
    ),
    FunctionTask(
        "digit-sum",
        "train",
        "easy",
        "digit_sum",
        "digit_sum(number: int, base: int) -> int:",
        "Write the number (0 or more) in the base (2 to 16) and return the sum of its digits.",
        _digit_sum,
        [[29, 10], [255, 16]],
        [[0, 2], [1, 16], [1023, 2]],
        lambda rng: [rng.randint(0, 10**6), rng.randint(2, 16)],
    ),
    FunctionTask(
        "running-best",
        "test",
        "easy",
        "running_best",
        "running_best(numbers: list[int]) -> list[int]:",
        "For every place in the list, return the largest number up to and including that place.",
        _running_best,
        [[[1, 3, 2]], [[4, 4, 5]]],
        [[[]], [[-3]], [[-1, -2, -3]]],
        lambda rng: [_numbers(rng)],
    ),
    FunctionTask(
        "first-repeat",
        "test",
        "easy",
        "first_repeat",
        "first_repeat(numbers: list[int]) -> int | None:",
        "Return the first number that stood in the list before, reading from the left; None if"
        " there is none.",
        _first_repeat,
        [[[1, 2, 3, 2, 1]], [[1, 2]]],
        [[[]], [[5, 5]], [[1, 2, 3]]],
        lambda rng: [_numbers(rng, 0, 12)],
    ),
    FunctionTask(
        "mirrored",
        "train",
        "easy",
        "mirrored",
        "mirrored(text: str) -> bool:",
        "Is the text the same when read backwards? Only letters and digits count, and capitals"
        " equal small letters.",
        _mirrored,
        [["Was it a car?"], ["Never odd or even"]],
        [[""], ["..."], ["a1b"]],
        lambda rng: [(word := _word(rng, "aAb ,", 5)) + rng.choice([word[::-1], "ab", "b!"])],
    ),
]
