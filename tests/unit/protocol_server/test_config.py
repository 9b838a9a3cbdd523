"""Configuration: what is good, and that every bad file is refused with file, line and rule."""

from __future__ import annotations

import grp
import os
import pwd
import re
import sys
from pathlib import Path

import pytest

from protocol_server.__main__ import main
from protocol_server.config import ConfigError, Pool, load

USER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name

SERVER = f"""\
instance: caisson
socket_group: {GROUP}
allowed_users: [{USER}]
"""
RUNTIME = f"""\
runtimes:
  - id: plc_python_shared
    language: python
    image: sha256:{"a" * 64}
    image_name: caisson/plpython:abc
    memory_mb: 512
    cpu_shares: 1024
    cpus: 1
    pids: 64
    tmpfs_mb: 64
    nofile: 1024
    roles: []
    pool: {{min: 1, max: 4}}
"""


def write(directory: Path, server: str = SERVER, runtimes: str = RUNTIME) -> Path:
    (directory / "runtimes.yml").write_text(runtimes, encoding="utf-8")
    file = directory / "protocol_server.yml"
    file.write_text(server + f"runtimes_file: {directory}/runtimes.yml\n", encoding="utf-8")
    return file


def problems(file: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return [str(problem).replace(f"{file.parent}/", "") for problem in caught.value.problems]


def test_good(tmp_path: Path) -> None:
    config = load(write(tmp_path))
    assert config.server.allowed_uids == {os.getuid()}
    assert config.server.max_sandboxes == 64
    assert config.server.socket == Path("/run/plcontainer/protocol_server.sock")
    runtime = config.runtimes["plc_python_shared"]
    assert runtime.command == ("python3", "-I", "/opt/caisson/runtime_python")
    assert (runtime.pool, runtime.roles, runtime.cpus) == (Pool(1, 4), (), 1.0)


def test_no_runtimes_and_whole_floats(tmp_path: Path) -> None:
    assert not load(write(tmp_path, runtimes="runtimes: []\n")).runtimes
    whole = RUNTIME.replace("memory_mb: 512", "memory_mb: 512.0")
    assert isinstance(load(write(tmp_path, runtimes=whole)).runtimes["plc_python_shared"].memory_mb, int)


BAD_RUNTIMES = {
    "not yaml": ("runtimes: [", "runtimes.yml:1: not valid YAML: "),
    "tab": ("runtimes:\n\t- id: x\n", "runtimes.yml:2: not valid YAML: "),
    "empty": ("", "runtimes.yml: the file is empty"),
    "list": ("- id: x\n", "runtimes.yml:1: must be of type object, not array"),
    "unknown top key": (RUNTIME + "extra: 1\n", "runtimes.yml:14: extra: unknown key; known are runtimes"),
    "no runtimes": ("{}\n", "runtimes.yml:1: key 'runtimes' is missing"),
    "null": ("runtimes:\n", "runtimes.yml:1: runtimes: must be of type array, not null"),
    "unknown key": (RUNTIME + "    memory: 1\n", "runtimes.yml:14: runtimes[0].memory: unknown key; known are command"),
    "repeated key": (RUNTIME + "    pids: 5\n", "runtimes.yml:14: key 'pids' is repeated, first in line 9"),
    "repeated id": (
        RUNTIME + RUNTIME.removeprefix("runtimes:\n"),
        "runtimes.yml:14: runtimes[1].id: id 'plc_python_shared' is repeated, first in line 2",
    ),
    "missing key": (
        RUNTIME.replace("    nofile: 1024\n", ""),
        "runtimes.yml:2: runtimes[0]: key 'nofile' is missing",
    ),
    "id with blank": (RUNTIME.replace("plc_python_shared", "a b"), "runtimes.yml:2: runtimes[0].id: 'a b' is not of"),
    "id too long": (RUNTIME.replace("plc_python_shared", "a" * 64), "runtimes.yml:2: runtimes[0].id: 'aaa"),
    "id with newline": (RUNTIME.replace("plc_python_shared", '"a\\n"'), "runtimes.yml:2: runtimes[0].id: 'a\\n' is"),
    "id starts with dot": (RUNTIME.replace("plc_python_shared", ".a"), "runtimes.yml:2: runtimes[0].id: '.a' is not"),
    "id is a number": (
        RUNTIME.replace("plc_python_shared", "12"),
        "runtimes.yml:2: runtimes[0].id: must be of type string",
    ),
    "image is a tag": (
        RUNTIME.replace("sha256:" + "a" * 64, "caisson/plpython:latest"),
        "runtimes.yml:4: runtimes[0].image: 'caisson/plpython:latest' is not of the expected form (the id of an image",
    ),
    "image digest too short": (RUNTIME.replace("a" * 64, "a" * 63), "runtimes.yml:4: runtimes[0].image: "),
    "image name with blank": (
        RUNTIME.replace("plpython:abc", "plpython abc"),
        "runtimes.yml:5: runtimes[0].image_name: ",
    ),
    "memory too small": (
        RUNTIME.replace("512", "15"),
        "runtimes.yml:6: runtimes[0].memory_mb: must be at least 16, not 15",
    ),
    "memory as text": (
        RUNTIME.replace("512", "512m"),
        "runtimes.yml:6: runtimes[0].memory_mb: must be of type integer, not string",
    ),
    "memory is true": (
        RUNTIME.replace("512", "true"),
        "runtimes.yml:6: runtimes[0].memory_mb: must be of type integer, not boolean",
    ),
    "shares too many": (
        RUNTIME.replace("cpu_shares: 1024", "cpu_shares: 262145"),
        "runtimes.yml:7: runtimes[0].cpu_shares: must be at most 262144, not 262145",
    ),
    "cpus zero": (RUNTIME.replace("cpus: 1\n", "cpus: 0\n"), "runtimes.yml:8: runtimes[0].cpus: must be at least 0.01"),
    "cpus infinite": (RUNTIME.replace("cpus: 1\n", "cpus: .inf\n"), "runtimes.yml:8: runtimes[0].cpus: not a finite"),
    "cpus not a number": (
        RUNTIME.replace("cpus: 1\n", "cpus: .nan\n"),
        "runtimes.yml:8: runtimes[0].cpus: not a finite",
    ),
    "pids negative": (RUNTIME.replace("pids: 64", "pids: -1"), "runtimes.yml:9: runtimes[0].pids: must be at least 1"),
    "role empty": (RUNTIME.replace("roles: []", 'roles: [""]'), "runtimes.yml:12: runtimes[0].roles[0]: "),
    "role is yes": (
        RUNTIME.replace("roles: []", "roles: [yes]"),
        "runtimes.yml:12: runtimes[0].roles[0]: must be of type string, not boolean",
    ),
    "role twice": (RUNTIME.replace("roles: []", "roles: [a, a]"), "runtimes.yml:12: runtimes[0].roles: "),
    "pool upside down": (
        RUNTIME.replace("{min: 1, max: 4}", "{min: 5, max: 4}"),
        "runtimes.yml:13: runtimes[0].pool: min of 5 is more than max of 4",
    ),
    "pool unknown key": (
        RUNTIME.replace("{min: 1, max: 4}", "{min: 1, max: 4, size: 1}"),
        "runtimes.yml:13: runtimes[0].pool.size: unknown key; known are max, min",
    ),
    "unknown language": (
        RUNTIME.replace("language: python", "language: perl"),
        "runtimes.yml:3: runtimes[0].language: 'perl' is not in runtime_directories, which has python, r",
    ),
    "command as text": (
        RUNTIME + "    command: python3 -I\n",
        "runtimes.yml:14: runtimes[0].command: must be of type array",
    ),
    "user root": (RUNTIME + '    user: "0:0"\n', "runtimes.yml:14: runtimes[0].user: '0:0' is not of the expected"),
    "user by name": (RUNTIME + "    user: postgres\n", "runtimes.yml:14: runtimes[0].user: 'postgres' is not of the"),
    "user as YAML's number": (
        RUNTIME + "    user: 1000660000:0\n",
        "runtimes.yml:14: runtimes[0].user: must be of type string",
    ),
    "user too large": (
        RUNTIME + '    user: "4294967295"\n',
        "runtimes.yml:14: runtimes[0].user: ids are at most 4294967293",
    ),
    "command empty": (RUNTIME + "    command: []\n", "runtimes.yml:14: runtimes[0].command: "),
    "object tag": (
        RUNTIME + "    command: [!!python/name:os.system x]\n",
        "runtimes.yml:14: runtimes[0].command[0]: not a plain",
    ),
    "alias to itself": ("runtimes: &a [*a]\n", "runtimes.yml:1: runtimes[0]: an alias may not contain itself"),
    "key is a number": ("runtimes: []\n1: 2\n", "runtimes.yml:2: key '1' must be a string"),
    "not utf-8": ("runtimes: []\n#\x00", "runtimes.yml: not valid YAML: "),
}


@pytest.mark.parametrize("name", BAD_RUNTIMES)
def test_bad_runtimes(tmp_path: Path, name: str) -> None:
    content, expected = BAD_RUNTIMES[name]
    found = problems(write(tmp_path, runtimes=content))
    assert any(problem.startswith(expected) for problem in found), found


BAD_SERVERS = {
    "unknown key": (
        "max_sandbox: 1\n",
        "protocol_server.yml:4: max_sandbox: unknown key; known are allowed_mounts, allowed_users, ",
    ),
    "unknown user": (
        "",
        "protocol_server.yml:3: allowed_users[0]: user 'nobody-here' does not exist on this host",
    ),
    "root in the sandbox": ("sandbox_uid: 0\n", "protocol_server.yml:4: sandbox_uid: must be at least 1, not 0"),
    "relative socket": ("socket: server.sock\n", "protocol_server.yml:4: socket: 'server.sock' is not of the expected"),
    "socket too long": (f"socket: /{'x' * 107}\n", "protocol_server.yml:4: socket: "),
    "no sandboxes": ("max_sandboxes: 0\n", "protocol_server.yml:4: max_sandboxes: must be at least 1"),
    "level": (
        "log_level: chatty\n",
        "protocol_server.yml:4: log_level: must be one of debug, info, warning, error, not 'chatty'",
    ),
    "retry too long": ("start_retry_s: 31\n", "protocol_server.yml:4: start_retry_s: must be at most 30, not 31"),
    "language upper case": ("runtime_directories: {Python: /x}\n", "protocol_server.yml:4: runtime_directories: "),
    "nobody allowed": ("", "protocol_server.yml:3: allowed_users: "),
    "unknown group": ("", "protocol_server.yml:2: socket_group: group 'nobody-here' does not exist on this host"),
}


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_bad_server(tmp_path: Path, name: str) -> None:
    more, expected = BAD_SERVERS[name]
    server = SERVER + more
    if name == "unknown user":
        server = server.replace(f"[{USER}]", "[nobody-here]")
    elif name == "nobody allowed":
        server = server.replace(f"[{USER}]", "[]")
    elif name == "unknown group":
        server = server.replace(f"socket_group: {GROUP}", "socket_group: nobody-here")
    found = problems(write(tmp_path, server=server))
    assert any(problem.startswith(expected) for problem in found), found


def test_all_problems_at_once(tmp_path: Path) -> None:
    bad = RUNTIME.replace("512", "1").replace("pids: 64", "pids: 0\n    pids: 1") + "    color: red\n"
    found = problems(write(tmp_path, server=SERVER + "queue_length: -1\n", runtimes=bad))
    assert [re.match(r"[^:]+:\d+", problem)[0] for problem in found] == [  # type: ignore[index]
        "protocol_server.yml:4",
        "runtimes.yml:6",
        "runtimes.yml:9",
        "runtimes.yml:10",
        "runtimes.yml:15",
    ]


def test_missing_files(tmp_path: Path) -> None:
    assert problems(tmp_path / "absent.yml") == ["absent.yml: cannot be read: No such file or directory"]
    file = write(tmp_path)
    (tmp_path / "runtimes.yml").unlink()
    assert problems(file) == ["runtimes.yml: cannot be read: No such file or directory"]


def test_too_deep_and_too_large(tmp_path: Path) -> None:
    assert problems(write(tmp_path, runtimes="[" * 5000 + "]" * 5000)) == ["runtimes.yml: nested too deeply"]
    large = problems(write(tmp_path, runtimes="#" * (4 * 1024 * 1024 + 1)))
    assert large == ["runtimes.yml: the file is larger than 4194304 bytes"]


def test_check_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path)
    assert main(["--config", str(file), "--check-config"]) == 0
    assert capsys.readouterr().out == "configuration ok: 1 runtimes\n"
    other = tmp_path / "other.yml"
    other.write_text(RUNTIME.replace("512", "1") + "    color: red\n")
    assert main(["--config", str(file), "--runtimes", str(other), "--check-config"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{other}:6", f"{other}:14"]


def test_check_does_not_load_the_server(tmp_path: Path) -> None:
    # The check runs inside of Ansible's `validate`, for every change: it has to stay light.
    import subprocess

    code = "import sys, protocol_server.__main__ as m; m.main(sys.argv[1:]); sys.exit('aiohttp' in sys.modules)"
    command = [sys.executable, "-c", code, "--config", str(write(tmp_path)), "--check-config"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "src")}
    subprocess.run(command, check=True, env=environment)
