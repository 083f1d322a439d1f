"""Folders of containers: found by name and address, and only below a folder that is private."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openenv_async.endpoints.local import find_folder, is_private, users_folder, write_addresses

NAME = "0f" * 16
ADDRESS = "127.0.0.1:40000"


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, private, with that of a server in it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = users_folder()
    (folder / NAME).mkdir(parents=True)
    folder.chmod(0o700)
    write_addresses(folder / NAME, [ADDRESS, "172.17.0.2:8000"])
    return folder


def test_the_users_folder_is_that_of_the_session_or_a_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert users_folder() == tmp_path / "openenv_async"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", "/somewhere")
    assert users_folder() == Path(f"/somewhere/openenv_async-{os.geteuid()}")


def test_a_folder_is_found_by_every_address_of_its_server_and_no_other(users: Path) -> None:
    assert find_folder(NAME, ADDRESS) == users / NAME
    assert find_folder(NAME, "172.17.0.2:8000") == users / NAME
    assert find_folder(NAME, "127.0.0.1:40001") is None
    assert find_folder(NAME, "") is None
    assert find_folder("1f" * 16, ADDRESS) is None


def test_a_folder_that_others_could_have_made_is_not_used(users: Path) -> None:
    users.chmod(0o750)
    assert not is_private(users)
    assert find_folder(NAME, ADDRESS) is None


def test_a_link_is_no_private_folder(users: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(users)
    assert is_private(users)
    assert not is_private(link)
    assert not is_private(tmp_path / "missing")


def test_addresses_are_replaced_as_a_whole(users: Path) -> None:
    write_addresses(users / NAME, ["10.0.0.1:1"])
    assert find_folder(NAME, ADDRESS) is None
    assert find_folder(NAME, "10.0.0.1:1") == users / NAME
    assert sorted(path.name for path in users.iterdir()) == [NAME, f"{NAME}.addresses"]
