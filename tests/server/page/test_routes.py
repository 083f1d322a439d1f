"""The page of a server: facts without a script, the token's form and cookie, several, prefixes."""

from __future__ import annotations

import base64
import re
from typing import Any, Final

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from openenv_async import EngineOptions, Environment, create_app
from openenv_async.server.page.html import CONTENT_POLICY
from openenv_async.server.several import create_app_of_several
from openenv_async.spec import EnvironmentSpec
from tests.helpers import Counter
from tests.server.clients import Echo, asking

HTML: Final = {"Accept": "text/html,*/*"}
SAME: Final = {"Origin": "http://127.0.0.1"}
MARK: Final = "<b id=mark>bold</b>"


class Marked(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An environment whose descriptions are markup."""

    isolation = "inline"
    version = MARK
    author = MARK
    documentation_url = MARK
    readme_content = f"# Read me\n{MARK}"

    def reset(self, seed: int | None = None, option: str = MARK) -> dict[str, Any]:
        return {}

    def step(self, action: dict[str, Any]) -> Any:
        raise NotImplementedError


async def test_the_facts_are_in_the_document() -> None:
    options = EngineOptions(max_sessions=7)
    async with asking(create_app(Echo, options=options)) as http:
        reply = await http.get("/", headers=HTML)
        page = reply.text
        assert reply.status_code == 200
        assert "<h1>Echo <small>2.5.0</small></h1>" in page
        assert "Says what it hears." in page
        assert "<code>inner.weight</code>" in page
        assert "float32 array or none" in page
        assert re.search(r"Sessions at most</dt><dd><span class=.number.>7<", page)
        assert 'href="./openapi.json"' in page
        assert "openenv-async play http://127.0.0.1" in page
        assert (await http.get("/")).json()["environment"] == "Echo"
        head = await http.head("/", headers=HTML)
        assert head.status_code == 200


async def test_the_policy_and_headers_of_the_page_and_its_files() -> None:
    assert "'unsafe" not in CONTENT_POLICY
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in CONTENT_POLICY
    assert "frame-ancestors 'none'; base-uri 'none'; form-action 'self'" in CONTENT_POLICY
    async with asking(create_app(Counter, token="t")) as http:
        for headers in (HTML, {**HTML, "Authorization": "Bearer t"}):
            reply = await http.get("/", headers=headers)
            assert reply.headers["Content-Security-Policy"] == CONTENT_POLICY
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert reply.headers["Referrer-Policy"] == "same-origin"
            assert reply.headers["Cache-Control"] == "no-store"
        for name, media in (("css", "text/css"), ("js", "text/javascript"), ("svg", "image/svg")):
            file = await http.get(f"/page.{name}")
            assert file.status_code == 200
            assert file.headers["content-type"].startswith(media)
            assert file.headers["X-Content-Type-Options"] == "nosniff"
            assert file.headers["Referrer-Policy"] == "no-referrer"
            again = await http.get(f"/page.{name}", headers={"If-None-Match": file.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")


async def test_what_an_environment_says_stays_text() -> None:
    several = create_app_of_several({"marked": EnvironmentSpec(Marked, name=MARK)})
    async with asking(create_app(Marked, name=MARK)) as http:
        pages = [(await http.get("/", headers=HTML)).text]
    async with asking(several) as http:
        pages += [(await http.get(path, headers=HTML)).text for path in ("/", "/marked/")]
    for page in pages:
        assert "&lt;b id=mark&gt;" in page
        assert "<b" not in page.replace("<body", "")


async def test_a_token_is_typed_into_a_form_and_kept_in_a_cookie() -> None:
    async with asking(create_app(Counter, token="a; b=1 ü".encode().hex())) as http:
        token = "a; b=1 ü".encode().hex()
        form = await http.get("/", headers=HTML)
        assert form.status_code == 401
        assert form.headers["WWW-Authenticate"] == "Bearer"
        assert 'action="./login"' in form.text
        assert "asks for a token" in form.text
        assert "/step" not in form.text
        wrong = await http.post("/login", data={"token": "no"}, headers=SAME)
        assert wrong.status_code == 401
        assert "not valid" in wrong.text
        assert "set-cookie" not in wrong.headers
        right = await http.post("/login", data={"token": token}, headers=SAME)
        assert (right.status_code, right.headers["location"]) == (303, "./")
        cookie = right.headers["set-cookie"]
        assert re.match(r"openenv_token_[0-9a-f]{8}=", cookie)
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Secure" not in cookie
        assert "Path" not in cookie  # the folder of the form's address, as the browser has it
        page = await http.get("/", headers=HTML)
        assert page.status_code == 200
        assert "Log out" in page.text
        assert token not in page.text
        out = await http.post("/logout", headers=SAME)
        assert (out.status_code, out.headers["location"]) == (303, "./")
        assert "Max-Age=0" in out.headers["set-cookie"]
        assert (await http.get("/", headers=HTML)).status_code == 401


async def test_over_tls_the_cookie_is_secure() -> None:
    app = create_app(Counter, token="t")
    for base, origin in (("https://h.test", "https://h.test"), ("http://h.test", "https://h.test")):
        transport = httpx.ASGITransport(app)  # the second: a proxy ended the TLS
        async with httpx.AsyncClient(transport=transport, base_url=base) as http:
            reply = await http.post("/login", data={"token": "t"}, headers={"Origin": origin})
            assert "; Secure" in reply.headers["set-cookie"]


@pytest.mark.parametrize("origin", [None, "http://elsewhere.test", "null", "http://127.0.0.1:81"])
@pytest.mark.parametrize("path", ["/login", "/logout"])
async def test_forms_of_other_pages_are_refused(path: str, origin: str | None) -> None:
    async with asking(create_app(Counter, token="t")) as http:
        headers = {} if origin is None else {"Origin": origin}
        reply = await http.post(path, data={"token": "t"}, headers=headers)
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "origin_refused"
        assert "set-cookie" not in reply.headers


async def test_with_the_cookie_a_change_needs_the_origin_and_the_secret() -> None:
    async with asking(create_app(Counter, token="t")) as http:
        await http.post("/login", data={"token": "t"}, headers=SAME)
        page = (await http.get("/", headers=HTML)).text
        found = re.search(r'name="openenv-csrf" content="([0-9a-f]{32})"', page)
        assert found is not None
        secret = {"X-OpenEnv-CSRF": found[1]}
        assert (await http.get("/stats")).status_code == 200
        for headers in ({}, SAME, secret, {**SAME, "X-OpenEnv-CSRF": "0" * 32}):
            reply = await http.post("/reset", json={}, headers=headers)
            assert reply.status_code == 403
            assert "X-OpenEnv-CSRF" in reply.json()["error"]["message"]
        assert (await http.post("/reset", json={}, headers={**SAME, **secret})).status_code == 200


@pytest.mark.parametrize("value", ["", "!", "%74", base64.b64encode(b"u").decode()])
async def test_other_cookies_open_nothing(value: str) -> None:
    async with asking(create_app(Counter, token="t")) as http:
        reply = await http.post("/login", data={"token": "t"}, headers=SAME)
        name = reply.headers["set-cookie"].partition("=")[0]
        http.cookies.clear()
        assert (await http.get("/", headers={"Cookie": f"{name}={value}"})).status_code == 401
        good = reply.headers["set-cookie"].partition(";")[0]
        for cookies, status in ((f"{name}={value}; {good}", 200), (good.replace("_", "-", 1), 401)):
            assert (await http.get("/", headers={"Cookie": cookies})).status_code == status
        wrong = {"Cookie": good, "Authorization": "Bearer no"}
        assert (await http.get("/", headers=wrong)).status_code == 401


async def test_a_form_is_small() -> None:
    async with asking(create_app(Counter, token="t")) as http:
        reply = await http.post("/login", content=b"x" * 20_000, headers=SAME)
        assert reply.status_code == 413


async def test_one_login_is_for_all_environments() -> None:
    envs = {"one": EnvironmentSpec(Counter), "two": EnvironmentSpec(Echo)}
    async with asking(create_app_of_several(envs, token="t")) as http:
        form = await http.get("/two/", headers=HTML)
        assert form.status_code == 401
        assert 'action="../login"' in form.text
        assert 'name="below" value="two"' in form.text
        fields = {"token": "t", "below": "two"}
        reply = await http.post("/login", data=fields, headers=SAME)
        assert reply.headers["location"] == "./two/"
        fields["below"] = "//elsewhere.test"
        reply = await http.post("/login", data=fields, headers=SAME)
        assert reply.headers["location"] == "./"
        index = (await http.get("/", headers=HTML)).text
        assert "<h1>2 environments</h1>" in index
        assert '<a href="./two/">two</a>' in index
        page = (await http.get("/two/", headers=HTML)).text
        assert '<a href="../" class="up">' in page
        assert 'action="../logout"' in page
        assert 'href="./page.css"' in page
        assert (await http.get("/two/page.css")).status_code == 200


async def test_below_a_prefix_every_address_is_relative() -> None:
    inner = create_app(Counter, token="t")
    async with asking(Starlette(routes=[Mount("/a/b", inner)])) as http:
        form = (await http.get("/a/b/", headers=HTML)).text
        page = (await http.get("/a/b/", headers={**HTML, "Authorization": "Bearer t"})).text
        for text in (form, page):
            addresses = re.findall(r'(?:href|src|action)="([^"]*)"', text)
            assert addresses
            assert all(each.startswith(("./", "#")) for each in addresses)
        assert "http://127.0.0.1/a/b" in page
        assert (await http.get("/a/b/page.css")).status_code == 200
        reply = await http.post("/a/b/login", data={"token": "t"}, headers=SAME)
        assert reply.headers["location"] == "./"


async def test_production_has_nothing_to_play_with() -> None:
    async with asking(create_app(Counter, mode="production")) as http:
        page = (await http.get("/", headers=HTML)).text
        assert 'id="player"' not in page
        assert "production mode" in page
