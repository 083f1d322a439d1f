"""The page's server: what it gives, to whom, and what it refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from openenv_async.viewer import ViewerServer, open_source
from tests.viewer.samples import quick_episode, write_sample
from tests.viewer.test_columns import unpacked


async def test_the_page_and_its_data(tmp_path: Path) -> None:
    source = open_source(write_sample(tmp_path / "a.jsonl", 12))
    async with ViewerServer([source]) as server, httpx.AsyncClient(base_url=server.url) as client:
        page = await client.get("")
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert (
            (await client.get("static/main.js"))
            .headers["content-type"]
            .startswith("text/javascript")
        )
        async with asyncio.timeout(10):
            while not (await client.get("sources")).json()[0]["is_current"]:
                pass
        header, columns = unpacked((await client.get("index/0")).content)
        assert columns["index"] == list(range(12))
        texts = len(header["tables"]["task"]["texts"])
        again = f"index/0?epoch={header['epoch']}&first=12&known=task:{texts},x:y"
        header, columns = unpacked((await client.get(again)).content)
        assert (header["rows"], header["tables"]["task"]["texts"]) == (0, [])
        record = (await client.get("record/0/3?first=0")).json()
        assert record["episode"]["task_id"] == "mend-the-build"
        assert (await client.get("search/0", params={"text": "header"})).json() == {
            "rows": [3],
            "whole": True,
        }


async def test_what_is_written_meanwhile_comes(tmp_path: Path) -> None:
    from openenv_async.rollouts import open_writer

    path = write_sample(tmp_path / "a.jsonl", 2)
    async with (
        ViewerServer([open_source(path)]) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        with open_writer(path, append=True) as writer:
            writer.write(quick_episode(77))
        async with asyncio.timeout(10):
            while unpacked((await client.get("index/0")).content)[1]["index"][-1:] != [77]:
                pass


@pytest.mark.parametrize(
    "path",
    [
        "index/1",
        "record/1/0",
        "record/0/99",
        "search/0?text=",
        "search/1?text=a",
        "static/../page.py",
        "static/no.js",
    ],
)
async def test_what_is_not_there(tmp_path: Path, path: str) -> None:
    source = open_source(write_sample(tmp_path / "a.jsonl", 1))
    async with ViewerServer([source]) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get(path)).status_code == 404


async def test_others_are_refused(tmp_path: Path) -> None:
    source = open_source(write_sample(tmp_path / "a.jsonl", 1))
    async with ViewerServer([source]) as server, httpx.AsyncClient() as client:
        address = urlsplit(server.url)
        root = f"http://{address.netloc}/"
        assert (await client.get(root)).status_code == 404
        assert (await client.get(f"{root}another-token/sources")).status_code == 404
        named = {"host": f"rebound.example:{address.port}"}
        assert (await client.get(f"{server.url}sources", headers=named)).status_code == 403
        assert (await client.post(f"{server.url}sources")).status_code == 403


async def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    source = open_source(write_sample(tmp_path / "a.jsonl", 1))
    async with ViewerServer([source]) as server:
        port = urlsplit(server.url).port
        assert port is not None
        with pytest.raises(OSError, match="in use"):
            ViewerServer([source], port=port)
