"""Episodes on real Chromium."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from browsergym_env import TASKS, BrowserGymAction, BrowserGymEnv, BrowserGymObservation
from browsergym_env.chromium import shared_chromium
from browsergym_env.environment import BrowserGymEnvironment, Reward
from browsergym_env.policy import RandomClicks, elements, rules

from openenv_async import OutcomeStatus, serve
from openenv_async.errors import EpisodeEnded, InvalidAction, InvalidOption
from openenv_async.rollouts import collect_all

# One loop for the module, so that its tests share one Chromium.
pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def chromium() -> AsyncIterator[None]:
    shared = shared_chromium()
    await shared.browser("tests")
    yield
    await shared.leave("tests")


@pytest_asyncio.fixture(loop_scope="module")
async def env() -> AsyncIterator[BrowserGymEnvironment]:
    environment = BrowserGymEnvironment()
    yield environment
    await environment.close()


def bid(observation: BrowserGymObservation, role: str, name: str | None = None) -> str:
    return next(
        e.bid for e in elements(observation) if e.role == role and (name is None or e.name == name)
    )


async def act(env: BrowserGymEnvironment, text: str) -> tuple[BrowserGymObservation, float | None]:
    result = await env.step(BrowserGymAction(text))
    assert not result.observation.last_action_error, result.observation.error
    return result.observation, result.reward


# -- episodes -----------------------------------------------------------------------------------


async def test_an_episode_over_the_wire() -> None:
    async with serve(BrowserGymEnvironment) as url, BrowserGymEnv(url) as env:
        result = await env.reset(seed=7, task_name="enter-text", observe=["axtree", "text"])
        seen = result.observation
        assert result.reward is None
        assert result.info == {"task_name": "enter-text"}
        assert seen.goal.startswith("Enter ")
        assert seen.goal in seen.text.replace("\n", " ")
        assert seen.url == "http://miniwob/miniwob/enter-text.html"
        assert (seen.screenshot, seen.pruned_html) == (None, "")
        word = seen.goal.split('"')[1]
        result = await env.step(BrowserGymAction(f"fill({bid(seen, 'textbox')!r}, {word!r})"))
        assert (result.reward, result.done) == (0.0, False)
        assert f"value={word!r}" in result.observation.axtree_txt
        result = await env.step(BrowserGymAction(f"click({bid(seen, 'button')!r})"))
        assert (result.reward, result.terminated, result.truncated) == (1.0, True, False)
        assert result.info["raw_reward"] == 1.0
        with pytest.raises(EpisodeEnded):
            await env.step(BrowserGymAction("noop()"))
        state = await env.state()
        assert (state.benchmark, state.task_name) == ("miniwob", "enter-text")
        assert state.task_id == "miniwob.enter-text"
        assert (state.cum_reward, state.step_count, state.max_steps) == (1.0, 2, 20)
        assert state.elapsed_time == pytest.approx(1.0)


async def test_reset_switches_the_task(env: BrowserGymEnvironment) -> None:
    """Upstream's `task_name` only relabels."""
    pages = []
    for name in ("click-test", "enter-text", "miniwob.click-checkboxes", None):
        seen = (await env.reset(seed=1, task_name=name)).observation
        pages.append((seen.url, seen.goal, seen.pruned_html))
        assert (await env.state()).task_name in seen.url
    assert len(set(pages)) == 3
    assert pages[2] == pages[3]  # without a name the task stays
    with pytest.raises(InvalidOption, match="did you mean click-test"):
        await env.reset(task_name="click-tset")


async def test_rewards(env: BrowserGymEnvironment) -> None:
    returns = {}
    for reward in ("raw", "binary", "timed"):
        for right in (True, False):
            seen = (await env.reset(seed=4, task_name="click-test-2", reward=reward)).observation
            await act(env, "noop(1500)")
            result = await env.step(
                BrowserGymAction(f"click({bid(seen, 'button', 'ONE' if right else 'TWO')!r})")
            )
            assert result.terminated
            returns[reward, right] = result.reward
    assert returns["raw", True] == returns["binary", True] == 1.0
    assert (returns["raw", False], returns["binary", False]) == (-1.0, 0.0)
    # 1.5 s of the agent's and 0.5 s of the step, of MiniWoB's 10 s.
    assert returns["timed", True] == pytest.approx(0.8, abs=0.01)
    assert returns["timed", False] == -1.0


async def test_the_wrong_card_does_not_solve_the_task(env: BrowserGymEnvironment) -> None:
    rewards: dict[Reward, list[float | None]] = {"raw": [], "binary": []}
    for reward, given in rewards.items():
        for card in range(3):
            seen = (await env.reset(seed=1, task_name="find-greatest", reward=reward)).observation
            numbers = re.findall(r"\[(\d+)\] generic '\d+'", seen.axtree_txt)
            await act(env, f"click({numbers[card]!r})")
            given.append((await act(env, f"click({bid(seen, 'button')!r})"))[1])
    assert rewards == {"raw": [0.1, 1.0, 0.1], "binary": [0.0, 1.0, 0.0]}  # 2, 11 and 6


async def test_limits_truncate(env: BrowserGymEnvironment) -> None:
    await env.reset(seed=1, task_name="click-test", max_steps=2)
    assert not (await env.step(BrowserGymAction(""))).done
    result = await env.step(BrowserGymAction(""))
    assert (result.terminated, result.truncated, result.reward) == (False, True, 0.0)
    await env.reset(seed=1, time_limit=1.0)
    assert not (await env.step(BrowserGymAction(""))).done
    result = await env.step(BrowserGymAction(""))
    assert (result.terminated, result.truncated, result.reward) == (False, True, -1.0)
    assert result.info == {"raw_reward": -1, "reason": "timed out"}


async def test_time_stands_still_between_steps(env: BrowserGymEnvironment) -> None:
    await env.reset(seed=1, task_name="chase-circle", observe=["html"])
    moved = [(await act(env, ""))[0].pruned_html for _ in range(2)]
    assert moved[0] != moved[1]
    again = (await env.reset(seed=1, observe=["html"])).observation.pruned_html
    page = env._page
    assert page is not None
    await page.page.wait_for_timeout(300)  # of the real clock
    assert (await page.read(frozenset({"html"}))).html == again
    assert [(await act(env, ""))[0].pruned_html for _ in range(2)] == moved


# -- seeds --------------------------------------------------------------------------------------


async def trace(url: str, task: str, seed: int) -> list[BrowserGymObservation]:
    async with BrowserGymEnv(url) as env:
        seen = [(await env.reset(seed=seed, task_name=task)).observation]
        policy = RandomClicks(5)
        for _ in range(4):
            result = await env.step(policy(seen[-1]))
            seen.append(result.observation)
            if result.done:
                break
        return seen


async def test_one_seed_is_one_episode_whatever_others_do() -> None:
    tasks = ("chase-circle",)
    async with serve(BrowserGymEnvironment) as url:
        for task in tasks:
            traces = await asyncio.gather(
                *(trace(url, task, 3) for _ in range(2)),
                *(trace(url, task, seed) for seed in (10, 11)),
            )
            assert traces[0] == traces[1], task
            assert len({str(other) for other in traces}) == 3, task


async def load(env: BrowserGymEnvironment, name: str) -> None:
    first = (await env.reset(seed=3, task_name=name)).observation
    after = (await env.step(BrowserGymAction("noop()"))).observation
    again = (await env.reset(seed=3, task_name=name)).observation
    assert first == again, name
    assert after == (await env.step(BrowserGymAction("noop()"))).observation, name
    assert first.goal.strip() not in ("", "undefined"), name
    assert first.axtree_txt.count("\n") > 0, name
    assert not after.last_action_error, name


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(TASKS[::12], id="every-twelfth"),
        pytest.param(TASKS, id="all", marks=pytest.mark.heavy),
    ],
)
async def test_tasks_load_the_same_for_a_seed(names: tuple[str, ...]) -> None:
    async def worker() -> None:
        env = BrowserGymEnvironment()
        try:
            while left:
                await load(env, left.pop())
        finally:
            await env.close()

    left = list(names)
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(worker())


# -- actions ------------------------------------------------------------------------------------


WRONG = [
    ("click('999')", "no element has the bid '999'"),
    ("click('\"] *')", "no element has the bid"),
    ("fill('7', 'x')", r"element 7 \(button\) takes no text"),
    ("select_option('6', 'x')", r"element 6 \(input\) has no options"),
    ("press('6', 'NoSuchKey')", "Unknown key"),
    ("noop(-1)", "must not be negative"),
    ("check('6')", r"element 6 \(input\) cannot be checked"),
    ("upload_file('6', 'a.txt')", "the server has no folder of uploads"),
]


async def test_errors_are_observed_and_the_episode_goes_on(env: BrowserGymEnvironment) -> None:
    await env.reset(seed=1, task_name="enter-text", max_steps=100)
    for text, message in WRONG:
        result = await env.step(BrowserGymAction(text))
        assert result.observation.last_action_error
        assert re.search(message, result.observation.error), result.observation.error
        assert (result.reward, result.done) == (0.0, False)
        assert (await act(env, "noop(1)"))[0].error == ""


async def test_a_text_without_a_call_is_a_mistake_and_nothing_is_done() -> None:
    async with serve(BrowserGymEnvironment) as url, BrowserGymEnv(url) as env:
        seen = (await env.reset(seed=1, task_name="click-test")).observation
        for text, message in [
            ("I do not know.", "reply with calls alone, one a line"),
            ("open('x')", r"there is no action open\(\)"),
            (f"click({bid(seen, 'button')!r})\nclick('it's')", "backslash before a quote"),
        ]:
            with pytest.raises(InvalidAction, match=message):
                await env.step(BrowserGymAction(text))
        assert (await env.state()).step_count == 0
        result = await env.step(BrowserGymAction(f"So:\n```\nclick({bid(seen, 'button')!r})\n```"))
        assert (result.reward, result.terminated) == (1.0, True)


async def test_boxes_are_checked_and_unchecked(env: BrowserGymEnvironment) -> None:
    seen = (await env.reset(seed=3, task_name="click-checkboxes")).observation
    box = bid(seen, "checkbox")
    for calls, flag in [
        (f"check({box!r})\ncheck({box!r})", "checked=true"),
        (f"uncheck({box!r})\nuncheck({box!r})", "checked=false"),
    ]:
        seen, _ = await act(env, calls)
        assert flag in next(e.flags for e in elements(seen) if e.bid == box)
    seen = (await env.reset(seed=3, task_name="click-option")).observation
    radio = bid(seen, "radio")
    seen, _ = await act(env, f"check({radio!r})")
    assert "checked=true" in next(e.flags for e in elements(seen) if e.bid == radio)
    result = await env.step(BrowserGymAction(f"uncheck({radio!r})"))
    assert "check another one of its group" in result.observation.error


async def test_calls_after_a_failed_or_final_one_are_not_done(env: BrowserGymEnvironment) -> None:
    seen = (await env.reset(seed=1, task_name="enter-text")).observation
    text = bid(seen, "textbox")
    result = await env.step(BrowserGymAction(f"click('999')\nfill({text!r}, 'x')"))
    assert "value=" not in result.observation.axtree_txt
    seen = (await env.reset(seed=1, task_name="click-test")).observation
    button = bid(seen, "button")
    result = await env.step(BrowserGymAction(f"click({button!r})\nsend_msg_to_user('late')"))
    assert result.terminated
    assert (await env.state()).messages == []


async def test_a_covered_element_is_not_clicked(env: BrowserGymEnvironment) -> None:
    for seed in range(20):
        seen = (await env.reset(seed=seed, task_name="login-user-popup")).observation
        label = next(e.bid for e in elements(seen) if e.name == "Username")
        seen, _ = await act(env, f"click({bid(seen, 'textbox')!r})")
        if "Exit to home page?" in seen.text:
            break
    result = await env.step(BrowserGymAction(f"click({label!r})"))
    assert re.search(rf"element {label} is covered by \d+", result.observation.error)
    seen, _ = await act(env, f"click({bid(seen, 'button', 'Cancel')!r})")
    await act(env, f"click({label!r})")


async def test_keys_and_the_mouse(env: BrowserGymEnvironment) -> None:
    seen = (await env.reset(seed=2, task_name="enter-text")).observation
    word = seen.goal.split('"')[1]
    box, button = bid(seen, "textbox"), bid(seen, "button")
    seen, _ = await act(env, f"focus({box!r})\nkeyboard_type('wrong')")
    assert seen.focused_element_bid == box
    assert "value='wrong'" in seen.axtree_txt
    seen, _ = await act(env, f"press({box!r}, 'Control+a')\nkeyboard_insert_text({word!r})")
    assert f"value={word!r}" in seen.axtree_txt
    seen, _ = await act(env, f"clear({box!r})\nhover({button!r})")
    assert "value=" not in seen.axtree_txt
    calls = "\n".join(f"keyboard_down({c!r})\nkeyboard_up({c!r})" for c in word[:7])
    await act(env, f"focus({box!r})\n{calls}")
    seen, _ = await act(env, f"fill({box!r}, {word!r})")
    result = await env.reset(seed=2, observe=["axtree", "centers"])
    place = re.search(r"button 'Submit'.*center=\((\d+), (\d+)\)", result.observation.axtree_txt)
    assert place is not None
    _, reward = await act(env, f"fill({box!r}, {word!r})\nmouse_click({place[1]}, {place[2]})")
    assert reward == 1.0


async def test_lists_scrolling_and_dragging(env: BrowserGymEnvironment) -> None:
    seen = (await env.reset(seed=2, task_name="choose-list")).observation
    _, reward = await act(env, rules(seen).action_str)
    assert reward == 1.0
    assert "select_option" in rules(seen).action_str
    seen = (await env.reset(seed=1, task_name="drag-box")).observation
    small, large = bid(seen, "generic", "s"), bid(seen, "generic", "L")
    await act(env, f"drag_and_drop({small!r}, {large!r})")
    _, reward = await act(env, f"click({bid(seen, 'button')!r})")
    assert reward == 1.0
    seen = (await env.reset(seed=1, task_name="scroll-text")).observation
    page = env._page
    assert page is not None
    offset = "document.getElementById('text-area').scrollTop"
    assert await page.page.evaluate(offset) == 0
    await act(env, f"hover({bid(seen, 'textbox')!r})\nscroll(0, 30)")
    assert await page.page.evaluate(offset) == 30
    place = await page.page.locator("#text-area").bounding_box()
    assert place is not None
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    await act(env, f"scroll_at({x}, {y}, 0, 25)")
    assert await page.page.evaluate(offset) == 55
    await act(env, f"scroll_at({x}, {y}, 0, -40)")
    assert await page.page.evaluate(offset) == 15


async def test_files_are_uploaded_from_the_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "a.txt").write_text("first")
    (folder / "b.txt").write_text("second")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    env = BrowserGymEnvironment(uploads=str(folder))
    try:
        await env.reset(seed=1, task_name="click-test")
        assert env._page is not None
        page = env._page.page
        await page.evaluate(
            """() => {
                document.body.insertAdjacentHTML('afterbegin', `<input type=file id=one bid=91>
                    <input type=file id=many multiple hidden>
                    <button bid=92 onclick="this.previousElementSibling.click()">Many</button>`);
                window.given = id => Promise.all([...document.getElementById(id).files].map(
                    async file => [file.name, file.type, await file.text()]));
            }"""
        )
        await act(env, "upload_file('91', 'in/a.txt')")
        assert await page.evaluate("given('one')") == [["a.txt", "text/plain", "first"]]
        await act(env, "upload_file('92', ['in/a.txt', 'b.txt'])")
        assert [f[0] for f in await page.evaluate("given('many')")] == ["a.txt", "b.txt"]
        place = await page.locator("#one").bounding_box()
        assert place is not None
        await act(env, f"mouse_upload_file({place['x'] + 20}, {place['y'] + 9}, 'b.txt')")
        assert await page.evaluate("given('one')") == [["b.txt", "text/plain", "second"]]
        for call, message in [
            ("upload_file('91', '../secret.txt')", r"there are: b.txt, in/a.txt$"),
            ("upload_file('91', 'link.txt')", "no file 'link.txt'"),
            (f"upload_file('91', '{tmp_path}/secret.txt')", "no file"),
            ("upload_file('91', '/proc/self/environ')", "no file"),
            ("upload_file('91', 'in')", "no file"),
            ("upload_file('91', ['b.txt', 'in/a.txt'])", "takes one file"),
            ("mouse_upload_file(300, 200, 'b.txt')", "asks for no file"),
        ]:
            result = await env.step(BrowserGymAction(call))
            assert re.search(message, result.observation.error), result.observation.error
        assert await page.evaluate("given('one')") == [["b.txt", "text/plain", "second"]]
    finally:
        await env.close()


async def test_what_the_agent_says_is_kept(env: BrowserGymEnvironment) -> None:
    await env.reset(seed=1, task_name="click-test")
    await act(env, "send_msg_to_user('hello')\nreport_infeasible('no idea')")
    assert (await env.state()).messages == ["hello", "no idea"]
    await env.reset(seed=1)
    assert (await env.state()).messages == []


# -- observations -------------------------------------------------------------------------------


async def test_screenshots_are_encoded_images(env: BrowserGymEnvironment) -> None:
    seen = (await env.reset(seed=1, observe=["screenshot"])).observation
    assert seen.screenshot is not None
    assert seen.screenshot.startswith(b"\x89PNG")
    assert struct.unpack(">II", seen.screenshot[16:24]) == (332, 214)
    assert (seen.text, seen.axtree_txt, seen.pruned_html) == ("", "", "")
    assert seen.goal
    again = (await env.reset(seed=1, observe=["screenshot"], screenshot_format="jpeg")).observation
    assert again.screenshot is not None
    assert again.screenshot.startswith(b"\xff\xd8\xff")
    assert len(seen.screenshot) < 64 * 1024


async def test_nothing_of_the_harness_is_seen(env: BrowserGymEnvironment) -> None:
    """MiniWoB's own display tells the last reward; an agent must not read it."""
    await env.reset(seed=1, task_name="click-test-2", observe=["text", "axtree", "html"])
    seen = (await env.reset(seed=1)).observation
    seen, _ = await act(env, f"click({bid(seen, 'button', 'TWO')!r})")
    shown = seen.text + seen.axtree_txt + seen.pruned_html
    for word in ("Last reward", "reward", "START", "Episodes done", "__openenv", "script"):
        assert word not in shown


# -- policies -----------------------------------------------------------------------------------


async def test_rules_beat_random_clicks() -> None:
    tasks = ("click-checkboxes", "enter-text")
    shares = {}
    async with serve(BrowserGymEnvironment) as url:
        for name, policy in (("rules", rules), ("random", RandomClicks(0))):
            outcomes = [
                outcome
                for task in tasks
                for outcome in await collect_all(
                    lambda: BrowserGymEnv(url),
                    policy,
                    episodes=3,
                    concurrency=2,
                    seeds=0,
                    reset_options={
                        "task_name": task,
                        "reward": "binary",
                        "observe": ["axtree"],
                        "max_steps": 3,
                    },
                )
            ]
            usable = {OutcomeStatus.COMPLETED, OutcomeStatus.TRUNCATED}
            assert {o.status for o in outcomes} <= usable
            shares[name] = sum(o.episode_return or 0 for o in outcomes) / len(outcomes)
    assert shares["rules"] == 1.0
    assert shares["random"] <= 0.4


async def test_what_is_no_action_or_option_is_refused() -> None:
    async with serve(BrowserGymEnvironment) as url, BrowserGymEnv(url) as env:
        for options in ({"observe": ["smell"]}, {"max_steps": 0}, {"reward": "best"}, {"page": 1}):
            with pytest.raises(InvalidOption):
                await env.reset(**options)
        await env.reset()
        with pytest.raises(InvalidAction):
            await env.step(BrowserGymAction(3))  # type: ignore[arg-type]  # wrong on purpose
