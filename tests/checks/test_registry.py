"""The registry: what a check is, how it is found, and the names that it had before."""

from __future__ import annotations

import pytest

from openenv_async.checks import registry
from openenv_async.checks.registry import (
    Check,
    CheckFailed,
    Result,
    check,
    chosen,
    of_kind,
    require,
)
from openenv_async.errors import InvalidOption


async def passes(subject: object) -> None:
    """Promise
    nothing."""


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """A registry that holds nothing but what the test registers."""
    checks: list[Check] = []
    monkeypatch.setattr(registry, "_REGISTERED", checks)
    return checks


def test_a_check_is_registered_with_its_promise(registered: list[Check]) -> None:
    returned = check("conformance", "stream", "busy", own=True, remedy="look here")(passes)
    assert returned is passes
    assert registered == [
        Check(
            "passes",
            "Promise nothing.",
            passes,
            "conformance",
            "look here",
            frozenset({"stream", "busy"}),
            True,
        )
    ]


def test_a_check_needs_nothing_by_default(registered: list[Check]) -> None:
    check("folder", remedy="look there")(passes)
    assert registered[0].needs == frozenset()
    assert not registered[0].own


def test_two_kinds_may_have_a_check_of_one_name(registered: list[Check]) -> None:
    check("folder", remedy="one")(passes)
    check("behaviour", remedy="other")(passes)
    assert of_kind("folder")["passes"].remedy == "one"
    assert of_kind("behaviour")["passes"].remedy == "other"
    assert of_kind("conformance") == {}
    assert [each.kind for each in of_kind("folder", "behaviour").values()] == ["behaviour"]


def test_checks_are_chosen_by_name_in_the_order_asked_for(registered: list[Check]) -> None:
    checks = {name: Check(name, "", passes, "folder", "") for name in ("first", "second")}
    assert chosen(checks, None) == list(checks.values())
    assert chosen(checks, "second") == [checks["second"]]
    assert chosen(checks, ("second", "first")) == [checks["second"], checks["first"]]
    with pytest.raises(InvalidOption, match="there is no check 'third'; there are first, second"):
        chosen(checks, ["first", "third"])


def test_require_says_what_was_found() -> None:
    require(1, "not raised")
    with pytest.raises(CheckFailed, match="the count is 0"):
        require(0, "the count is 0")


def test_old_attributes_still_work_and_warn() -> None:
    with pytest.warns(DeprecationWarning, match=r"Result\.subject"):
        assert Result("name", "http", "passed").door == "http"
    with pytest.warns(DeprecationWarning, match=r"Check\.kind"):
        assert Check("name", "", passes, "folder", "").subject == "folder"


def test_old_names_of_other_modules_still_work_and_warn() -> None:
    from openenv_async.checks import conformance, raw_connection, transports, upstream_client

    with pytest.warns(DeprecationWarning, match="RawConnection"):
        assert raw_connection.RawWire is raw_connection.RawConnection
    with pytest.warns(DeprecationWarning, match="UpstreamError"):
        assert upstream_client.UpstreamFault is upstream_client.UpstreamError
    with pytest.warns(DeprecationWarning, match=r"conformance\.subject\.Subject"):
        assert registry.Subject is conformance.Subject
    with pytest.warns(DeprecationWarning, match=r"conformance\.suite\.CHECKS"):
        assert registry.CHECKS is conformance.CHECKS
    with (
        pytest.warns(DeprecationWarning, match="raw_connection"),
        pytest.raises(NotImplementedError),
    ):
        transports.HTTPTransport("http://127.0.0.1:9").wire()


def test_old_class_names_still_work_and_warn() -> None:
    from openenv_async.checks import conformance, transports

    for old, new in (
        ("Door", "Transport"),
        ("HTTPDoor", "HTTPTransport"),
        ("MemoryDoor", "InProcessTransport"),
        ("NativeDoor", "NativeTransport"),
        ("UpstreamDoor", "UpstreamTransport"),
    ):
        for module in (conformance, transports):
            with pytest.warns(DeprecationWarning, match=new):
                assert getattr(module, old) is getattr(transports, new)
