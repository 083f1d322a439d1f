"""Positions and moves in words, for players that read: moves by name, and what is said to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyspiel

from openspiel_env.games import LoadedGame

__all__ = ["NotAMove", "described", "ended", "find_move", "shown_moves"]

_SHOWN: Final = 20
"""Moves that a refusal names."""
_LISTED: Final = 512
"""Moves that a position lists; the observation's ``legal_moves`` has all."""


class NotAMove(ValueError):
    """A text does not name one legal move; its own text says why."""


def described(
    loaded: LoadedGame,
    state: pyspiel.State,
    player: int,
    legal: Sequence[int],
    names: Sequence[str],
    news: Sequence[str],
    simultaneous: bool,
) -> str:
    """Return the position for the player who has to move.

    Args:
        loaded: the game.
        state: of it.
        player: whose turn it is.
        legal: numbers of the moves.
        names: their names.
        news: what others did since this player was asked last, where all may know it.
        simultaneous: the others choose at the same time.
    """
    lines = [f"{loaded.name}: you are player {player} of {loaded.players}.", *news]
    if simultaneous:
        lines.append("All players choose at the same time.")
    lines += ["", loaded.words(state, player).rstrip("\n"), "", "Legal moves (number: name):"]
    pairs = zip(legal[:_LISTED], names[:_LISTED], strict=True)
    lines += [f"{number}: {name}" for number, name in pairs]
    if len(legal) > _LISTED:
        lines.append(f"… and {len(legal) - _LISTED} more")
    lines.append("Answer with the name or the number of one of them.")
    return "\n".join(lines)


def ended(loaded: LoadedGame, state: pyspiel.State, player: int, news: Sequence[str]) -> str:
    """Return how the game ended, in words, for one of its players."""
    returns = state.returns()
    lines = [*news, "", loaded.words(state, player).rstrip("\n"), ""]
    others = ", ".join(
        f"player {each}: {value:g}" for each, value in enumerate(returns) if each != player
    )
    lines.append(f"The game is over. You got {returns[player]:g}" + f" ({others})" * bool(others))
    return "\n".join(lines).lstrip("\n")


def find_move(text: str, legal: Sequence[int], names: Sequence[str]) -> int:
    """Return the number of the move that a text names.

    A name counts as the game writes it, then without regard to case and spaces at its ends, then
    a number, alone or before a colon and the name.

    Raises:
        NotAMove: it names none of them, or several.
    """
    found = [number for number, name in zip(legal, names, strict=True) if name == text]
    if not found:
        wanted = _plain(text)
        found = [n for n, name in zip(legal, names, strict=True) if _plain(name) == wanted]
        if not found:
            found = _by_number(text, legal, names)
    if len(found) == 1:
        return found[0]
    if found:
        raise NotAMove(f"is the name of {len(found)} moves: take one of them by its number")
    raise NotAMove("is not a legal move")


def _by_number(text: str, legal: Sequence[int], names: Sequence[str]) -> list[int]:
    """The move that a text has the number of; none where the name behind it is another's."""
    number, colon, name = text.partition(":")
    number = number.strip()
    if not (number.isascii() and number.isdecimal() and len(number) < 19):
        return []
    if int(number) not in legal:
        return []
    if colon and _plain(names[legal.index(int(number))]) != _plain(name):
        return []
    return [int(number)]


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold()


def shown_moves(legal: Sequence[int], names: Sequence[str] = ()) -> str:
    """Return the first of the legal moves for a refusal, by name where there are names."""
    more = ", …" if len(legal) > _SHOWN else ""
    if not names:
        return ", ".join(map(str, legal[:_SHOWN])) + more
    pairs = zip(names[:_SHOWN], legal[:_SHOWN], strict=True)
    return ", ".join(f"{name} ({number})" for name, number in pairs) + more
