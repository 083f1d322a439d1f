"""The environment: what is played, seen, rewarded and kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
from ale_py import roms
from atari_env import AtariAction, AtariObservation
from atari_env.emulator import Emulator
from atari_env.environment import AtariEnvironment
from atari_env.settings import reserved

from openenv_async import StepResult
from openenv_async.errors import InvalidAction, InvalidOption

gymnasium.register_envs(ale_py)
Trace = list[tuple[bytes, float | None, bool, bool, int]]


def row(result: StepResult[AtariObservation]) -> tuple[bytes, float | None, bool, bool, int]:
    seen = result.observation
    return (seen.screen.tobytes(), result.reward, result.terminated, result.truncated, seen.lives)


def play(env: AtariEnvironment, actions: list[int], seed: int = 0, **options: Any) -> Trace:
    trace = [row(env.reset(seed=seed, **options))]
    for action in actions:
        result = env.step(AtariAction(action))
        trace.append(row(result))
        if result.done:
            break
    return trace


def moves(count: int, actions: int = 4) -> list[int]:
    rng = random.Random(count)
    return [rng.randrange(actions) for _ in range(count)]


@pytest.mark.parametrize("obs_type", ["rgb", "grayscale", "ram"])
def test_it_plays_as_gymnasium_does(obs_type: str) -> None:
    theirs = gymnasium.make(
        "ALE/SpaceInvaders-v5", obs_type=obs_type, frameskip=4, repeat_action_probability=0.0
    )
    expected: list[tuple[bytes, float | None, bool, int]] = []
    screen, info = theirs.reset(seed=3)
    expected.append((screen.tobytes(), None, False, info["lives"]))
    for action in moves(200, 6):
        screen, reward, terminated, _, info = theirs.step(action)
        expected.append((screen.tobytes(), float(reward), terminated, info["lives"]))
        if terminated:
            break
    theirs.close()
    ours = play(AtariEnvironment(game_name="space_invaders"), moves(200, 6), obs_type=obs_type)
    assert [(screen, reward, end, lives) for screen, reward, end, _, lives in ours] == expected
    assert any(reward for _, reward, *_ in ours)


def test_a_difficulty_that_nobody_chose_is_that_of_gymnasium() -> None:
    """Backgammon lists 3 alone, and is played at 0."""
    theirs = gymnasium.make("ALE/Backgammon-v5", frameskip=4, repeat_action_probability=0.0)
    env = AtariEnvironment(game_name="backgammon")
    hard = play(env, moves(60, 3), difficulty=3)
    for _ in range(2):  # also after games at 3, on whatever console
        screens = [theirs.reset()[0].tobytes()]
        screens += [theirs.step(action)[0].tobytes() for action in moves(60, 3)]
        ours = play(env, moves(60, 3))
        assert [screen for screen, *_ in ours] == screens
        assert env.state().difficulty == 0
        assert ours != hard
        assert play(env, moves(60, 3), difficulty=3) == hard
        env.close()
        env = AtariEnvironment(game_name="backgammon")
    theirs.close()


FOR_TWO = ("combat", "joust", "maze_craze", "warlords")


@pytest.mark.heavy
@pytest.mark.parametrize("game", [rom for rom in roms.get_all_rom_ids() if rom not in FOR_TWO])
def test_every_rom_can_be_played(game: str) -> None:
    check_game(game)


@pytest.mark.parametrize("game", ["adventure", "breakout", "freeway", "qbert", "tetris"])
def test_games_can_be_played(game: str) -> None:
    check_game(game)


@pytest.mark.parametrize("game", FOR_TWO)
def test_games_for_two_players_are_refused(game: str) -> None:
    with pytest.raises(InvalidOption, match="it takes two players"):
        AtariEnvironment(game_name=game)


def check_game(game: str) -> None:
    env = AtariEnvironment(game_name=game)
    first = env.reset(seed=1).observation
    assert first.screen.dtype == np.uint8
    assert first.screen.shape[1:] == (160, 3)
    assert 210 <= first.screen.shape[0] <= 250
    actions = moves(25, len(first.legal_actions))
    alone = play(AtariEnvironment(game_name=game), actions)
    play(env, moves(40, len(first.legal_actions)))
    assert play(env, actions) == alone  # whatever was played before
    play(env, moves(10, len(first.legal_actions)))
    saved = env.snapshot()
    after = [row(env.step(AtariAction(0))) for _ in range(5)]
    play(env, moves(30, len(first.legal_actions)))
    env.restore(saved)
    assert [row(env.step(AtariAction(0))) for _ in range(5)] == after
    small = env.reset(obs_type="resized").observation
    assert small.screen.shape == (4, 84, 84)
    assert small.screen_shape == [4, 84, 84]


def test_a_stack_holds_the_last_frames() -> None:
    env = AtariEnvironment(game_name="breakout", obs_type="resized")
    first = env.reset(seed=0).observation.screen
    assert all(np.array_equal(first[0], frame) for frame in first)
    env.step(AtariAction(1))
    before = env.step(AtariAction(1)).observation.screen
    after = env.step(AtariAction(2)).observation.screen
    assert np.array_equal(after[:-1], before[1:])
    assert not np.array_equal(after[-1], before[-1])
    stacked = env.reset(obs_type="grayscale", frame_stack=2).observation
    assert stacked.screen.shape == (2, 210, 160)


def test_pooling_takes_the_brighter_of_the_last_two_frames() -> None:
    pooled = AtariEnvironment(game_name="asteroids", obs_type="grayscale", max_pool=True)
    single = AtariEnvironment(game_name="asteroids", obs_type="grayscale", frameskip=1)
    pooled.reset(seed=0)
    single.reset(seed=0)
    flickered = 0
    for action in moves(40):
        got = pooled.step(AtariAction(action)).observation.screen
        frames = [single.step(AtariAction(action)).observation.screen for _ in range(4)]
        assert np.array_equal(got, np.maximum(frames[2], frames[3]))
        flickered += not np.array_equal(got, frames[3])
    assert flickered > 5


def test_no_op_starts_are_drawn_from_the_seed() -> None:
    env = AtariEnvironment(noop_max=30)
    lengths = [env.reset(seed=seed).observation.episode_frame_number for seed in range(20)]
    assert lengths == [env.reset(seed=seed).observation.episode_frame_number for seed in range(20)]
    assert min(lengths) >= 1
    assert max(lengths) <= 30
    assert len(set(lengths)) > 5
    assert env.reset(seed=0, noop_max=0).observation.episode_frame_number == 0


def test_sticky_actions_follow_the_seed() -> None:
    env = AtariEnvironment(game_name="breakout", repeat_action_probability=0.25)
    actions = [1, *moves(80)]
    assert play(env, actions, seed=4) == play(env, actions, seed=4)
    assert play(env, actions, seed=4) != play(env, actions, seed=5)
    assert play(env, actions, 4, repeat_action_probability=0.0) == play(
        env, actions, 5, repeat_action_probability=0.0
    )
    never = play(env, actions, repeat_action_probability=1.0)  # the first no-op is never left
    assert never == play(env, [0] * len(actions), repeat_action_probability=1.0)


def breakout_until_a_life_is_lost(**options: Any) -> StepResult[AtariObservation]:
    env = AtariEnvironment(game_name="breakout", **options)
    env.reset(seed=0)
    for _ in range(200):
        result = env.step(AtariAction(1))
        if result.observation.lives < 5:
            return result
    raise AssertionError("no life was lost")


def test_a_lost_life_ends_the_episode_only_when_asked_to() -> None:
    assert not breakout_until_a_life_is_lost().done
    for option in ("terminal_on_life_loss", "restart_on_life_loss"):
        lost = breakout_until_a_life_is_lost(**{option: True})
        assert lost.terminated
        assert not lost.truncated
        assert lost.info["game_over"] is False
    with pytest.raises(InvalidOption, match="set one of them"):
        AtariEnvironment(terminal_on_life_loss=True, restart_on_life_loss=True)


def their_atari(game: str, fire: bool) -> Any:
    """The wrappers of Stable-Baselines3, without its picture of 84 × 84."""
    from stable_baselines3.common import atari_wrappers as wrappers

    env: Any = gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0)
    env = wrappers.EpisodicLifeEnv(wrappers.MaxAndSkipEnv(env, skip=4))
    return wrappers.FireResetEnv(env) if fire else env


@pytest.mark.parametrize(
    ("game", "fire", "steps"),
    [
        ("Breakout", True, 700),
        ("SpaceInvaders", True, 900),
        ("Breakout", False, 700),
        ("MsPacman", False, 900),
    ],
)
def test_an_episode_of_one_life_is_that_of_the_literature(
    game: str, fire: bool, steps: int
) -> None:
    """Pictures, rewards and ends are those of Stable-Baselines3, over lives and whole games."""
    theirs = their_atari(game, fire)
    ours = AtariEnvironment(
        game_name=game, max_pool=True, terminal_on_life_loss=True, fire_reset=fire
    )
    count = len(ours.state().action_meanings)
    screen, _ = theirs.reset(seed=0)
    seen = ours.reset(seed=0).observation
    games = lives = 0
    for action in moves(steps, count):
        assert np.array_equal(seen.screen, screen)
        screen, reward, terminated, _, info = theirs.step(action)
        result = ours.step(AtariAction(action))
        seen = result.observation
        assert (result.reward, result.terminated) == (reward, terminated)
        assert seen.lives == info["lives"]
        if terminated:
            assert result.info["game_over"] is theirs.unwrapped.ale.game_over()
            games, lives = games + result.info["game_over"], lives + 1
            screen, _ = theirs.reset()
            seen = ours.reset().observation
    theirs.close()
    assert lives > games >= 1


def test_only_the_game_itself_ends_the_last_life() -> None:
    env = AtariEnvironment(game_name="qbert", terminal_on_life_loss=True)
    env.reset(seed=0)
    ends = []
    for action in moves(900, 6):
        result = env.step(AtariAction(action))
        if result.done:
            ends.append((result.observation.lives > 0, result.info["game_over"]))
            env.reset()
    assert set(ends) == {(True, False), (False, True)}


def test_a_game_is_lost_life_by_life_and_its_score_goes_on() -> None:
    env = AtariEnvironment(game_name="breakout", terminal_on_life_loss=True, clip_reward=True)
    lives: list[int] = []
    scores: list[float] = []
    raw = 0.0
    env.reset(seed=0)
    while len(lives) < 12:
        result = env.step(AtariAction(random.Random(len(scores) + int(raw)).randrange(1, 4)))
        raw += result.info["raw_reward"]
        scores.append(result.info["game_score"])
        if result.done:
            lives.append(result.observation.lives)
            assert result.info["game_over"] is (lives[-1] == 0)
            began = env.reset()
            assert began.info["game_score"] == (0.0 if lives[-1] == 0 else scores[-1])
            assert began.observation.lives == (lives[-1] or 5)
            assert env.state().score == began.info["game_score"]
    assert lives == [4, 3, 2, 1, 0, 4, 3, 2, 1, 0, 4, 3]
    assert raw > max(scores) > 0  # of three games, and of the best one


def lost_life(**options: Any) -> AtariEnvironment:
    env = AtariEnvironment(game_name="breakout", **options)
    env.reset(seed=0)
    while not env.step(AtariAction(1)).done:
        pass
    return env


def test_what_begins_a_new_game_after_a_lost_life() -> None:
    assert lost_life(terminal_on_life_loss=True).reset(seed=3).observation.lives == 4
    for env, options in (
        (lost_life(restart_on_life_loss=True), {}),
        (lost_life(terminal_on_life_loss=True), {"new_game": True}),
        (lost_life(terminal_on_life_loss=True), {"mode": 4}),
        (lost_life(terminal_on_life_loss=True), {"game_name": "space_invaders"}),
        (lost_life(terminal_on_life_loss=True), {"terminal_on_life_loss": False}),
    ):
        began = env.reset(**options)
        assert began.observation.lives == (3 if "game_name" in options else 5), options
        assert began.info["game_score"] == 0.0
    env = lost_life(terminal_on_life_loss=True)
    env.reset()
    env.step(AtariAction(1))
    assert env.reset().observation.lives == 5  # given up, not lost


def test_a_game_goes_on_from_a_snapshot_of_a_lost_life() -> None:
    env = lost_life(terminal_on_life_loss=True)
    saved = env.snapshot()
    other = AtariEnvironment(game_name="breakout", terminal_on_life_loss=True)
    other.restore(saved)
    assert row(other.reset(seed=1)) == row(env.reset(seed=1))
    assert env.reset().observation.lives == 5


def test_the_limit_of_frames_is_one_of_the_game() -> None:
    env = AtariEnvironment(
        game_name="breakout", terminal_on_life_loss=True, max_num_frames_per_episode=400
    )
    frames: list[int] = []
    ends: list[tuple[bool, bool, bool]] = []
    env.reset(seed=0)
    while len(ends) < 8:
        result = env.step(AtariAction(1))
        frames.append(result.observation.episode_frame_number)
        if result.done:
            ends.append((result.terminated, result.truncated, result.info["game_over"]))
            env.reset()
    assert (True, False, False) in ends
    assert (False, True, False) in ends
    assert max(frames) == 400


def test_a_game_that_waits_for_fire_is_begun() -> None:
    env = AtariEnvironment(game_name="breakout")
    waiting = [env.reset(seed=0), *(env.step(AtariAction(0)) for _ in range(60))]
    assert waiting[-1].observation.lives == 5  # no ball
    fired = AtariEnvironment(game_name="breakout", fire_reset=True)
    assert fired.reset(seed=0).observation.episode_frame_number == 8
    results = [fired.step(AtariAction(0)) for _ in range(60)]
    assert results[-1].observation.lives < 5
    without = AtariEnvironment(game_name="freeway", fire_reset=True)  # it has no FIRE
    assert without.reset(seed=0).observation.episode_frame_number == 0


def test_the_game_is_over_or_cut_off() -> None:
    env = AtariEnvironment(game_name="breakout")
    over = play(env, [1] * 2000)
    assert over[-1][2:] == (True, False, 0)
    cut = play(env, [0] * 100, max_num_frames_per_episode=30)
    assert cut[-1][2:4] == (False, True)
    assert len(cut) == 1 + 8  # the eighth step reaches the limit in its second frame
    assert env.step(AtariAction(0)).observation.episode_frame_number > 30


def test_rewards_are_the_games_or_their_sign() -> None:
    env = AtariEnvironment(game_name="ms_pacman", clip_reward=True)
    env.reset(seed=0)
    results = [env.step(AtariAction(3)) for _ in range(120)]
    assert {result.reward for result in results} == {0.0, 1.0}
    raw = [result.info["raw_reward"] for result in results]
    assert max(raw) == 10.0
    assert env.state().score == sum(raw)
    plain = play(env, [3] * 120, clip_reward=False)
    assert [reward for _, reward, *_ in plain[1:]] == raw


@pytest.mark.parametrize("action_id", [-1, 4, 17])
def test_an_action_outside_the_set_costs_nothing(action_id: int) -> None:
    env = AtariEnvironment(game_name="breakout")
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="it must be from 0 to 3"):
        env.step(AtariAction(action_id))
    assert env.step(AtariAction(0)).observation.episode_frame_number == 4
    full = env.reset(full_action_space=True).observation
    assert full.legal_actions == list(range(18))
    assert env.step(AtariAction(17)).observation.episode_frame_number == 4


def test_modes_and_difficulties_are_switched_and_checked() -> None:
    env = AtariEnvironment(game_name="breakout")
    state = env.state()
    assert (state.mode, state.difficulty) == (0, 0)
    assert state.action_meanings == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    ordinary = play(env, [1, *moves(60)])
    assert play(env, [1, *moves(60)], mode=12, difficulty=1) != ordinary
    assert (env.state().mode, env.state().difficulty) == (12, 1)
    assert play(env, [1, *moves(60)]) == ordinary
    with pytest.raises(InvalidOption, match="breakout has no mode 3: it has 0, 4"):
        env.reset(mode=3)


def test_a_reset_option_holds_for_its_episode() -> None:
    env = AtariEnvironment()
    assert env.reset(game_name="SpaceInvaders").observation.lives == 3
    assert env.state().game_name == "space_invaders"
    env.reset()
    assert env.state().game_name == "pong"


@pytest.mark.parametrize(
    "options", [{}, {"repeat_action_probability": 0.25, "obs_type": "resized"}]
)
def test_a_snapshot_goes_on_alike_here_and_elsewhere(options: dict[str, Any]) -> None:
    env = AtariEnvironment(game_name="breakout", mode=4, **options)
    play(env, [1, *moves(30)], seed=9)
    saved = env.snapshot()

    def go_on(env: AtariEnvironment) -> Trace:
        return [row(env.step(AtariAction(action))) for action in moves(50)]

    expected = go_on(env)
    env.restore(saved)
    assert go_on(env) == expected
    other = AtariEnvironment()
    play(other, [1, 2, 3])
    other.restore(saved)
    assert other.state().mode == 4
    assert go_on(other) == expected
    forks = [AtariEnvironment() for _ in range(2)]
    for fork in forks:
        fork.restore(saved)
    turns = [
        [row(fork.step(AtariAction(action))) for fork in forks] for action in moves(50)
    ]  # interleaved
    assert [list(trace) for trace in zip(*turns, strict=True)] == [expected, expected]


def test_what_is_no_snapshot_is_told() -> None:
    env = AtariEnvironment()
    for bad in (b"", b"\x00" * 10, env.snapshot()[:-20]):
        with pytest.raises(InvalidOption, match="not a snapshot of atari"):
            env.restore(bad)
    play(env, moves(3))


@pytest.mark.parametrize("game", ["pong", "montezuma_revenge", "berzerk", "qbert"])
def test_a_console_that_was_used_plays_as_a_new_one(game: str) -> None:
    Emulator.forget()
    first = AtariEnvironment(game_name=game)
    actions = moves(80, 3)
    console, fresh = first._emulator.ale, play(first, actions)
    first.close()
    other = AtariEnvironment(game_name=game)
    assert other._emulator.ale is console
    for _ in range(50):
        other.step(AtariAction(1))
    assert play(other, actions) == fresh
    beside = AtariEnvironment(game_name=game)  # with a console of its own
    assert beside._emulator.ale is not console
    assert play(beside, actions) == fresh
    other.close()
    beside.close()


def test_consoles_are_loaded_before_sessions_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    Emulator.forget()
    AtariEnvironment.prepare_process(3, game_name="breakout")
    loaded: list[str] = []
    monkeypatch.setattr("atari_env.emulator._load", loaded.append)
    made = [AtariEnvironment(game_name="breakout") for _ in range(3)]
    assert len({id(each._emulator.ale) for each in made}) == 3
    assert loaded == []
    for each in made:
        each.close()


def test_a_server_may_load_more_consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("atari_env.emulator._load", loaded.append)
    Emulator.forget()
    try:
        Emulator.reserve("pong", 40)
        assert len(Emulator._free["pong"]) == 40
    finally:
        Emulator.forget()
    assert reserved({"ATARI_CONSOLES": "66"}) == 66
    assert reserved({}) == 20
    for wrong in ("many", "-1", "5000"):
        with pytest.raises(InvalidOption, match=f"ATARI_CONSOLES={wrong}"):
            reserved({"ATARI_CONSOLES": wrong})


@pytest.fixture
def sharing() -> Iterator[None]:
    """One console, as a server has them: for all sessions."""
    Emulator.forget()
    Emulator.share()
    yield
    Emulator.forget()


def check_shared(game: str, steps: int) -> None:
    """Sessions of one console play as each would on its own; they meet ends and begin again."""
    loaded = []
    traces: list[Trace] = []
    for shared in (False, True):
        Emulator.forget()
        if shared:
            Emulator.share()
        envs = [AtariEnvironment(game_name=game) for _ in range(3)]
        rng = random.Random(steps)
        trace = [row(env.reset(seed=0)) for env in envs]
        for _ in range(steps):
            env = rng.choice(envs)
            result = env.step(AtariAction(rng.choice(env._legal)))
            trace.append(row(result))
            if result.done:
                trace.append(row(env.reset()))
        traces.append(trace)
        loaded.append(len({id(env._emulator._console) for env in envs} - {id(None)}))
        for env in envs:
            env.close()
    assert traces[1] == traces[0]
    assert loaded[0] == 3 > loaded[1]


@pytest.mark.parametrize("game", ["breakout", "qbert", "tetris"])
def test_sessions_share_a_console(game: str, sharing: None) -> None:
    check_shared(game, 60)


APART = ("tic_tac_toe_3d", "video_checkers")


@pytest.mark.heavy
@pytest.mark.parametrize(
    "game", [rom for rom in roms.get_all_rom_ids() if rom not in FOR_TWO + APART]
)
def test_sessions_of_every_rom_share_a_console(game: str, sharing: None) -> None:
    check_shared(game, 300)


def test_games_whose_states_lack_something_are_not_shared(sharing: None) -> None:
    envs = [AtariEnvironment(game_name="tic_tac_toe_3d") for _ in range(2)]
    for env in envs:
        env.step(AtariAction(0))
    assert None not in {env._emulator._console for env in envs}


def test_an_opening_loads_nothing_after_the_first(
    sharing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = AtariEnvironment(game_name="breakout")
    first.step(AtariAction(1))
    loaded: list[str] = []
    monkeypatch.setattr("atari_env.emulator._load", loaded.append)
    others = [AtariEnvironment(game_name="breakout", fire_reset=True) for _ in range(30)]
    for env in [*others, first]:
        env.reset(seed=1)
        env.step(AtariAction(2))
    assert loaded == []
    for env in [*others, first]:
        env.close()
    assert len(Emulator._free["breakout"]) == 1
    assert Emulator._seated["breakout"] == []


def test_a_console_that_is_taken_often_gets_company(
    sharing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atari_env.emulator._PAID", 20)
    envs = [AtariEnvironment(game_name="breakout", frameskip=1, obs_type="ram") for _ in range(3)]
    consoles = []
    for rounds in (5, 15):
        for _ in range(rounds):
            for env in envs:
                env.step(AtariAction(0))
        consoles.append(len(Emulator._seated["breakout"]))
    assert consoles[0] == 1 < consoles[1]


def test_a_game_that_is_over_keeps_its_picture(sharing: None) -> None:
    env, other = (AtariEnvironment(game_name="breakout") for _ in range(2))
    env.reset()
    while not (last := env.step(AtariAction(1))).done:
        pass
    for _ in range(10):
        other.step(AtariAction(1))
    after = env.step(AtariAction(1))
    assert np.array_equal(after.observation.screen, last.observation.screen)
    assert (after.terminated, after.reward) == (True, 0.0)


def test_a_bounded_number_of_consoles_is_kept() -> None:
    Emulator.forget()
    for game in ("pong", "breakout"):
        Emulator.reserve(game, 20)
    assert {game: len(free) for game, free in Emulator._free.items()} == {
        "pong": 12,
        "breakout": 20,
    }
    Emulator.forget()
