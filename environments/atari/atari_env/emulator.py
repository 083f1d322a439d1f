"""One emulated console with a game in it.

Rules:

- ALE ends the whole process when it is given a ROM that it does not support, so that is asked
  before.
- ALE's own randomness is off: sticky actions are drawn outside, so that the console is a
  function of its state and the actions. (ALE's ``cloneState(include_rng=True)`` does not bring
  its sticky actions back.)
- A game begins by restoring the state that its first start left: 0.1 ms instead of the 100 ms of
  loading the ROM again. ``reset_game`` would not do, in 23 games something of the game before
  stays.
- Right after ``reset_game`` the state of a few games (``koolaid``, ``qbert``, ``tetris``,
  ``trondead``) lacks something, so that restoring it gives different games. Each is tried, and
  no-op frames are played until it does not.
- Unless a difficulty is chosen, the switches stay as ALE leaves them, as in Gymnasium. That is
  what the game calls its first one in all games but ``backgammon``, which lists 3 alone and is
  played at 0, to which no console that was once set goes back: it begins on a fresh one.
- ALE's states do not hold the picture. Until the next frame is emulated, ``read`` would give the
  one before: the first picture of a game is kept beside its state. A few games do not draw all of
  each frame, and ALE draws into two buffers in turns. So two frames are drawn whenever a console
  takes a state up: what was played before on it does not show.
- Loading a ROM takes ALE 95 ms of computing (a table of blended colours that nothing here uses),
  during which it holds the interpreter. So consoles are loaded before sessions are opened, those
  of closed sessions are used again, and beginnings are shared by all consoles of a process.
- Sessions that a server runs on one thread share the consoles that are loaded: a
  session that steps and has none takes that of another, drawn at random, whose state is kept
  until it steps again. Both go on as if each had its own, in all games but ``_UNSHARED``. Taking
  costs a third of a millisecond, so that after ``_PAID`` times another console is loaded.
"""

from __future__ import annotations

import atexit
import random
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from ale_py import Action, ALEInterface, ALEState, LoggerMode, roms
from numpy.typing import NDArray

from openenv_async.errors import InvalidOption

__all__ = ["Emulator"]

_KEPT: Final = 32
"""Consoles at most that are kept for sessions to come, unless more were reserved."""

_UNSHARED: Final = frozenset({"tic_tac_toe_3d", "video_checkers"})
"""Games that think for longer than a frame: ALE's states lack something of that, so that what was
played in between shows in their memory."""
_PAID: Final = 500
"""Times that a console is taken from another session until one more is loaded."""
_NO_STICKY: Final = 0.0
_UNTOUCHED: Final = 0
"""The difficulty of a console that was not set."""
_SETTLING: Final = 60
"""No-op frames that a game may need until its state is whole."""
_PROBE: Final = 40
"""Frames in which a state that is not whole shows; those known show in the first."""


@dataclass(frozen=True, slots=True)
class _Start:
    """The beginning of a game in one mode and difficulty."""

    state: ALEState
    pictures: dict[str, NDArray[np.uint8]]
    lives: int


@dataclass(frozen=True, slots=True)
class _Facts:
    """Facts about a game that are the same on all consoles."""

    modes: list[int]
    difficulties: list[int]
    minimal: list[Action]
    full: list[Action]


class Emulator:
    """One session's game on a console.

    Args:
        game: a ROM's id.

    Attributes:
        modes, difficulties: those that the game has.

    Raises:
        InvalidOption: ALE does not play it: ``combat``, ``joust``, ``maze_craze``, ``warlords``.
    """

    _free: ClassVar[dict[str, list[ALEInterface]]] = {}
    _starts: ClassVar[dict[tuple[str, int, int], _Start]] = {}
    _facts: ClassVar[dict[str, _Facts]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()
    _most: ClassVar[int] = _KEPT
    _shares: ClassVar[bool] = False
    _seated: ClassVar[dict[str, list[Emulator]]] = {}
    """Those that have a console which another may take."""
    _taken: ClassVar[Counter[str]] = Counter()
    """Counts of consoles taken since the last was loaded, by game."""
    _draw: ClassVar[random.Random] = random.Random(0)
    """Draws who gives way; nothing that a game shows depends on it."""

    def __init__(self, game: str) -> None:
        self.game = game
        self._console: ALEInterface | None = None
        self._state: ALEState | None = None  # what its console has to take up first
        facts = self._facts.get(game)
        if facts is None:
            facts = self._facts[game] = _facts_of(self._take_console())
        self._of_game = facts
        self.modes, self.difficulties = facts.modes, facts.difficulties

    @classmethod
    def share(cls) -> None:
        """Have sessions take each other's consoles from now on; all run on one thread."""
        cls._shares = True

    @classmethod
    def reserve(cls, game: str, count: int) -> None:
        """Load consoles until ``count`` of them are free.

        Raises:
            InvalidOption: ALE does not play the game.
        """
        with cls._lock:
            cls._most = max(cls._most, count)
        for _ in range(count - len(cls._free.get(game, ()))):
            cls._give(game, _load(game))

    @property
    def ale(self) -> ALEInterface:
        """The console, with this session's game on it; for use at once, as it may be taken."""
        console = self._console
        if console is None:
            console = self._take_console()
        if self._state is not None:
            state, self._state = self._state, None
            console.restoreState(state)
            console.act(Action.NOOP)
            console.act(Action.NOOP)
            console.restoreState(state)
        return console

    def _take_console(self) -> ALEInterface:
        """Take a free console, else another session's, else load one."""
        game = self.game
        with self._lock:
            free = self._free.get(game)
            console = free.pop() if free else None
            shared = self._shares and game not in _UNSHARED
            seated = self._seated.setdefault(game, []) if shared else []
            if console is None and seated:
                if self._taken[game] < _PAID or len(seated) >= self._most:
                    self._taken[game] += 1
                    console = seated.pop(self._draw.randrange(len(seated)))._give_way()
                else:
                    del self._taken[game]
        if console is None:
            console = _load(game)
        self._console = console
        if shared:
            seated.append(self)
        return console

    def _give_way(self) -> ALEInterface:
        console, self._console = self._console, None
        assert console is not None, "it was seated"
        if self._state is None:
            self._state = console.cloneState()
        return console

    def release(self) -> None:
        """Give the console back for the next session of this game; it is not used here any more."""
        console, self._console = self._console, None
        with self._lock:
            seated = self._seated.get(self.game, [])
            if self in seated:
                seated.remove(self)
        if console is not None:
            self._give(self.game, console)

    @classmethod
    def _give(cls, game: str, ale: ALEInterface) -> None:
        with cls._lock:
            free = cls._free.pop(game, [])
            cls._free[game] = [*free, ale]
            if sum(map(len, cls._free.values())) > cls._most:
                longest_ago = next(iter(cls._free))
                cls._free[longest_ago].pop()
                if not cls._free[longest_ago]:
                    del cls._free[longest_ago]

    @classmethod
    def forget(cls) -> None:
        """Drop all consoles that are free, and all beginnings; share no more."""
        with cls._lock:
            cls._free.clear()
            cls._most = _KEPT
            cls._starts.clear()
            cls._seated.clear()
            cls._taken.clear()
            cls._shares = False

    def actions(self, full: bool) -> list[Action]:
        """The action set: all, or those that the game uses."""
        return self._of_game.full if full else self._of_game.minimal

    def start(
        self, mode: int | None, difficulty: int | None, obs_type: str
    ) -> tuple[int, int, int, NDArray[np.uint8]]:
        """Begin a game; ``None`` takes the first mode and leaves the difficulty as ALE does.

        Returns:
            The mode, the difficulty, the lives and what ``read(obs_type)`` should see.

        Raises:
            InvalidOption: the game has no such mode or difficulty.
        """
        mode = self._chosen("mode", mode, self.modes)
        untouched = difficulty is None and _UNTOUCHED not in self.difficulties
        if untouched:
            difficulty = _UNTOUCHED
        else:
            difficulty = self._chosen("difficulty", difficulty, self.difficulties)
        start = self._starts.get((self.game, mode, difficulty))
        if start is None:
            if untouched:
                self.ale  # noqa: B018  # one that another may take
                self._console = _load(self.game)
            else:
                self.ale.setDifficulty(difficulty)
            self.ale.setMode(mode)
            self.ale.reset_game()
            start = self._starts[self.game, mode, difficulty] = self._settled()
        self._state = start.state
        picture = start.pictures["grayscale" if obs_type == "resized" else obs_type]
        return mode, difficulty, start.lives, picture.copy()

    def _settled(self) -> _Start:
        """A beginning that can be gone back to, as it is now or some no-op frames later."""
        for _ in range(_SETTLING):
            pictures = {each: self.read(each) for each in ("rgb", "grayscale", "ram")}
            lives = self.ale.lives()
            state = self.ale.cloneState()
            traces = []
            for other in (1, 2):  # what was played before must not matter
                self._probe(other)
                self.ale.restoreState(state)
                traces.append(self._probe(0))
            if traces[0] == traces[1]:
                break
            self.ale.restoreState(state)
            self.ale.act(Action.NOOP)
        return _Start(state, pictures, lives)

    def _probe(self, seed: int) -> list[bytes]:
        rng, actions = random.Random(seed), self.actions(full=False)
        trace = []
        for _ in range(_PROBE):
            self.ale.act(rng.choice(actions))
            trace.append(self.ale.getRAM().tobytes())
        return trace

    def _chosen(self, name: str, value: int | None, known: list[int]) -> int:
        if value is None:
            return known[0]
        if value not in known:
            has = ", ".join(map(str, known))
            raise InvalidOption(f"{self.game} has no {name} {value}: it has {has}", option=name)
        return value

    def read(self, obs_type: str) -> NDArray[np.uint8]:
        """The picture (rgb or grayscale) or the memory, as it is after the last frame."""
        pixels: Any
        match obs_type:
            case "rgb":
                pixels = self.ale.getScreenRGB()
            case "ram":
                pixels = self.ale.getRAM()
            case _:
                pixels = self.ale.getScreenGrayscale()
        return pixels  # type: ignore[no-any-return]  # uint8, by ale-py

    def save(self) -> bytes:
        """The console's state, about 14 KB."""
        return bytes(self.ale.cloneState().serialize())

    def load(self, state: bytes) -> None:
        """Go back to what ``save`` gave."""
        self._state = ALEState(state)


atexit.register(Emulator.forget)  # nanobind complains of what is left at the end


def _facts_of(ale: ALEInterface) -> _Facts:
    return _Facts(
        modes=[int(mode) for mode in ale.getAvailableModes()],
        difficulties=[int(difficulty) for difficulty in ale.getAvailableDifficulties()],
        minimal=list(ale.getMinimalActionSet()),
        full=list(ale.getLegalActionSet()),
    )


def _load(game: str) -> ALEInterface:
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", _NO_STICKY)
    ale.setInt("max_num_frames_per_episode", 0)
    rom = roms.get_rom_path(game)
    if rom is None or ALEInterface.isSupportedROM(rom) is None:
        raise InvalidOption(
            f"ALE has the ROM of {game} but does not play it: it takes two players",
            option="game_name",
        )
    ale.loadROM(rom)
    return ale
