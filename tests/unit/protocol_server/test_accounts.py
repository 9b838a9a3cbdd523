"""The users that sandboxes run as, and the files in which their programs look them up."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol_server.backends.accounts import account, account_mounts, group, passwd, write_accounts
from protocol_server.errors import StartFailedError

from .memory import runtime, server_config


def entries(text: str) -> dict[str, list[str]]:
    """Lines by their id; the first one wins, as for the C library."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        fields = line.split(":")
        found.setdefault(fields[2], fields)
    return found


@pytest.mark.parametrize(
    ("user", "expected"),
    [("", (10000, 10000)), ("1000660000:0", (1000660000, 0)), ("77", (77, 10000)), ("65534:65534", (65534, 65534))],
)
def test_who_a_sandbox_is(tmp_path: Path, user: str, expected: tuple[int, int]) -> None:
    found = account(server_config(tmp_path), runtime("r", user=user))
    assert (found.uid, found.gid) == expected
    people, groups = entries(passwd(found)), entries(group(found))
    assert all(len(fields) == 7 for fields in people.values())
    assert all(len(fields) == 4 for fields in groups.values())
    assert people[str(found.uid)] == ["sandbox", "x", *map(str, expected), "sandbox", "/tmp", "/usr/sbin/nologin"]
    assert groups[str(found.gid)][0] == ("root" if found.gid == 0 else "sandbox")
    assert people["0"][0] == groups["0"][0] == "root"
    names = [fields[0] for fields in people.values()]
    assert len(names) == len(set(names)) == len(passwd(found).splitlines())


def test_files_are_right_and_written_once(tmp_path: Path) -> None:
    config, one = server_config(tmp_path), runtime("r", user="1000660000:0")
    write_accounts(config, one)
    files = account_mounts(config, one)
    assert set(files) == {"/etc/passwd", "/etc/group"}
    assert files["/etc/passwd"].read_text().startswith("sandbox:x:1000660000:0:")
    before = {file: file.stat() for file in files.values()}
    assert all(status.st_mode & 0o777 == 0o444 for status in before.values())
    assert files["/etc/passwd"].parent.stat().st_mode & 0o777 == 0o755
    write_accounts(config, one)
    assert {file: file.stat().st_ino for file in before} == {file: status.st_ino for file, status in before.items()}
    files["/etc/passwd"].chmod(0o666)
    files["/etc/group"].unlink()
    files["/etc/group"].symlink_to(tmp_path / "planted")
    (tmp_path / "planted").write_text("root:x:0:\n")
    write_accounts(config, one)
    assert files["/etc/passwd"].stat().st_mode & 0o777 == 0o444
    assert not files["/etc/group"].is_symlink()
    assert (tmp_path / "planted").read_text() == "root:x:0:\n"


def test_a_host_that_refuses(tmp_path: Path) -> None:
    config = server_config(tmp_path)
    (tmp_path / "accounts").write_text("in the way")
    with pytest.raises(StartFailedError) as caught:
        write_accounts(config, runtime("r"))
    assert caught.value.message == "could not write the user of a sandbox"
    assert str(tmp_path) in caught.value.detail
