"""Templates of tasks: a text and a solution with places for parameters.

Each variant of a template is a task. All variants of one are in one split, so that nothing in
``test`` is a variant of something in ``train``. A second solution of each, written another way,
stands in the tests, which compare the two.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from coding_env.tasks.model import Args, Difficulty, Split

__all__ = ["TEMPLATES", "Template", "Variant"]

Variant: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Template:
    """Tasks that differ in parameters.

    Attributes:
        name: the function's name; each variant's name begins with it.
        split, difficulty: of all variants.
        signature: of the function.
        text: of the task, with ``$names`` for parameters.
        variants: the parameters of each.
        source: of a solution, with the same places.
        draw: arguments of a test of a variant.
        edges: arguments that every episode tests.
    """

    name: str
    split: Split
    difficulty: Difficulty
    signature: str
    text: str
    variants: Sequence[Variant]
    source: str
    draw: Callable[[random.Random, Variant], Args]
    edges: Sequence[Args]


def _each(name: str, values: Sequence[Any]) -> list[Variant]:
    return [{name: value} for value in values]


def _all(names: str, *rows: Sequence[Any]) -> list[Variant]:
    return [dict(zip(names.split(), row, strict=True)) for row in rows]


def _numbers(rng: random.Random, low: int = -30, high: int = 60, most: int = 14) -> list[int]:
    return [rng.randint(low, high) for _ in range(rng.randint(3, most))]


def _letters(rng: random.Random, letters: str, most: int = 14, least: int = 3) -> str:
    return "".join(rng.choice(letters) for _ in range(rng.randint(least, most)))


def _words(rng: random.Random, letters: str = "abc", most: int = 12, long: int = 4) -> str:
    return " ".join(_letters(rng, letters, long, 1) for _ in range(rng.randint(3, most)))


def _walls(rng: random.Random) -> list[str]:
    width = rng.randint(2, 6)
    rows = [["." if rng.random() < 0.85 else "#" for _ in range(width)] for _ in range(4)]
    rows = rows[: rng.randint(2, 4)]
    rows[0][0] = rows[-1][-1] = "."
    return ["".join(row) for row in rows]


def _sum(rng: random.Random) -> str:
    parts = [str(rng.randint(1, 9))]
    for _ in range(rng.randint(2, 5)):
        parts += [rng.choice("+-*"), str(rng.randint(1, 9))]
    return " ".join(parts)


_ALPHABET = "abcdefghijklmnopqrstuvwxyz"

_EASY = [
    Template(
        "keep_multiples",
        "train",
        "easy",
        "keep_multiples(numbers: list[int]) -> list[int]:",
        "Return the numbers that are multiples of $k, in their order, each divided by $k.",
        _each("k", range(2, 10)),
        """
def keep_multiples(numbers):
    return [number // $k for number in numbers if number % $k == 0]
""",
        lambda rng, v: [[n * rng.choice([1, v["k"]]) for n in _numbers(rng)]],
        [[[]], [[0]], [[1]]],
    ),
    Template(
        "shift_letters",
        "train",
        "easy",
        "shift_letters(text: str) -> str:",
        "Replace each small letter by the one $k places after it in the alphabet; after z comes a."
        " All other signs stay.",
        _each("k", [1, 2, 3, 5, 7, 11, 13, 19, 25]),
        """
def shift_letters(text):
    shifted = ""
    for letter in text:
        if "a" <= letter <= "z":
            letter = chr((ord(letter) - ord("a") + $k) % 26 + ord("a"))
        shifted += letter
    return shifted
""",
        lambda rng, v: [_letters(rng, _ALPHABET + "XYZ ,", 20)],
        [[""], ["xyz"], ["A-Z"]],
    ),
    Template(
        "every_nth",
        "train",
        "easy",
        "every_nth(values: list[int]) -> list[int]:",
        "Return every value whose place is a multiple of $k, counting places from 1, and after"
        " them the last value of the list once more, if the list is not empty.",
        _each("k", range(2, 10)),
        """
def every_nth(values):
    return values[$k - 1 :: $k] + values[-1:]
""",
        lambda rng, v: [_numbers(rng, most=24)],
        [[[]], [[7]], [[1, 2, 3, 4, 5, 6, 7, 8, 9]]],
    ),
    Template(
        "digit_powers",
        "train",
        "easy",
        "digit_powers(number: int) -> int:",
        "Return the sum of the number's decimal digits, each one raised to the power of $k. The"
        " sign of the number does not matter.",
        _each("k", range(2, 9)),
        """
def digit_powers(number):
    return sum(int(digit) ** $k for digit in str(abs(number)))
""",
        lambda rng, v: [rng.randint(-(10**6), 10**6)],
        [[0], [-12], [100]],
    ),
    Template(
        "swap_letters",
        "train",
        "easy",
        "swap_letters(text: str) -> str:",
        "Write $b in place of each $a of the text, and $a in place of each $b. Then turn the text"
        " round.",
        _all("a b", *[(x, y) for x, y in zip("abcdefgh", "hgtsrqpo", strict=True)]),
        """
def swap_letters(text):
    swapped = text.translate(str.maketrans("$a$b", "$b$a"))
    return swapped[::-1]
""",
        lambda rng, v: [_letters(rng, f"{v['a']}{v['b']}xyz ", 14)],
        [[""], ["z"], ["abcdefgh"]],
    ),
    Template(
        "distant_differences",
        "train",
        "easy",
        "distant_differences(numbers: list[int]) -> list[int]:",
        "For each number that has one $k places after it, return that one minus the number.",
        _each("k", range(1, 9)),
        """
def distant_differences(numbers):
    return [later - number for number, later in zip(numbers, numbers[$k:])]
""",
        lambda rng, v: [_numbers(rng, most=10) + _numbers(rng, most=8)[: v["k"]]],
        [[[]], [[4]], [[1, 2, 4, 7, 11, 16, 22, 29, 37, 46]]],
    ),
    Template(
        "polynomial",
        "train",
        "easy",
        "polynomial(x: int) -> int:",
        "Return $a times the square of x, plus $b times x, plus $c; if that is negative, return it"
        " with the sign changed, plus 1.",
        _all(
            "a b c",
            *((2, -3, 1), (1, 4, -9), (-1, 7, 5), (3, 0, -40), (5, -20, 3)),
            *((-2, 11, 30), (4, 4, -100), (1, -15, 44), (-3, 2, 70)),
        ),
        """
def polynomial(x):
    value = $a * x**2 + $b * x + $c
    return value if value >= 0 else 1 - value
""",
        lambda rng, v: [rng.randint(-30, 30)],
        [[0], [1], [-1]],
    ),
    Template(
        "stretch",
        "train",
        "easy",
        "stretch(text: str) -> str:",
        "Write the first letter of the text once, the second one twice and so on, up to $k times;"
        " then begin again with once.",
        _each("k", range(2, 9)),
        """
def stretch(text):
    return "".join(letter * (place % $k + 1) for place, letter in enumerate(text))
""",
        lambda rng, v: [_letters(rng, "abcd", 14)],
        [[""], ["q"], ["abcdefghij"]],
    ),
    Template(
        "rotate",
        "train",
        "easy",
        "rotate(values: list[int]) -> list[int]:",
        "Move each value $k places to the left; those that leave the list at its beginning come"
        " back at its end.",
        _each("k", [1, 2, 3, 4, 5, 7, 10, 100]),
        """
def rotate(values):
    if not values:
        return []
    places = $k % len(values)
    return values[places:] + values[:places]
""",
        lambda rng, v: [_numbers(rng)],
        [[[]], [[3]], [[1, 2, 3, 4, 5, 6, 7]]],
    ),
    Template(
        "clamp_all",
        "test",
        "easy",
        "clamp_all(numbers: list[int]) -> list[int]:",
        "Return the numbers with each one below $low replaced by $low and each one above $high by"
        " $high, but leave out those that are exactly 0.",
        _all("low high", (-5, 5), (0, 20), (-20, 10), (3, 30), (-9, -1), (10, 11), (-1, 40)),
        """
def clamp_all(numbers):
    return [min(max(number, $low), $high) for number in numbers if number != 0]
""",
        lambda rng, v: [[n * rng.choice([0, 1, 1, 1]) for n in _numbers(rng)]],
        [[[]], [[0]], [[-100, 100]]],
    ),
    Template(
        "join_long",
        "test",
        "easy",
        "join_long(text: str) -> str:",
        "Take the words of the text that have at least $k letters and join them with '$mark'"
        " between, the last one first.",
        _all("k mark", *[(k, mark) for k in (2, 3, 4) for mark in ("-", "+", "/")]),
        """
def join_long(text):
    return "$mark".join(word for word in reversed(text.split()) if len(word) >= $k)
""",
        lambda rng, v: [_words(rng, "abcde", 8, 5)],
        [[""], ["a"], ["abcde abcdef"]],
    ),
    Template(
        "label_all",
        "test",
        "easy",
        "label_all(numbers: list[int]) -> list[str]:",
        "Return a word for each number: 'low' below $a, 'high' from $b on, and in between 'even' or"
        " 'odd', as the number is.",
        _all("a b", (0, 20), (-10, 10), (5, 30), (1, 50), (-20, 0), (10, 40), (-5, 25)),
        """
def label_all(numbers):
    def label(number):
        if number < $a:
            return "low"
        if number >= $b:
            return "high"
        return "odd" if number % 2 else "even"

    return [label(number) for number in numbers]
""",
        lambda rng, v: [_numbers(rng, most=9)],
        [[[]], [[0]], [[-21, 10, 20, 50]]],
    ),
]

_MEDIUM = [
    Template(
        "group_sums",
        "train",
        "medium",
        "group_sums(numbers: list[int]) -> list[int]:",
        "Cut the list into groups of $k numbers; the last group may have fewer. Return for each"
        " group its sum, or its largest number where the group has fewer than $k.",
        _each("k", range(2, 10)),
        """
def group_sums(numbers):
    groups = [numbers[start : start + $k] for start in range(0, len(numbers), $k)]
    return [sum(group) if len(group) == $k else max(group) for group in groups]
""",
        lambda rng, v: [_numbers(rng, most=25)],
        [[[]], [[-4]], [list(range(18))]],
    ),
    Template(
        "window_spread",
        "train",
        "medium",
        "window_spread(numbers: list[int]) -> list[int]:",
        "For every $k numbers that stand side by side, return the largest minus the smallest.",
        _each("k", range(2, 9)),
        """
def window_spread(numbers):
    windows = (numbers[start : start + $k] for start in range(len(numbers) - $k + 1))
    return [max(window) - min(window) for window in windows]
""",
        lambda rng, v: [_numbers(rng, most=10) + _numbers(rng, most=8)[: v["k"]]],
        [[[]], [[5]], [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]]],
    ),
    Template(
        "in_base",
        "train",
        "medium",
        "in_base(number: int) -> str:",
        "Write the number in base $k, with the digits 0 to 9 and then a, b, c and so on. A negative"
        " number begins with '-'.",
        _each("k", [3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 15]),
        """
def in_base(number):
    if not number:
        return "0"
    digits, rest = "", abs(number)
    while rest:
        rest, digit = divmod(rest, $k)
        digits = "0123456789abcdef"[digit] + digits
    return "-" + digits if number < 0 else digits
""",
        lambda rng, v: [rng.randint(-5000, 5000)],
        [[0], [-1], [4096]],
    ),
    Template(
        "top_words",
        "train",
        "medium",
        "top_words(text: str) -> list[str]:",
        "Return the $k words that are most frequent in the text, the most frequent one first, and"
        " of equally frequent ones the one that comes first in the alphabet. Capitals count as"
        " small letters. If there are fewer words, return them all.",
        _each("k", range(2, 10)),
        """
def top_words(text):
    counts = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts, key=lambda word: (-counts[word], word))[:$k]
""",
        lambda rng, v: [_words(rng, "abcD", 16, 2)],
        [[""], ["B b a"], ["d c b a"]],
    ),
    Template(
        "rails",
        "train",
        "medium",
        "rails(text: str) -> str:",
        "Write the letters of the text in a zigzag over $k lines: down from the first line to the"
        " last one, up again to the first, and so on. Return the lines one after another.",
        _each("k", range(2, 9)),
        """
def rails(text):
    lines = [""] * $k
    place, step = 0, 1
    for letter in text:
        lines[place] += letter
        if not 0 <= place + step < $k:
            step = -step
        place += step
    return "".join(lines)
""",
        lambda rng, v: [_letters(rng, "abcdefgh", 24, v["k"])],
        [[""], ["ab"], ["abcdefghijklmnop"]],
    ),
    Template(
        "by_remainder",
        "train",
        "medium",
        "by_remainder(numbers: list[int]) -> list[int]:",
        "Sort the numbers (0 or more) by their remainder when divided by $k, the smallest remainder"
        " first; of those with equal remainders the larger number comes first.",
        _each("k", range(2, 10)),
        """
def by_remainder(numbers):
    return sorted(numbers, key=lambda number: (number % $k, -number))
""",
        lambda rng, v: [_numbers(rng, 0, 60)],
        [[[]], [[5, 5]], [list(range(12))]],
    ),
    Template(
        "recurrence",
        "train",
        "medium",
        "recurrence(length: int) -> list[int]:",
        "A sequence begins with $a and $b. Each further number is $p times the one before it plus"
        " $q times the one before that, and of this the remainder when divided by $m. Return the"
        " last three numbers among the first `length` ones, or all if there are fewer.",
        _all(
            "a b p q m",
            *((0, 1, 1, 1, 1000), (2, 1, 1, 1, 997), (1, 1, 2, 1, 1009), (3, 5, 2, 3, 513)),
            *((1, 4, 3, -1, 811), (7, 2, 1, 4, 999), (0, 3, 5, -2, 1201), (6, 6, 2, 5, 701)),
        ),
        """
def recurrence(length):
    numbers = [$a, $b]
    while len(numbers) < length:
        numbers.append(($p * numbers[-1] + $q * numbers[-2]) % $m)
    return numbers[:length][-3:]
""",
        lambda rng, v: [rng.randint(3, 120)],
        [[0], [1], [2]],
    ),
    Template(
        "clock",
        "train",
        "medium",
        "clock(time: str) -> str:",
        "The time is like '07:45', on a clock that has $h hours a day, from 00 on, and 60 minutes"
        " an hour. Return the time $k minutes later.",
        _all(
            "h k",
            *(
                (24, 95),
                (24, 1000),
                (12, 61),
                (12, 715),
                (10, 333),
                (20, 47),
                (24, 1439),
                (30, 599),
            ),
        ),
        """
def clock(time):
    hours, minutes = time.split(":")
    total = (int(hours) * 60 + int(minutes) + $k) % ($h * 60)
    return f"{total // 60:02}:{total % 60:02}"
""",
        lambda rng, v: [f"{rng.randrange(v['h']):02}:{rng.randrange(60):02}"],
        [["00:00"], ["09:59"], ["05:05"]],
    ),
    Template(
        "long_runs",
        "test",
        "medium",
        "long_runs(text: str) -> list[str]:",
        "Find the runs of one letter in the text, each as long as it goes. Return those of at least"
        " $k letters in their order, written as the letter and the length, as in 'a3'.",
        _each("k", range(2, 8)),
        """
def long_runs(text):
    found, start = [], 0
    for place in range(1, len(text) + 1):
        if place == len(text) or text[place] != text[start]:
            if place - start >= $k:
                found.append(f"{text[start]}{place - start}")
            start = place
    return found
""",
        lambda rng, v: ["".join(rng.choice("abc") * rng.randint(1, v["k"] + 3) for _ in range(8))],
        [[""], ["aabbb"], ["cccccccccc"]],
    ),
    Template(
        "counting_out",
        "test",
        "medium",
        "counting_out(people: int) -> list[int]:",
        "So many people, numbered from 1, stand in a ring. Counting begins with number 1, and every"
        " ${k}th one leaves the ring, which closes behind them. Return the numbers of the last"
        " three people in the order in which they leave, or of all if there are fewer.",
        _each("k", range(4, 11)),
        """
def counting_out(people):
    ring, order, place = list(range(1, people + 1)), [], 0
    while ring:
        place = (place + $k - 1) % len(ring)
        order.append(ring.pop(place))
    return order[-3:]
""",
        lambda rng, v: [rng.randint(4, 60)],
        [[0], [1], [3]],
    ),
    Template(
        "deal",
        "test",
        "medium",
        "deal(left: list[int], right: list[int]) -> list[int]:",
        "Take $k values from the left list, then $k from the right one, then $k from the left one"
        " again, and so on, as far as each list has them, until both are empty.",
        _each("k", range(1, 8)),
        """
def deal(left, right):
    left, right, dealt = list(left), list(right), []
    while left or right:
        dealt += left[:$k] + right[:$k]
        del left[:$k], right[:$k]
    return dealt
""",
        lambda rng, v: [_numbers(rng), _numbers(rng)],
        [[[], []], [[1], []], [[1, 2, 3, 4], [5]]],
    ),
]

_HARD = [
    Template(
        "fewest_coins",
        "train",
        "hard",
        "fewest_coins(amount: int) -> int:",
        "With how few coins can the amount be paid exactly, if there are coins of $coins, as many"
        " as needed of each? Return -1 if it cannot be paid. For an amount of 0 it is 0.",
        _each(
            "coins",
            [
                *([3, 7, 25], [4, 9, 30], [5, 8, 33], [6, 10, 15], [2, 9, 31]),
                *([4, 6, 25], [7, 11, 40], [1, 17, 29], [3, 10, 24]),
            ],
        ),
        """
def fewest_coins(amount):
    fewest = [0] + [None] * amount
    for total in range(1, amount + 1):
        ways = [fewest[total - coin] for coin in $coins if coin <= total]
        ways = [way for way in ways if way is not None]
        if ways:
            fewest[total] = min(ways) + 1
    return -1 if fewest[amount] is None else fewest[amount]
""",
        lambda rng, v: [rng.randint(20, 400)],
        [[0], [1], [12]],
    ),
    Template(
        "smooth_total",
        "train",
        "hard",
        "smooth_total(numbers: list[int]) -> int:",
        "Leave out as many of the numbers as you like, but keep at least one, so that each number"
        " that stays differs by at most $k from the one kept before it. Return the largest sum that"
        " the kept numbers can have.",
        _each("k", [1, 2, 3, 4, 5, 7, 9, 12]),
        """
def smooth_total(numbers):
    best = []
    for place, number in enumerate(numbers):
        before = [best[i] for i in range(place) if abs(numbers[i] - number) <= $k]
        best.append(number + max([0, *before]))
    return max(best)
""",
        lambda rng, v: [_numbers(rng, -20, 30)],
        [[[5]], [[-3, -1]], [[1, 2, 3, 10, 4]]],
    ),
    Template(
        "best_load",
        "train",
        "hard",
        "best_load(items: list[list[int]], capacity: int) -> int:",
        "Each item is [weight, value]. Choose at most $k of them, each once, whose weights add up"
        " to no more than the capacity. Return the largest sum of values that there is.",
        _each("k", range(1, 8)),
        """
def best_load(items, capacity):
    best = {(0, 0): 0}
    for weight, value in items:
        for (count, load), total in list(best.items()):
            key = (count + 1, load + weight)
            if key[0] <= $k and key[1] <= capacity:
                best[key] = max(best.get(key, 0), total + value)
    return max(best.values())
""",
        lambda rng, v: [
            [[rng.randint(1, 12), rng.randint(1, 40)] for _ in range(rng.randint(3, 9))],
            rng.randint(5, 50),
        ],
        [[[], 5], [[[3, 4]], 2], [[[2, 3], [2, 5], [2, 4]], 4]],
    ),
    Template(
        "fair_parts",
        "train",
        "hard",
        "fair_parts(numbers: list[int]) -> int:",
        "Cut the list (its numbers are 0 or more, and there are at least $k) into $k parts of"
        " neighbours, none of them empty, so that the largest sum of a part is as small as it can"
        " be. Return that sum.",
        _each("k", range(2, 9)),
        """
def fair_parts(numbers):
    def parts(limit):
        count, total = 1, 0
        for number in numbers:
            if total + number > limit:
                count, total = count + 1, 0
            total += number
        return count

    low, high = max(numbers), sum(numbers)
    while low < high:
        middle = (low + high) // 2
        if parts(middle) <= $k:
            high = middle
        else:
            low = middle + 1
    return low
""",
        lambda rng, v: [[rng.randint(0, 40) for _ in range(v["k"] + rng.randint(0, 7))]],
        [[[1, 2, 3, 4, 5, 6, 7, 8, 9]], [[0, 0, 0, 9, 0, 0, 0, 0]], [[7] * 8]],
    ),
    Template(
        "edit_cost",
        "train",
        "hard",
        "edit_cost(left: str, right: str) -> int:",
        "Turn the left text into the right one as cheaply as you can. Inserting a letter costs $i,"
        " removing one $d, and writing another letter in the place of one $r. Return the cost.",
        _all(
            "i d r",
            *((1, 2, 3), (2, 1, 2), (3, 3, 4), (1, 1, 3), (5, 2, 4)),
            *((2, 5, 6), (4, 1, 3), (3, 4, 2), (1, 6, 5)),
        ),
        """
def edit_cost(left, right):
    costs = [place * $i for place in range(len(right) + 1)]
    for mine in left:
        before, costs[0] = costs[0], costs[0] + $d
        for place, other in enumerate(right, 1):
            replaced = before + ($r if mine != other else 0)
            before = costs[place]
            costs[place] = min(replaced, before + $d, costs[place - 1] + $i)
    return costs[-1]
""",
        lambda rng, v: [_letters(rng, "abcd", 10, 1), _letters(rng, "abcd", 10, 1)],
        [["", ""], ["abc", ""], ["", "abc"]],
    ),
    Template(
        "automaton",
        "test",
        "hard",
        "automaton(cells: str, steps: int) -> str:",
        "The cells are 0 or 1 and stand in a ring, so that the first one is beside the last one. In"
        " each step all cells change at once: read a cell's left neighbour, the cell and its right"
        " neighbour as a binary number n from 0 to 7; the cell becomes the binary digit of $rule"
        " that stands for 2 to the power of n. Return the cells after so many steps.",
        _each("rule", [30, 45, 54, 60, 73, 90, 110, 150]),
        """
def automaton(cells, steps):
    for _ in range(steps):
        ring = cells[-1:] + cells + cells[:1]
        cells = "".join(
            str($rule >> int(ring[place : place + 3], 2) & 1) for place in range(len(cells))
        )
    return cells
""",
        lambda rng, v: [_letters(rng, "01", 14, 7), rng.randint(1, 9)],
        [["1", 0], ["0001000", 1], ["0101", 3]],
    ),
    Template(
        "count_ways",
        "test",
        "hard",
        "count_ways(grid: list[str]) -> int:",
        "Go from the upper left cell of the grid to the lower right one. A step goes $moves. No"
        " step may end on a '#'. Return in how many ways it can be done.",
        [
            {"moves": words, "steps": steps}
            for words, steps in (
                ("one cell right or one cell down", [(0, 1), (1, 0)]),
                (
                    "one cell right, one down, or one right and down at once",
                    [(0, 1), (1, 0), (1, 1)],
                ),
                ("one or two cells right, or one cell down", [(0, 1), (0, 2), (1, 0)]),
                ("one cell right, or one or two cells down", [(0, 1), (1, 0), (2, 0)]),
                (
                    "one or two cells right or one or two cells down",
                    [(0, 1), (0, 2), (1, 0), (2, 0)],
                ),
                (
                    "one cell right, one down, or two right and one down at once",
                    [(0, 1), (1, 0), (1, 2)],
                ),
            )
        ],
        """
def count_ways(grid):
    height, width = len(grid), len(grid[0])
    ways = {(0, 0): 1}
    for y in range(height):
        for x in range(width):
            if (y, x) != (0, 0) and grid[y][x] != "#":
                ways[y, x] = sum(ways.get((y - down, x - right), 0) for down, right in $steps)
    return ways.get((height - 1, width - 1), 0)
""",
        lambda rng, v: [_walls(rng)],
        [[["."]], [["..", ".."]], [["...", ".#.", "..."]]],
    ),
    Template(
        "calculate",
        "test",
        "hard",
        "calculate(formula: str) -> int:",
        "Work the formula out: whole numbers with +, - and * between them, all apart by blanks."
        " $first is worked out before $last, and where signs are equally strong it goes from the"
        " $side.",
        _all(
            "first last side strong right",
            ("*", "+ and -", "left", ["*", "+-"], False),
            ("*", "+ and -", "right", ["*", "+-"], True),
            ("+ and -", "*", "left", ["+-", "*"], False),
            ("+ and -", "*", "right", ["+-", "*"], True),
            ("-", "+ and *", "left", ["-", "+*"], False),
            ("-", "+ and *", "right", ["-", "+*"], True),
            ("+", "- and *", "left", ["+", "-*"], False),
            ("+", "- and *", "right", ["+", "-*"], True),
        ),
        """
def calculate(formula):
    tokens = [token if token in "+-*" else int(token) for token in formula.split()]
    for signs in $strong:
        while True:
            places = [place for place in range(1, len(tokens), 2) if tokens[place] in signs]
            if not places:
                break
            place = places[-1] if $right else places[0]
            one, sign, other = tokens[place - 1 : place + 2]
            value = one + other if sign == "+" else one - other if sign == "-" else one * other
            tokens[place - 1 : place + 2] = [value]
    return tokens[0]
""",
        lambda rng, v: [_sum(rng)],
        [["7"], ["9 - 3 - 2"], ["2 * 3 - 4 * 5 + 6"]],
    ),
]

TEMPLATES: Sequence[Template] = (*_EASY, *_MEDIUM, *_HARD)
