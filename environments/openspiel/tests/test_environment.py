"""Players, opponents, rewards, refusals, snapshots."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyspiel
import pytest
from openspiel_env import RANDOM_ACTION, OpenSpielAction, OpenSpielObservation, trial
from openspiel_env.environment import OpenSpielEnvironment
from openspiel_env.policies import catch, tic_tac_toe
from openspiel_env.settings import VARIABLES, Settings, declared_isolation
from openspiel_env.words import NotAMove, find_move

from openenv_async import StepResult
from openenv_async.errors import InvalidAction, InvalidOption

ANY = OpenSpielAction(RANDOM_ACTION)
Row = tuple[bytes, float | None, bool, list[int], int, list[float], str]


def row(result: StepResult[OpenSpielObservation]) -> Row:
    seen = result.observation
    return (
        seen.info_state.tobytes(),
        result.reward,
        result.terminated,
        seen.legal_actions,
        seen.current_player_id,
        seen.rewards,
        seen.text,
    )


def mean_return(env: OpenSpielEnvironment, policy: Any, episodes: int) -> float:
    total = 0.0
    for seed in range(episodes):
        result = env.reset(seed=seed)
        while not result.done:
            result = env.step(policy(result.observation))
            total += result.reward or 0.0
    return total / episodes


def test_catch_is_caught() -> None:
    env = OpenSpielEnvironment()
    assert mean_return(env, catch, 50) == 1.0
    assert mean_return(env, lambda observation: ANY, 50) < 0.0


@pytest.mark.parametrize(
    "game", ["tic_tac_toe", "connect_four", "chess", "backgammon", "goofspiel", "kuhn_poker"]
)
def test_what_is_legal_is_told_of_the_player_who_moves(game: str) -> None:
    """Also where chance moves between, and where players move at once."""
    env = OpenSpielEnvironment(game_name=game, opponent_policy="self", max_steps=40)
    result = env.reset(seed=1)
    rng = random.Random(0)
    players = set()
    while not result.done:
        told = [action.action_id for action in env.legal_actions()]
        assert told == result.observation.legal_actions
        assert told
        players.add(result.observation.current_player_id)
        result = env.step(OpenSpielAction(rng.choice(told)))
    assert players == {0, 1}


def test_a_move_that_is_refused_carries_what_makes_the_return_the_worst() -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe")
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="not legal") as caught:
        env.step(OpenSpielAction(9))
    assert caught.value.detail["reward"] == -1.0
    env = OpenSpielEnvironment(game_name="pig(winscore=10)", opponent_policy="self")
    env.reset(seed=0)
    with pytest.raises(InvalidAction) as caught:
        env.step(OpenSpielAction(5))
    assert caught.value.detail["reward"] == pyspiel.load_game("pig").min_utility()


def test_a_restored_game_tells_what_is_legal_there() -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe")
    env.reset(seed=0)
    env.step(ANY)
    again = OpenSpielEnvironment(game_name="tic_tac_toe")
    again.restore(env.snapshot())
    assert again.legal_actions() == env.legal_actions() != []


@pytest.mark.parametrize("agent_player", [0, 1])
def test_tic_tac_toe_is_played_well(agent_player: int) -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe", agent_player=agent_player)
    good = mean_return(env, tic_tac_toe, 60)
    chance = mean_return(env, lambda observation: ANY, 60)
    assert good > chance + 0.4


def test_mcts_is_an_opponent_that_wins() -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe", opponent_policy="mcts")
    assert mean_return(env, lambda observation: ANY, 12) <= -0.5
    traces = []
    for _ in range(2):
        result = env.reset(seed=3)
        traces.append([row(result)])
        while not result.done:
            result = env.step(ANY)
            traces[-1].append(row(result))
    assert traces[0] == traces[1]


@pytest.mark.parametrize(("policy", "index"), [("first", 0), ("middle", 4), ("last", -1)])
def test_plain_opponents(policy: str, index: int) -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe", opponent_policy=policy)
    first = env.reset(seed=0).observation
    assert first.opponent_last_action is None
    assert (first.game_phase, first.current_player_id) == ("initial", 0)
    seen = env.step(OpenSpielAction(4)).observation
    left = [cell for cell in range(9) if cell != 4]
    assert seen.opponent_last_action == left[index]
    assert (seen.game_phase, seen.current_player_id) == ("playing", 0)
    assert seen.legal_actions == [cell for cell in left if cell != left[index]]


def stubborn(state: pyspiel.State, player: int, rng: random.Random) -> int:
    """An opponent from the outside."""
    return int(max(state.legal_actions(player)))


def test_a_callable_may_be_the_opponent() -> None:
    for policy in (stubborn, f"{__name__}:stubborn"):
        env = OpenSpielEnvironment(game_name="connect_four", opponent_policy=policy)
        env.reset()
        assert env.step(OpenSpielAction(0)).observation.opponent_last_action == 6
        assert env.state().opponent_policy == "stubborn"
    cheat = OpenSpielEnvironment(
        game_name="connect_four", opponent_policy=lambda state, player, rng: 99
    )
    cheat.reset()
    with pytest.raises(ValueError, match="chose 99, which is not legal"):
        cheat.step(ANY)


def test_the_agent_may_sit_anywhere() -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe", agent_player=1, opponent_policy="first")
    seen = env.reset().observation
    assert (seen.current_player_id, seen.opponent_last_action) == (1, 0)


def test_players_of_one_episode_take_turns() -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe", opponent_policy="self")
    result = env.reset()
    turns = []
    for cell in (0, 3, 1, 4, 2):
        turns.append(result.observation.current_player_id)
        result = env.step(OpenSpielAction(cell))
    assert turns == [0, 1, 0, 1, 0]
    assert result.terminated
    assert result.observation.rewards == [1.0, -1.0]
    assert result.reward == 1.0  # of player 0, who moved
    assert env.state().agent_player is None


def test_simultaneous_moves_are_hidden_until_all_are_in() -> None:
    env = OpenSpielEnvironment(game_name="matrix_rps", opponent_policy="self")
    first = env.reset()
    states = []
    for choice in (0, 1, 2):
        env.reset()
        result = env.step(OpenSpielAction(choice))
        seen = result.observation
        assert (seen.current_player_id, seen.rewards, result.done) == (1, [0.0, 0.0], False)
        assert seen.opponent_last_action is None
        states.append(seen.info_state.tobytes())
    assert len(set(states)) == 1
    assert first.observation.current_player_id == 0
    result = env.step(OpenSpielAction(0))  # rock against scissors
    assert result.terminated
    assert result.observation.rewards == [-1.0, 1.0]
    assert result.reward == 1.0


def test_in_simultaneous_games_opponents_move_too() -> None:
    env = OpenSpielEnvironment(
        game_name="goofspiel", game_params={"players": 3, "num_cards": 4}, agent_player=1
    )
    result = env.reset(seed=2)
    total = 0.0
    while not result.done:
        assert result.observation.current_player_id == 1
        result = env.step(ANY)
        total += result.reward or 0.0
    assert total == env.state().returns[1]
    assert env.state().num_players == 3
    assert env.state().game_params["num_cards"] == 4


@pytest.mark.parametrize("action_id", [0, 9, -2])
def test_an_illegal_move_costs_nothing(action_id: int) -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe", opponent_policy="first")
    env.reset(seed=0)
    before = env.step(OpenSpielAction(4)).observation.legal_actions
    with pytest.raises(InvalidAction, match=r"not legal for player 0 of tic_tac_toe now: take one"):
        env.step(OpenSpielAction(action_id))
    assert env.state().moves == 2
    assert env.step(OpenSpielAction(before[0])).observation.legal_actions == before[2:]


def test_the_episode_may_be_cut_off() -> None:
    env = OpenSpielEnvironment(game_name="chess", max_steps=2)
    env.reset(seed=0)
    assert not env.step(ANY).done
    cut = env.step(ANY)
    assert (cut.terminated, cut.truncated) == (False, True)


def test_words_on_request() -> None:
    env = OpenSpielEnvironment(game_name="kuhn_poker")
    seen = env.reset(seed=0).observation
    assert (seen.text, seen.legal_moves) == ("", [])
    seen = env.reset(seed=0, text=True).observation
    assert seen.legal_moves == ["Pass", "Bet"]
    lines = seen.text.splitlines()
    assert lines[0] == "kuhn_poker: you are player 0 of 2."
    assert lines[2] in {"0", "1", "2"}  # the information state: one's card
    assert lines[-3:-1] == ["0: Pass", "1: Bet"]


def test_words_tell_the_board_and_what_the_other_did() -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe", opponent_policy="first", text=True)
    env.reset(seed=0)
    result = env.step(OpenSpielAction(move="x(1,1)"))
    assert result.observation.text == (
        "tic_tac_toe: you are player 0 of 2.\n"
        "Player 1 played o(0,0).\n\n"
        "o..\n.x.\n...\n\n"
        "Legal moves (number: name):\n"
        "1: x(0,1)\n2: x(0,2)\n3: x(1,0)\n5: x(1,2)\n6: x(2,0)\n7: x(2,1)\n8: x(2,2)\n"
        "Answer with the name or the number of one of them."
    )
    assert result.info["legal_actions"][0] == {"move": "x(0,1)"}
    for move in ("x(0,2)", "X(2,0)"):
        result = env.step(OpenSpielAction(move=move))
    assert result.observation.text.endswith("The game is over. You got 1 (player 1: -1)")
    assert result.info == {}


def test_simultaneous_choices_are_said_to_be_so() -> None:
    env = OpenSpielEnvironment(game_name="matrix_rps", opponent_policy="self", text=True)
    first = env.reset().observation
    assert "All players choose at the same time." in first.text
    second = env.step(OpenSpielAction(move="rock")).observation
    assert second.current_player_id == 1
    assert "Rock" in second.legal_moves
    assert (
        second.text.replace("player 1", "player 0").replace("player: 1", "player: 0") == first.text
    )


@pytest.mark.parametrize(
    "move",
    ["x(1,1)", " X(1,1) ", "4", "4: x(1,1)", "4 :X(1,1)"],
)
def test_a_move_is_found_by_its_name(move: str) -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe", opponent_policy="self")
    env.reset()
    assert 4 not in env.step(OpenSpielAction(move=move)).observation.legal_actions


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (OpenSpielAction(move="x(3,3)"), r"move 'x\(3,3\)' is not a legal move for player 0"),
        (OpenSpielAction(move="4: x(0,0)"), "is not a legal move"),
        (OpenSpielAction(move="-1"), "is not a legal move"),
        (OpenSpielAction(move="9" * 5000), "is not a legal move"),
        (OpenSpielAction(move=""), "is not a legal move"),
        (OpenSpielAction(0, "x(1,1)"), "are two moves"),
        (OpenSpielAction(), "without action_id and move"),
    ],
)
def test_what_names_no_move_is_a_mistake(action: OpenSpielAction, message: str) -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe", text=True)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=message) as caught:
        env.step(action)
    assert caught.value.message.endswith("x(2,2) (8)")
    assert caught.value.detail["reward"] == -1.0
    assert env.state().moves == 0


def test_a_name_of_two_moves_is_refused_and_listed_with_its_number() -> None:
    assert find_move("a", [3, 5], ["a", "b"]) == 3
    assert find_move("5", [3, 5], ["5", "b"]) == 3  # a name before a number
    with pytest.raises(NotAMove, match="the name of 2 moves"):
        find_move("a", [3, 5], ["a", "a"])
    assert find_move("5: a", [3, 5], ["a", "a"]) == 5


def test_each_player_has_its_own_policy() -> None:
    env = OpenSpielEnvironment(
        game_name="goofspiel(players=4,num_cards=5,imp_info=False)",
        agent_player=1,
        opponent_policy="last",
        opponents={"0": "first", "3": "self"},
    )
    seen = env.reset(seed=0).observation
    assert env.state().played_by == ["first", "self", "last", "self"]
    assert seen.current_player_id == 1
    seen = env.step(OpenSpielAction(2)).observation
    assert seen.current_player_id == 3
    seen = env.step(OpenSpielAction(3)).observation
    assert seen.current_player_id == 1
    saved = env.snapshot()
    other = OpenSpielEnvironment()
    other.restore(saved)
    assert other.state() == env.state()
    assert other.state().agent_player == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opponents": {"2": "random"}}, "has 2 players: opponents must be below, got 2"),
        ({"opponents": {"x": "random"}}, "opponents must be below, got x"),
        ({"opponents": {"0": "random"}}, "whom the client plays"),
        ({"opponents": {"1": "clever"}}, r"no opponents\['1'\] 'clever'"),
        ({"opponent_policy": "is_mcts", "game_name": "dark_hex"}, "can draw what is hidden"),
        ({"opponent_policy": "cfr", "game_name": "matrix_rps"}, "turn-based games with"),
        ({"max_move_time": 0.0}, "max_move_time must be at least"),
    ],
)
def test_opponents_that_cannot_be_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        OpenSpielEnvironment(**{"game_name": "tic_tac_toe"} | options)


def test_another_game_has_its_own_opponents() -> None:
    env = OpenSpielEnvironment(game_name="tic_tac_toe", opponents={"1": "last"})
    env.reset(seed=0, game_name="catch")
    assert env.state().played_by == ["self"]
    env.reset(seed=0)
    assert env.state().played_by == ["self", "last"]


def test_information_set_search_beats_chance() -> None:
    env = OpenSpielEnvironment(
        game_name="kuhn_poker", opponent_policy="is_mcts", mcts_simulations=200
    )
    assert mean_return(env, lambda observation: ANY, 150) < -0.05


@pytest.mark.parametrize("options", [("kuhn_poker", "is_mcts"), ("connect_four", "mcts")])
def test_a_search_that_takes_too_long_is_refused(options: tuple[str, str]) -> None:
    game, policy = options
    with pytest.raises(InvalidOption, match=r"with 10000000 simulations, and this server allows"):
        OpenSpielEnvironment(
            game_name=game, opponent_policy=policy, mcts_simulations=10**7, max_move_time=0.01
        )


@pytest.mark.parametrize(
    ("limits", "options", "message"),
    [
        ({}, {"mcts_simulations": 1001}, "mcts_simulations may be 1000 at most"),
        ({"mcts_simulations": 2000}, {"mcts_simulations": 2001}, "may be 2000 at most"),
        ({}, {"cfr_iterations": 1001}, "cfr_iterations may be 1000 at most"),
        ({"games": ["catch"]}, {"game_name": "hex"}, "plays catch, not hex"),
        ({"games": ["catch"]}, {"game_name": "hex(board_size=3)"}, "plays catch, not hex"),
        ({"max_tensor_size": 100}, {"game_name": "hex"}, r"1,089 numbers in its tensor"),
        (
            {"max_tensor_size": 200},
            {"game_params": {"rows": 50}},
            "250 numbers in its tensor, and this server takes 200",
        ),
        ({"max_actions": 4}, {"game_name": "hex"}, "121 actions"),
        (
            {"max_game_memory": 0, "max_tensor_size": 1 << 20},
            {"game_params": {"rows": 2000, "columns": 200}},
            "bytes of memory",
        ),
    ],
)
def test_what_is_too_large_of_a_client_is_refused(
    limits: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    env = OpenSpielEnvironment(**limits)
    with pytest.raises(InvalidOption, match=message):
        env.reset(**options)
    assert env.reset(seed=0).observation.legal_actions == [0, 1, 2]
    OpenSpielEnvironment(**limits | options)  # the server's own have no limits


@pytest.mark.parametrize(
    "options",
    [
        {"game_name": "leduc_poker"},
        {"game_name": "goofspiel", "opponent_policy": "self"},
        {"game_name": "negotiation"},
        {"game_name": "connect_four", "opponent_policy": "mcts", "mcts_simulations": 20},
        {"game_name": "mfg_crowd_modelling"},
        {"game_name": "turn_based_simultaneous_game(game=goofspiel(num_cards=5))"},
        {"game_name": "kuhn_poker", "opponent_policy": "cfr", "cfr_iterations": 3},
        {"game_name": "tic_tac_toe", "opponents": {"1": "mcts"}, "text": True},
    ],
)
def test_a_snapshot_goes_on_alike_here_and_elsewhere(options: dict[str, Any]) -> None:
    env = OpenSpielEnvironment(**options)
    result = env.reset(seed=4)
    for _ in range(3):
        if not result.done:
            result = env.step(ANY)
    if result.done:
        env.reset(seed=4)
    saved = env.snapshot()

    def go_on(env: OpenSpielEnvironment) -> list[Row]:
        rows: list[Row] = []
        for _ in range(30):
            result = env.step(ANY)
            rows.append(row(result))
            if result.done:
                break
        return rows

    expected = go_on(env)
    env.restore(saved)
    assert go_on(env) == expected
    other = OpenSpielEnvironment()
    other.reset()
    other.restore(saved)
    assert go_on(other) == expected


def test_what_is_no_snapshot_is_told() -> None:
    env = OpenSpielEnvironment()
    env.reset(seed=0)
    for bad in (b"", b"\x90", env.snapshot()[:-5]):
        with pytest.raises(InvalidOption, match="not a snapshot of openspiel"):
            env.restore(bad)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"game_name": "tictactoe"}, "did you mean tic_tac_toe"),
        ({"game_name": "zzzzzz"}, "registered_names"),
        ({"game_name": "kuhn_poker", "game_params": {"colour": 1}}, "it takes players=2"),
        ({"game_name": "crossword"}, "have no numbers"),
        ({"game_name": "misere"}, "misere cannot be played with"),
        ({"agent_player": 3}, "catch has 1 players"),
        ({"agent_player": -1}, "agent_player must be at least 0"),
        ({"opponent_policy": "clever"}, "take one of random, first"),
        ({"opponent_policy": "no_such_module:f"}, "No module named"),
        ({"opponent_policy": "openspiel_env:__all__"}, "is not callable"),
        ({"game_name": "kuhn_poker", "opponent_policy": "mcts"}, "kuhn_poker is not"),
        ({"game_name": "matrix_rps", "opponent_policy": "mcts"}, "matrix_rps is not"),
    ],
)
def test_what_cannot_be_is_told(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        OpenSpielEnvironment(**params)


@pytest.mark.parametrize(
    ("game", "params"),
    [
        # What OpenSpiel raises: IndexError, ValueError, MemoryError, SpielError, RuntimeError
        ("mfg_dynamic_routing", {"network": "x"}),
        ("blotto", {"coins": -1}),
        ("universal_poker", {"blind": "x"}),
        ("gomoku", {"dims": -1}),
        ("connect_four", {"columns": -1}),
        ("bridge", {"dealer": -1}),
        ("lewis_signaling", {"num_messages": -1}),
        ("kriegspiel", {"fen": "x"}),
        ("breakthrough", {"rows": 0}),
        ("yacht", {"num_dice": 0}),
        ("mfg_garnet", {"horizon": -1}),
        ("catch", {"rows": 10**30}),
        ("catch", {"rows": "many"}),
        ("catch", {"rows": None}),
        ("catch", {"depth": 1}),
    ],
)
def test_bad_parameters_are_refused_and_harm_nothing(game: str, params: dict[str, Any]) -> None:
    env = OpenSpielEnvironment()
    with pytest.raises(InvalidOption, match=r"cannot be played with .* it takes"):
        env.reset(game_name=game, game_params=params)
    assert env.reset(seed=0).observation.legal_actions == [0, 1, 2]
    with pytest.raises(InvalidOption, match="cannot be played with"):  # when it is served, too
        OpenSpielEnvironment(game_name=game, game_params=params)


@pytest.mark.parametrize(
    ("rows", "end", "message"),
    [
        (11, "os.abort()", "OpenSpiel ends the process with SIGABRT"),
        (12, "os.kill(os.getpid(), signal.SIGXCPU)", "it did not begin within 2 s of CPU time"),
    ],
)
def test_a_game_that_ends_its_process_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: int, end: str, message: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import os, signal\n{end}\n")
    monkeypatch.setattr(trial, "__file__", str(program))
    env = OpenSpielEnvironment()
    with pytest.raises(InvalidOption, match=message):
        env.reset(game_name="catch", game_params={"rows": rows})
    assert env.reset(seed=0).observation.legal_actions == [0, 1, 2]


def test_a_game_that_never_begins_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    params: dict[str, Any] = {"game_name": "catch", "game_params": {"rows": 9}}
    with monkeypatch.context() as patched:
        patched.setattr(trial, "_WALL", 0.001)
        with pytest.raises(InvalidOption, match="it did not begin within"):
            OpenSpielEnvironment(**params)
    OpenSpielEnvironment(**params)  # a busy machine is not held against the game


def test_parameters_are_tried_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    env = OpenSpielEnvironment()
    assert env.reset(game_params={"rows": 7}).observation.info_state.size == 35
    monkeypatch.setattr(subprocess, "run", None)
    assert env.reset(game_params={"rows": 7}).observation.info_state.size == 35
    env.reset(game_name="tic_tac_toe")  # nothing to try


@pytest.mark.parametrize(
    "options",
    [
        {"game_name": "nfg_game(filename=/etc/hostname)"},
        {"game_name": "efg_game", "game_params": {"filename": "/etc/hostname"}},
        {"game_name": "misere(game=bargaining(instances_file=/etc/hostname))"},
    ],
)
def test_a_client_opens_no_file_of_the_server(options: dict[str, Any]) -> None:
    env = OpenSpielEnvironment()
    with pytest.raises(InvalidOption, match="for the server to choose"):
        env.reset(**options)
    assert env.reset(seed=0).observation.legal_actions == [0, 1, 2]


def test_every_setting_has_a_variable() -> None:
    assert sorted(VARIABLES.values()) == sorted(Settings.names())
    read = Settings.from_environ(
        {
            "OPENSPIEL_GAME": "goofspiel",
            "OPENSPIEL_GAME_PARAMS": '{"num_cards": 4}',
            "OPENSPIEL_AGENT_PLAYER": "1",
            "OPENSPIEL_OPPONENT_POLICY": "last",
            "OPENSPIEL_OPPONENTS": '{"0": "first"}',
            "OPENSPIEL_GAMES": "catch, hex",
        }
    )
    wanted = Settings("goofspiel", {"num_cards": 4}, 1, "last", {"0": "first"})
    assert read == replace(wanted, games=["catch", "hex"])
    assert read.changed({"game_name": "catch"}).game_params == {}
    with pytest.raises(InvalidOption, match="OPENSPIEL_MAX_STEPS=many"):
        Settings.from_environ({"OPENSPIEL_MAX_STEPS": "many"})
    with pytest.raises(InvalidOption, match="OPENSPIEL_GAME_PARAMS="):
        Settings.from_environ({"OPENSPIEL_GAME_PARAMS": "{"})
    with pytest.raises(InvalidOption, match="OPENSPIEL_ISOLATION=none"):
        declared_isolation({"OPENSPIEL_ISOLATION": "none"})


def test_the_schema_knows_the_game() -> None:
    schemas = OpenSpielEnvironment.schemas(game_name="connect_four")
    action = schemas["action"]["$defs"]["OpenSpielAction"]["properties"]["action_id"]
    assert (action["minimum"], action["maximum"]) == (-1, 6)
    seen = schemas["observation"]["$defs"]["OpenSpielObservation"]["properties"]
    assert seen["info_state"]["x-ndarray"] == {"dtype": "<f4", "shape": [3 * 6 * 7]}
    env = OpenSpielEnvironment(game_name="connect_four")
    assert env.reset().observation.info_state.shape == (3 * 6 * 7,)
    assert np.array_equal(env.reset().observation.legal_actions_mask, np.ones(7, np.uint8))


def test_the_schema_of_words_has_the_name_alone() -> None:
    schemas = OpenSpielEnvironment.schemas(game_name="connect_four", text=True)
    action = schemas["action"]["$defs"]["OpenSpielAction"]
    assert list(action["properties"]) == action["required"] == ["move"]
