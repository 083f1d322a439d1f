"""Which of MiniWoB's rewards mean that its task was solved.

MiniWoB ends an episode with a number from -1 to 1 and says nothing else. 16 of its pages give a
part of it for a part of the task, or for a wrong answer: 0.1 for a card of ``find-greatest`` that
is not the greatest, 0.4 for the wrong detail of the right person in ``phone-book``. Rules:

- Solved is the whole reward, 1, as in ``get_binary_reward`` of the package ``miniwob``.
- If the reward measures a distance, an angle, a colour or a time, nobody meets 1 exactly, and
  the package's own notes ask for a threshold instead. ``TOLERANCES`` has one per page, with what
  it allows.
- ``hover-shape`` never ends by itself (its page has no rule for that): it is never solved.
"""

from __future__ import annotations

from typing import Final

__all__ = ["TOLERANCES", "is_solved"]

TOLERANCES: Final[dict[str, float]] = {
    "bisect-angle": 0.9,  # 1/20 of the angle beside the line that halves it
    "chase-circle": 0.9,  # one second of the ten outside the circle
    "circle-center": 0.9,  # 2.5 to 4 pixels: a tenth of the radius
    "find-midpoint": 0.9,  # 3 pixels, of the 30 that earn something
    "right-angle": 0.95,  # 4.5 degrees
    "use-colorwheel": 0.97,  # 7 of 255 levels in each channel; gold is 13 from yellow
    "use-colorwheel-2": 0.97,
}
"""The least reward that counts as solved, for pages whose reward is a measurement."""

_ROUNDING: Final = 1e-9  # MiniWoB adds tenths up


def is_solved(task: str, raw: float) -> bool:
    """Return whether an episode of the task that ended with this raw reward solved it.

    Args:
        task: name of one of ``TASKS``.
        raw: ``WOB_RAW_REWARD_GLOBAL``, the reward before the time penalty.
    """
    return raw >= TOLERANCES.get(task, 1.0) - _ROUNDING
