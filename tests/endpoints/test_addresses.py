"""Addresses that lie on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from openenv_async.endpoints import addresses
from openenv_async.endpoints.addresses import is_here, is_on_bridge

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
br-1\t000012AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
tun0\t000112AC\t010012AC\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


@pytest.fixture(autouse=True)
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bridges, one network card, and a tunnel to a part of what the second bridge has."""
    (tmp_path / "route").write_text(ROUTES)
    for name in ("docker0", "br-1"):
        (tmp_path / name / "bridge").mkdir(parents=True)
    for name in ("eth0", "tun0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(addresses, "_ROUTES", tmp_path / "route")
    monkeypatch.setattr(addresses, "_INTERFACES", tmp_path)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("172.17.0.2", True),
        ("172.17.255.254", True),
        ("172.18.0.9", True),
        ("172.18.1.9", False),  # the tunnel's, which is the narrower route
        ("192.0.2.7", False),  # on the card's own network: another machine
        ("8.8.8.8", False),
        ("172.19.0.2", False),
        ("::1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_what_is_on_a_bridge(address: str, expected: bool) -> None:
    assert is_on_bridge(address) == expected
    if address:
        host = f"[{address}]" if ":" in address else address
        assert is_here(f"http://{host}:8000") == (expected or address in ("::1", "localhost"))


def test_without_the_kernels_table_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_ROUTES", Path("/nonexistent/route"))
    assert not is_on_bridge("172.17.0.2")
