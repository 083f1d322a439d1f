"""This machine's pip settings, for a build."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openenv_async.building.pip_settings import pip_files, wants_pip_settings


def test_pip_settings_are_sent_to_a_dockerfile_that_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert wants_pip_settings("FROM x\nARG PIP_CONFIG_FILE\n")
    assert not wants_pip_settings("FROM x\n# ARG PIP_CONFIG_FILE\nARG PIP_CONFIG_FILES\n")
    certificates = tmp_path / "bundle.pem"
    certificates.write_bytes(b"certificates")
    for name in [n for n in os.environ if n.startswith("PIP_")] + ["SSL_CERT_FILE"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert pip_files() == {}
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.test/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "/local/folder https://more.test/simple")
    monkeypatch.setenv("PIP_CERT", str(certificates))
    sent = pip_files()
    assert sent["ca.crt"] == b"certificates"
    assert sent["pip.conf"].decode().splitlines() == [
        "[global]",
        "cert = ca.crt",
        "index-url = https://index.test/simple",
        "extra-index-url = https://more.test/simple",
    ]


def test_the_environment_counts_more_than_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [n for n in os.environ if n.startswith("PIP_")] + ["SSL_CERT_FILE"]:
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://file.test\ntimeout = 7\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    lines = pip_files()["pip.conf"].decode().splitlines()
    assert lines[0] == "[global]"
    assert {"index-url = https://file.test", "timeout = 7"} <= set(lines)
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.test")
    lines = pip_files()["pip.conf"].decode().splitlines()
    assert {"index-url = https://variable.test", "timeout = 7"} <= set(lines)
    assert "index-url = https://file.test" not in lines


def test_a_bundle_of_the_system_is_sent_and_a_missing_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    bundle = tmp_path / "bundle.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert pip_files() == {}
    bundle.write_bytes(b"x")
    assert pip_files() == {"ca.crt": b"x", "pip.conf": b"[global]\ncert = ca.crt\n"}


@pytest.mark.parametrize("folder", ["file:///a", "/a", "./a", "../a", "~/a"])
def test_folders_of_this_machine_stay_here(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    for name in [n for n in os.environ if n.startswith("PIP_")] + ["SSL_CERT_FILE"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", folder)
    assert pip_files() == {}
