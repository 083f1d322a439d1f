"""What becomes of a request that does not get through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from openenv_async.client.endpoint import Endpoint, taken_number
from openenv_async.client.settings import ClientSettings
from openenv_async.errors import ConnectFailed, ConnectionLost, OpenEnvError
from openenv_async.types import Limits, Timeouts


class Failing(Endpoint):
    """Attempts fail one after another, in this way."""

    def __init__(self, *errors: Exception) -> None:
        settings = ClientSettings(limits=Limits(max_message_size=1), timeouts=Timeouts(connect=0.5))
        super().__init__("http://127.0.0.1:1", settings)
        self.errors = list(errors)

    async def _client(self) -> Any:
        return self

    def request(self, *args: Any, **settings: Any) -> Any:
        raise self.errors.pop(0)


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([aiohttp.ConnectionTimeoutError()], ConnectFailed),
        ([aiohttp.ServerDisconnectedError()] * 4, ConnectionLost),
        # The first attempt may have arrived: this is no failure to connect.
        (
            [aiohttp.ServerDisconnectedError(), *[aiohttp.ConnectionTimeoutError()] * 3],
            ConnectionLost,
        ),
    ],
)
async def test_only_a_first_attempt_fails_to_connect(
    errors: list[Exception], raised: type[OpenEnvError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openenv_async.client.endpoint._PAUSES", (0.0,) * 4)
    endpoint = Failing(*errors)
    with pytest.raises(raised) as caught:
        await endpoint.exchange("POST", "/step", b"", {}, 1.0)
    assert type(caught.value) is raised
    assert not endpoint.errors


def test_a_server_without_a_token_is_sent_none() -> None:
    endpoint = Failing()
    endpoint.move("http://127.0.0.1:2", "secret")
    assert endpoint.headers["Authorization"] == "Bearer secret"
    endpoint.move("http://127.0.0.1:3", None)
    assert "Authorization" not in endpoint.headers


@pytest.mark.parametrize(
    ("text", "number"), [("7", 7), ("", None), ("-1", None), ("9" * 5000, None)]
)
def test_numbers_that_servers_say(text: str, number: int | None) -> None:
    response: Any = SimpleNamespace(headers={"X-OpenEnv-Seq": text})
    assert taken_number(response) == number
