"""Folders of containers: found by name and address, given once, private, and removed."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from openenv_async.endpoints.local import (
    GIVER_NAME,
    SOCKET_NAME,
    LocalFolder,
    find_folder,
    is_private,
    remove_folders,
    short_path,
    take_listener,
    users_folder,
)

NAME = "0f" * 16
ADDRESS = "127.0.0.1:40000"


@pytest.fixture(autouse=True)
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, which does not exist yet."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "openenv_async"


@pytest.fixture
def folder() -> Iterator[LocalFolder]:
    folder = LocalFolder(NAME, "me")
    folder.tell([ADDRESS, "172.17.0.2:8000"])
    yield folder
    folder.remove()


def test_the_users_folder_is_that_of_the_session_or_a_temporary_one(
    users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert users_folder() == users
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", "/somewhere")
    assert users_folder() == Path(f"/somewhere/openenv_async-{os.geteuid()}")


def test_a_folder_is_found_by_every_address_of_its_server_and_no_other(folder: LocalFolder) -> None:
    assert find_folder(NAME, ADDRESS) == folder.path
    assert find_folder(NAME, "172.17.0.2:8000") == folder.path
    assert find_folder(NAME, "127.0.0.1:40001") is None
    assert find_folder(NAME, "") is None
    assert find_folder("1f" * 16, ADDRESS) is None
    folder.tell(["10.0.0.1:1"])
    assert find_folder(NAME, ADDRESS) is None
    assert find_folder(NAME, "10.0.0.1:1") == folder.path


def test_nobody_else_reaches_the_sockets(folder: LocalFolder, users: Path) -> None:
    assert is_private(users)
    assert (folder.path / SOCKET_NAME).stat().st_mode & 0o777 == 0o600
    users.chmod(0o750)
    assert not is_private(users)
    assert find_folder(NAME, ADDRESS) is None
    with pytest.raises(PermissionError, match="not this user's alone"):
        LocalFolder("1f" * 16, "me")


def test_a_link_is_no_private_folder(folder: LocalFolder, users: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(users)
    assert is_private(users)
    assert not is_private(link)
    assert not is_private(tmp_path / "missing")


def test_the_socket_is_given_to_one_server_and_not_kept(folder: LocalFolder) -> None:
    assert not folder.give()  # nobody asks yet
    giving = threading.Thread(target=_give, args=(folder,))
    giving.start()
    listener = take_listener(folder.path, 5.0)
    giving.join()
    with listener:
        assert not listener.get_inheritable()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            connect(client, folder)
            accepted, _ = listener.accept()
            accepted.close()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
        pytest.raises(ConnectionRefusedError),  # the server was the last that had it
    ):
        connect(client, folder)
    with pytest.raises(ConnectionRefusedError):
        take_listener(folder.path, 5.0)


def connect(client: socket.socket, folder: LocalFolder) -> None:
    with short_path(folder.path) as path:
        client.connect(f"{path}/{SOCKET_NAME}")


def _give(folder: LocalFolder) -> None:
    folder.giver.setblocking(True)
    assert folder.give()


def test_nothing_is_waited_for_for_ever(folder: LocalFolder) -> None:
    with pytest.raises(TimeoutError):
        take_listener(folder.path, 0.01)


def test_a_giver_that_gives_nothing_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as giver:
        with short_path(tmp_path) as path:
            giver.bind(f"{path}/{GIVER_NAME}")
        giver.listen()

        def hang_up() -> None:
            giver.accept()[0].close()

        hanging_up = threading.Thread(target=hang_up)
        hanging_up.start()
        with pytest.raises(ConnectionRefusedError, match="gave no socket"):
            take_listener(tmp_path, 5.0)
        hanging_up.join()


def test_nothing_is_left_of_a_folder(folder: LocalFolder, users: Path) -> None:
    other = LocalFolder("1f" * 16, "me")
    folder.remove()
    assert sorted(path.name for path in users.iterdir()) == ["1f" * 16, f"{'1f' * 16}.owner"]
    other.remove()
    other.remove()
    assert list(users.iterdir()) == []


def test_a_path_may_be_longer_than_the_address_of_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("a" * 120)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    folder = LocalFolder(NAME, "me")
    giving = threading.Thread(target=_give, args=(folder,))
    giving.start()
    take_listener(folder.path, 5.0).close()
    giving.join()
    folder.remove()


def test_where_nothing_can_be_written_there_is_no_folder(users: Path) -> None:
    users.write_text("in the way")
    with pytest.raises(OSError, match="File exists"):
        LocalFolder(NAME, "me")


def test_folders_of_owners_that_are_gone_are_removed(folder: LocalFolder, users: Path) -> None:
    LocalFolder("1f" * 16, "gone")._sockets.close()
    assert remove_folders(lambda owner: owner == "gone") == 1
    assert find_folder(NAME, ADDRESS) == folder.path
    assert sorted(path.name for path in users.iterdir()) == [
        NAME,
        f"{NAME}.addresses",
        f"{NAME}.owner",
    ]


def test_without_a_folder_there_is_nothing_to_remove() -> None:
    assert remove_folders(lambda owner: True) == 0


@pytest.mark.parametrize("kind", ["open to others", "a link"])
def test_a_folder_that_others_may_change_is_neither_read_nor_swept(
    folder: LocalFolder, users: Path, tmp_path: Path, kind: str
) -> None:
    os.mkfifo(users / f"{'1f' * 16}.addresses")  # opening it would wait for ever
    os.mkfifo(users / f"{'1f' * 16}.owner")
    if kind == "a link":
        users.rename(tmp_path / "elsewhere")
        users.symlink_to(tmp_path / "elsewhere")
    else:
        users.chmod(0o707)
    before = sorted(users.iterdir())
    assert find_folder("1f" * 16, ADDRESS) is None
    assert remove_folders(lambda owner: True) == 0
    assert sorted(users.iterdir()) == before


def test_one_owner_that_cannot_be_read_does_not_stop_the_sweep(
    folder: LocalFolder, users: Path
) -> None:
    for number in range(1, 9):
        LocalFolder(f"{number}f" * 16, "gone")._sockets.close()
    (users / "a.owner").write_bytes(b"\xff")
    (users / "b.owner").mkdir()
    assert remove_folders(lambda owner: owner == "gone") == 8
    assert find_folder(NAME, ADDRESS) == folder.path
