"""The shared Chromium: one for all, replaced when it dies, gone when the last session leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # its stubs are not among our tools
import pytest
from browsergym_env import BrowserGymAction, BrowserGymEnv
from browsergym_env.chromium import find_chromium, shared_chromium
from browsergym_env.environment import BrowserGymEnvironment
from playwright.async_api import Error

from openenv_async import serve
from openenv_async.errors import EnvironmentDied, EnvironmentStartFailed

browser = pytest.mark.browser
pytestmark = pytest.mark.xdist_group("browser")

NOTHING = BrowserGymAction("")


def chromiums() -> list[psutil.Process]:
    """Main processes of Chromium below this one."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "--remote-debugging-pipe" in line and "--type=" not in line:
            found.append(child)
    return found


@browser
async def test_eight_sessions_share_one_and_the_last_closes_it() -> None:
    async with serve(BrowserGymEnvironment) as url:
        async with asyncio.TaskGroup() as group:
            envs = [BrowserGymEnv(url) for _ in range(8)]
            tasks = [group.create_task(env.reset(seed=n)) for n, env in enumerate(envs)]
        assert len(chromiums()) == 1
        bids = [task.result().observation for task in tasks]
        assert len({seen.pruned_html for seen in bids}) == 8
        results = await asyncio.gather(*(env.step(NOTHING) for env in envs))
        assert [r.observation.pruned_html for r in results] == [b.pruned_html for b in bids]
        await asyncio.gather(*(env.close() for env in envs[1:]))
        assert len(chromiums()) == 1
        assert not (await envs[0].step(NOTHING)).done
        await envs[0].close()
    assert chromiums() == []


@browser
async def test_a_page_that_crashes_takes_no_other_with_it() -> None:
    first, second = BrowserGymEnvironment(), BrowserGymEnvironment()
    try:
        await first.reset(seed=1)
        await second.reset(seed=1)
        page = first._page
        assert page is not None
        with pytest.raises(Error):
            await page.page.goto("chrome://crash")
        with pytest.raises(EnvironmentDied, match=r"page of this session is gone.*call reset"):
            await first.step(NOTHING)
        assert not (await second.step(NOTHING)).done
        again = await first.reset(seed=1)
        assert again.observation == (await second.reset(seed=1)).observation
        assert not (await first.step(NOTHING)).done
    finally:
        await first.close()
        await second.close()


@browser
async def test_a_chromium_that_dies_is_replaced() -> None:
    async with (
        serve(BrowserGymEnvironment) as url,
        BrowserGymEnv(url) as first,
        BrowserGymEnv(url) as second,
    ):
        await first.reset(seed=1)
        await second.reset(seed=1)
        (before,) = chromiums()
        before.kill()
        before.wait(60)
        for env in (first, second):
            with pytest.raises(EnvironmentDied, match=r"call reset\(\)"):
                await env.step(NOTHING)
        results = await asyncio.gather(first.reset(seed=1), second.reset(seed=1))
        assert results[0].observation == results[1].observation
        (after,) = chromiums()
        assert after.pid != before.pid
        assert not (await second.step(NOTHING)).done
    assert chromiums() == []


@browser
async def test_a_cancelled_reset_leaves_nothing_and_spoils_no_other() -> None:
    first, second = BrowserGymEnvironment(), BrowserGymEnvironment()
    task = asyncio.create_task(first.reset(seed=1))
    other = asyncio.create_task(second.reset(seed=1))
    await asyncio.sleep(0)  # both wait for the launch
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await first.close()
    assert (await other).observation.goal
    await second.close()
    assert chromiums() == []
    third = BrowserGymEnvironment()
    task = asyncio.create_task(third.reset(seed=1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await third.close()
    assert chromiums() == []


@browser
async def test_the_last_one_closes_it_though_it_is_cancelled() -> None:
    env = BrowserGymEnvironment()
    await env.reset(seed=1)
    closing = asyncio.create_task(env.close())
    while shared_chromium().users:  # noqa: ASYNC110 - nothing tells when it has left
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert chromiums() == []
    drivers = [child.name() for child in psutil.Process().children() if "node" in child.name()]
    assert drivers == []


async def test_a_launch_that_failed_in_a_way_of_its_own_is_not_the_next_one_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def out_of_memory() -> Any:
        raise MemoryError("no memory for a browser")

    monkeypatch.setenv("BROWSERGYM_CHROMIUM", "/nothing/here")
    shared, user = shared_chromium(), object()
    shared._launch = asyncio.create_task(out_of_memory())
    with pytest.raises(MemoryError):
        await shared.browser(user)
    with pytest.raises(EnvironmentStartFailed, match="/nothing/here"):
        await shared.browser(user)  # tried anew, and told why this one fails
    await shared.leave(user)
    assert shared.users == 0


@browser
async def test_pages_reach_no_network() -> None:
    calls: list[str] = []

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append("connected")
        writer.close()

    env = BrowserGymEnvironment()
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        await env.reset(seed=1)
        page = env._page
        assert page is not None
        for host in ("127.0.0.1", "localhost", "example.com"):
            said = await page.page.evaluate(
                "url => fetch(url, {mode: 'no-cors'}).then(() => 'answered', () => 'refused')",
                f"http://{host}:{port}/",
            )
            assert said == "refused"
            opened = await page.page.evaluate(
                "url => new Promise(done => { const socket = new WebSocket(url);"
                " socket.onopen = () => done('open'); socket.onerror = () => done('refused') })",
                f"ws://{host}:{port}/",
            )
            assert opened == "refused"
        assert calls == []
        await page.page.evaluate("() => { window.open('about:blank') }")
        result = await env.step(NOTHING)
        assert not result.done
    finally:
        server.close()
        await server.wait_closed()
        await env.close()


@browser
async def test_a_page_that_is_left_while_it_is_read_truncates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = BrowserGymEnvironment()
    try:
        await env.reset(seed=1)
        page = env._page
        assert page is not None
        read, times = page._read, 0

        async def read_and_fail(*args: Any) -> Any:
            """As when the document has no body yet: seen now and then, and hard to bring about."""
            nonlocal times
            times += 1
            if times == 1:
                await page.page.reload()
                raise Error("Page.evaluate: Cannot read properties of null (reading 'id')")
            return await read(*args)

        monkeypatch.setattr(page, "_read", read_and_fail)
        result = await env.step(NOTHING)
        assert (result.terminated, result.truncated) == (False, True)
        assert result.info == {"reason": "the page was left"}
        assert not (await env.reset(seed=1)).done
    finally:
        await env.close()


@browser
async def test_a_page_that_is_left_truncates() -> None:
    env = BrowserGymEnvironment()
    try:
        await env.reset(seed=1)
        page = env._page
        assert page is not None
        await page.page.evaluate("() => { location.reload() }")
        await page.page.wait_for_load_state("load")
        result = await env.step(NOTHING)
        assert (result.terminated, result.truncated, result.reward) == (False, True, 0.0)
        assert result.info == {"reason": "the page was left"}
        assert not (await env.reset(seed=1)).done
    finally:
        await env.close()


async def test_a_missing_chromium_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BROWSERGYM_CHROMIUM", raising=False)
    env = BrowserGymEnvironment()
    with pytest.raises(EnvironmentStartFailed, match="apt-get install chromium"):
        await env.reset()
    await env.close()
    monkeypatch.setenv("BROWSERGYM_CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(EnvironmentStartFailed, match="BROWSERGYM_CHROMIUM is"):
        find_chromium()


async def test_what_is_no_chromium_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "chromium"
    fake.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("BROWSERGYM_CHROMIUM", str(fake))
    env = BrowserGymEnvironment()
    for _ in range(2):  # a failed launch is tried again
        with pytest.raises(EnvironmentStartFailed, match="does not start"):
            await env.reset()
    await env.close()
    assert shared_chromium().users == 0


@browser
async def test_a_driver_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    start = asyncio.create_subprocess_exec
    started: list[asyncio.subprocess.Process] = []

    async def noted(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        started.append(await start(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", "/bin/false")
    env = BrowserGymEnvironment()
    with pytest.raises(EnvironmentStartFailed, match="driver does not start"):
        await env.reset()
    await env.close()
    [driver] = started
    await driver.wait()  # Playwright gives up at its closed output: this loop must see its end
