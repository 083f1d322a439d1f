"""Own pages and sites on real Chromium: what is reached, and what is not."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import platform
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from browsergym_env import BrowserGymAction, BrowserGymEnv, BrowserGymObservation
from browsergym_env.environment import BrowserGymEnvironment
from browsergym_env.page import MAX_TABS

from openenv_async import serve
from openenv_async.errors import EnvironmentDied, EnvironmentStartFailed, InvalidAction

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.asyncio(loop_scope="module"),
]

INDEX = """<!doctype html><title>Shop</title><h1>Shop</h1>
<a href="item.html?id=3">Blue cup</a> <a href="item.html?id=4" target="_blank">Red cup</a>
<form action="bought.html"><input name="q" aria-label="Search"><button>Go</button></form>
<input type="file" aria-label="Photo" onchange="photo.textContent = this.files[0].name">
<p id="photo"></p><p id="late"></p>
<script>
  setTimeout(() => fetch('data.json').then((r) => r.json()).then((d) => {
    late.textContent = d.word + ' ' + Math.random();
  }), 100);
</script>"""
OUT = """<!doctype html><title>Out</title><a href="file:///etc/hostname">File</a>
<iframe src="file:///etc/hostname"></iframe><p id="rtc"></p>
<script>rtc.textContent = typeof RTCPeerConnection</script>"""
TASKS: list[dict[str, Any]] = [
    {
        "id": "word",
        "goal": "What word is on the page?",
        "start_url": "index.html",
        "eval": {"eval_types": ["string_match"], "reference_answers": {"exact_match": "fetched"}},
    },
    {
        "id": "search",
        "goal": "Search for a cup.",
        "start_url": "__PAGES__/index.html |AND| __PAGES__/bought.html",
        "split": "test",
        "eval": {
            "eval_types": ["url_match", "program_html"],
            "reference_url": "__PAGES__/bought.html?q=cup",
            "program_html": [
                {
                    "url": "last",
                    "locator": "document.querySelector('p').textContent",
                    "required_contents": {"exact_match": "Thanks"},
                },
                {
                    "url": "__PAGES__/item.html?id=9",
                    "locator": "document.querySelector('p').textContent",
                    "required_contents": {"must_include": ["Item 9"]},
                },
            ],
        },
    },
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("web")
    pages = root / "pages"
    pages.mkdir()
    (pages / "index.html").write_text(INDEX)
    (pages / "out.html").write_text(OUT)
    (pages / "data.json").write_text('{"word": "fetched"}')
    (pages / "bought.html").write_text("<!doctype html><title>Bought</title><p>Thanks</p>")
    (pages / "item.html").write_text(
        "<!doctype html><title>Item</title><p></p><script>document.querySelector('p').textContent"
        " = 'Item ' + new URLSearchParams(location.search).get('id')</script>"
    )
    (pages / "tasks.jsonl").write_text("\n".join(json.dumps(task) for task in TASKS))
    (pages / "link.txt").symlink_to("/etc/hostname")
    (root / "secret.txt").write_text("secret")
    (pages / ".hidden").write_text("hidden")
    uploads = root / "uploads"
    uploads.mkdir()
    (uploads / "cup.png").write_bytes(b"picture")
    return root


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def env(folder: Path) -> AsyncIterator[BrowserGymEnvironment]:
    environment = BrowserGymEnvironment(
        pages=str(folder / "pages"), uploads=str(folder / "uploads"), max_steps=50
    )
    yield environment
    await environment.close()


async def act(env: BrowserGymEnvironment, text: str, error: str = "") -> BrowserGymObservation:
    observation = (await env.step(BrowserGymAction(text))).observation
    assert (error in observation.error) if error else not observation.error, observation.error
    return observation


def bid(observation: BrowserGymObservation, name: str) -> str:
    line = next(line for line in observation.axtree_txt.splitlines() if repr(name) in line)
    return line.strip().split("]")[0].removeprefix("[")


async def test_links_forms_and_history(env: BrowserGymEnvironment) -> None:
    first = (await env.reset(seed=1, task_name="word")).observation
    assert (first.goal, first.url) == ("What word is on the page?", "http://pages/index.html")
    assert first.open_pages_titles == ["Shop"]
    await act(env, "go_back()", "no page before this one")
    await act(env, "tab_close()\ngo_back()", "no page before")  # the last tab is replaced
    seen = (await env.reset(seed=1)).observation
    assert seen == first
    seen = await act(env, f"click({bid(seen, 'Blue cup')!r})")
    assert (seen.url, seen.text) == ("http://pages/item.html?id=3", "Item 3")
    seen = await act(env, "go_back()")
    assert seen.url == "http://pages/index.html"
    await act(env, "go_back()", "no page before this one")
    seen = await act(env, "go_forward()")
    assert seen.text == "Item 3"
    await act(env, "go_forward()", "no page after this one")
    seen = await act(env, "goto('http://pages/')")
    seen = await act(env, f"fill({bid(seen, 'Search')!r}, 'mug')\nclick({bid(seen, 'Go')!r})")
    assert (seen.url, seen.text) == ("http://pages/bought.html?q=mug", "Thanks")


async def test_own_pages_depend_on_the_seed_alone(env: BrowserGymEnvironment) -> None:
    texts = []
    for seed in (1, 1, 2):
        assert "fetched" not in (await env.reset(seed=seed, task_name="word")).observation.text
        seen = await act(env, "noop(0)")  # a step lets 0.5 s go on, and waits for what is fetched
        texts.append(seen.text)
    assert "fetched 0." in texts[0]
    assert texts[0] == texts[1] != texts[2]
    assert (await env.state()).elapsed_time == pytest.approx(0.5)


async def test_tabs(env: BrowserGymEnvironment) -> None:
    seen = (await env.reset(seed=1, task_name="search")).observation
    assert (seen.open_pages_titles, seen.active_page_index) == (["Shop", "Bought"], 0)
    seen = await act(env, f"click({bid(seen, 'Red cup')!r})")  # it opens a tab of its own
    assert (seen.open_pages_titles, seen.active_page_index) == (["Shop", "Bought", "Item"], 2)
    assert seen.text == "Item 4"
    seen = await act(env, "tab_focus(1)")
    assert (seen.text, seen.active_page_index) == ("Thanks", 1)
    seen = await act(env, "tab_close()")
    assert (seen.open_pages_titles, seen.text) == (["Shop", "Item"], "Item 4")
    seen = await act(env, "new_tab()")
    assert (seen.url, seen.open_pages_titles) == ("about:blank", ["Shop", "Item", ""])
    seen = await act(env, "goto('http://pages/bought.html')")
    assert seen.open_pages_urls[2] == seen.url == "http://pages/bought.html"
    await act(env, "tab_focus(3)", "there is no tab 3: there are 0 to 2")
    await act(env, "tab_focus(-1)", "there is no tab -1")
    await act(env, "\n".join(["new_tab()"] * MAX_TABS), f"there are {MAX_TABS} tabs")


async def test_an_answer_ends_the_episode_and_is_graded(env: BrowserGymEnvironment) -> None:
    for answer, reward in (("send_msg_to_user('Fetched')", 1.0), ("report_infeasible('x')", 0.0)):
        await env.reset(seed=1, task_name="word")
        result = await env.step(BrowserGymAction(f"{answer}\nnew_tab()"))
        assert (result.reward, result.terminated, result.truncated) == (reward, True, False)
        assert len(result.observation.open_pages_urls) == 1  # later calls are left out
    for query, reward in (("cup", 1.0), ("mug", 0.0)):
        seen = (await env.reset(seed=1, task_name="search")).observation
        await act(env, f"fill({bid(seen, 'Search')!r}, {query!r})\nclick({bid(seen, 'Go')!r})")
        result = await env.step(BrowserGymAction("send_msg_to_user('done')"))
        assert (result.reward, result.terminated) == (reward, True)
        assert len(result.observation.open_pages_urls) == 2  # what was looked at is no tab
    await env.reset(seed=1, max_steps=1)
    result = await env.step(BrowserGymAction("noop()"))
    assert (result.reward, result.terminated, result.truncated) == (0.0, False, True)


async def test_nothing_outside_the_folder_is_reached(env: BrowserGymEnvironment) -> None:
    await env.reset(seed=1, task_name="word")
    for url in (
        "http://example.com/", "https://pages/index.html", "http://pages:8080/", "http://pages.x/",
        "file:///etc/hostname", "javascript:alert(1)", "data:text/html,x", "chrome://version",
        "view-source:http://pages/", "http://pages@example.com/", "http://[::1", "index.html", "",
    ):  # fmt: skip
        await act(env, f"goto({url!r})", "is not of an allowed site; there are: http://pages")
    for path in (
        "tasks.jsonl", "link.txt", ".hidden", "../secret.txt", "%2e%2e/secret.txt",
        "..%2fsecret.txt", "%2e%2e%2fsecret.txt", "..%5csecret.txt", "/etc/hostname", "%00",
        "none.html",
    ):  # fmt: skip
        seen = await act(env, f"goto('http://pages/{path}')")
        assert seen.text == "there is no such page", path
    seen = await act(env, "goto('http://pages/out.html')")
    assert "undefined" in seen.text  # no WebRTC
    seen = await act(env, f"click({bid(seen, 'File')!r})")
    assert seen.url == "http://pages/out.html"
    assert platform.node() not in seen.text + seen.axtree_txt
    assert env._page is not None
    assert not [frame for frame in env._page.page.frames if frame.url.startswith("file:")]
    said = await env._page.page.evaluate(
        "fetch('/bought.html', {method: 'POST', body: 'x'}).then((r) => r.status)"
    )
    assert said == 405


async def test_files_are_given_to_own_pages(env: BrowserGymEnvironment) -> None:
    seen = (await env.reset(seed=1, task_name="word")).observation
    seen = await act(env, f"upload_file({bid(seen, 'Photo')!r}, 'cup.png')")
    assert "cup.png" in seen.text
    await act(env, f"upload_file({bid(seen, 'Photo')!r}, '../secret.txt')", "there are: cup.png")


async def test_marks_are_drawn_beside_the_page(env: BrowserGymEnvironment) -> None:
    plain = (await env.reset(seed=1, task_name="word", observe=["screenshot", "html"])).observation
    marked = (await env.reset(seed=1, observe=["marks", "html"])).observation
    assert marked.pruned_html == plain.pruned_html
    assert env._page is not None
    page = env._page.page
    marks = await page.evaluate("__openenv.marks()")
    names = await page.evaluate(
        'bids => bids.map((bid) => { const e = document.querySelector(`[bid="${bid}"]`);'
        " return e.textContent || e.ariaLabel })",
        [mark["bid"] for mark in marks],
    )
    assert names == ["Blue cup", "Red cup", "Search", "Go", "Photo"]
    # Where the two pictures differ: at the marks' edges and labels alone.
    differences = await page.evaluate(
        """async ([one, other]) => {
            const pixels = async (letters) => {
                const bytes = Uint8Array.from(atob(letters), (c) => c.charCodeAt(0));
                const picture = await createImageBitmap(new Blob([bytes]));
                const pen = new OffscreenCanvas(picture.width, picture.height).getContext('2d');
                pen.drawImage(picture, 0, 0);
                return pen.getImageData(0, 0, picture.width, picture.height);
            };
            const [a, b] = [await pixels(one), await pixels(other)];
            const found = [];
            for (let i = 0; i < a.data.length; i += 4) {
                const [x, y] = [i / 4 % a.width, Math.floor(i / 4 / a.width)];
                if (a.data[i] !== b.data[i]) found.push([x, y]);
            }
            return found;
        }""",
        [encoded(plain.screenshot), encoded(marked.screenshot)],
    )
    assert differences
    for mark in marks:
        left, top = mark["left"], mark["top"]
        assert any(
            left - 1 <= x <= left + mark["width"] + 1 and top - 8 <= y <= top + 8
            for x, y in differences
        )
    for x, y in differences:
        assert any(
            mark["left"] - 1 <= x <= mark["left"] + mark["width"] + 20
            and mark["top"] - 8 <= y <= mark["top"] + mark["height"] + 1
            for mark in marks
        )
    jpeg = (await env.reset(seed=1, observe=["marks"], screenshot_format="jpeg")).observation
    assert (jpeg.screenshot or b"").startswith(b"\xff\xd8\xff")


def encoded(picture: bytes | None) -> str:
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    return base64.b64encode(picture).decode()


async def test_tasks_are_played_over_the_wire(folder: Path) -> None:
    params = {"pages": str(folder / "pages")}
    async with serve(BrowserGymEnvironment, params=params) as url, BrowserGymEnv(url) as env:
        seen = (await env.reset(task_id="word", observe=["text"])).observation
        assert seen.url == "http://pages/index.html"
        with pytest.raises(InvalidAction, match="reply with calls alone"):
            await env.step(BrowserGymAction("I would read it."))
        result = await env.step(BrowserGymAction("So: `send_msg_to_user('fetched')`."))
        assert (result.reward, result.terminated) == (1.0, True)
        state = await env.state()
        assert (state.benchmark, state.task_id, state.messages) == (
            "sites",
            "sites.word",
            ["fetched"],
        )


async def test_a_tab_that_crashes_ends_its_session_s_episode(env: BrowserGymEnvironment) -> None:
    await env.reset(seed=1, task_name="search")
    assert env._page is not None
    with pytest.raises(Exception, match="crash"):
        await env._page.page.goto("chrome://crash")
    with pytest.raises(EnvironmentDied, match=r"call reset\(\)"):
        await env.step(BrowserGymAction("noop()"))
    assert (await env.reset(seed=1)).observation.open_pages_titles == ["Shop", "Bought"]


# -- sites --------------------------------------------------------------------------------------


class Site:
    """A server on a port of its own, which notes what it is asked for."""

    def __init__(self, name: str, other: str = "") -> None:
        self.name, self.other, self.asked = name, other, list[str]()
        self.address = ""

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Site]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = []
        while line := (await reader.readline()).decode().strip():
            lines.append(line)
        if not lines:
            writer.close()
            return
        path = lines[0].split(" ")[1]
        self.asked.append(path)
        cookie = next((line[8:] for line in lines if line.lower().startswith("cookie: ")), "none")
        body = f"<title>{self.name}</title><p>{path} {cookie}</p><p id=l></p>"
        body += "<script>l.textContent = localStorage.getItem('basket')</script>"
        status, more = "200 OK", ""
        if path == "/away":
            status, more = "302 Found", f"Location: {self.other}/redirected\r\n"
        if path == "/polls":
            body += "<script>setInterval(() => fetch('/poll'), 30)</script>"
        if path == "/broken":
            status = "500 Oops"
        if path == "/frames":
            body = (
                f"<iframe src='{self.other}/frame'></iframe><img src='{self.other}/image'>"
                f"<script>new WebSocket('{self.other}/socket'.replace('http', 'ws'));"
                f"fetch('{self.other}/fetch', {{mode: 'no-cors'}}).catch(() => 0);"
                f"new Worker(URL.createObjectURL(new Blob([`fetch('{self.other}/worker')`])))"
                f"</script><a href='{self.other}/link'>Link</a>"
            )
        writer.write(
            f"HTTP/1.1 {status}\r\n{more}Content-Type: text/html\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()


def login(site: Site, user: str) -> dict[str, Any]:
    cookie = {"name": "user", "value": user, "domain": "127.0.0.1", "path": "/", "expires": -1}
    stored = {"origin": site.address, "localStorage": [{"name": "basket", "value": "2 cups"}]}
    return {
        "cookies": [{**cookie, "httpOnly": False, "secure": False, "sameSite": "Lax"}],
        "origins": [stored],
    }


def site_tasks(path: Path, **more: Any) -> str:
    asked = {"eval_types": ["url_match"], "reference_url": "__SHOP__/end"}
    start = [("first", "__SHOP__/"), ("broken", "__SHOP__/broken"), ("second", "__SHOP__/two")]
    rows = [
        {"id": name, "intent": "End.", "start_url": url, "eval": asked, **more}
        for name, url in start
    ]
    path.write_text(json.dumps(rows))
    return str(path)


HOOKED: list[Any] = []
STATES: list[Any] = []


async def hook(row: Any) -> Any:
    HOOKED.append(row["id"])
    return STATES[-1] if STATES else None


async def test_a_site_is_reached_with_its_login_and_no_other_is(tmp_path: Path) -> None:
    async with Site("other").run() as other, Site("shop", other.address).run() as shop:
        (tmp_path / "logins").mkdir()
        (tmp_path / "logins" / "shop_state.json").write_text(json.dumps(login(shop, "emma")))
        env = BrowserGymEnvironment(
            sites={"shop": shop.address},
            tasks_path=site_tasks(tmp_path / "t.json", storage_state="./.auth/shop_state.json"),
            logins=str(tmp_path / "logins"),
            step_time=0.1,
        )
        try:
            seen = (await env.reset(seed=1)).observation
            assert seen.text.split("\n\n") == ["/ user=emma", "2 cups"]
            await act(env, f"goto({other.address!r})", "is not of an allowed site")
            port = shop.address.rsplit(":", 1)[1]
            await act(env, f"goto('http://localhost:{port}/')", "is not of an allowed site")
            await act(env, f"goto('{shop.address}/away')", "ERR_NAME_NOT_RESOLVED")
            seen = await act(env, f"goto('{shop.address}/frames')")
            await act(env, f"click({bid(seen, 'Link')!r})")
            began = time.monotonic()
            await act(env, f"goto('{shop.address}/polls')")
            assert time.monotonic() - began < 9  # the timeout is 10 s: it asks all the time
            assert "/poll" in shop.asked
            seen = await act(env, f"goto('{shop.address}/end')")
            assert seen.text.startswith("/end user=emma")
            assert other.asked == []
            result = await env.step(BrowserGymAction("send_msg_to_user('there')"))
            assert (result.reward, result.terminated) == (1.0, True)
            with pytest.raises(EnvironmentStartFailed, match="/broken answers 500"):
                await env.reset(task_name="broken")
            assert (await env.reset(task_name="second")).observation.text.startswith("/two")
        finally:
            await env.close()


async def test_the_hook_is_called_before_each_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    test_sites: Any = importlib.import_module("test_sites")  # as the environment imports it
    test_sites.HOOKED.clear()
    async with Site("shop").run() as shop:
        env = BrowserGymEnvironment(
            sites=f"shop={shop.address}",
            tasks_path=site_tasks(tmp_path / "t.json"),
            reset_hook="test_sites:hook",
            step_time=0.1,
        )
        try:
            assert (await env.reset(seed=1)).observation.text.startswith("/ none")
            test_sites.STATES.append(login(shop, "noah"))
            assert (await env.reset(task_name="second")).observation.text.startswith(
                "/two user=noah"
            )
            test_sites.STATES.append({"cookies": [{"name": 3}]})
            with pytest.raises(EnvironmentStartFailed, match="the login's state is refused"):
                await env.reset(task_name="first")
            test_sites.STATES.clear()
            assert (await env.reset()).observation.text.startswith("/ none")  # no cookie is kept
        finally:
            await env.close()
        assert test_sites.HOOKED == ["first", "second", "first", "first"]
        gone = BrowserGymEnvironment(
            sites=f"shop={shop.address}", tasks_path=site_tasks(tmp_path / "t.json")
        )
    with pytest.raises(EnvironmentStartFailed, match=r"start page .* does not answer: .*REFUSED"):
        await gone.reset()
    await gone.close()


async def test_a_task_of_miniwob_has_one_page() -> None:
    env = BrowserGymEnvironment(task_name="click-test")
    try:
        await env.reset(seed=1)
        for call in (
            "goto('http://miniwob/miniwob/click-test-2.html')", "go_back()", "go_forward()",
            "new_tab()", "tab_close()", "tab_focus(0)",
        ):  # fmt: skip
            seen = await act(env, call, f"which is not left: no {call.split('(')[0]}() here")
        assert (seen.url, seen.open_pages_urls) == ("http://miniwob/miniwob/click-test.html", [])
        await act(env, "send_msg_to_user('hello')")
        assert not (await env.step(BrowserGymAction("noop()"))).done
    finally:
        await env.close()
