"""The verbs that ask the running server, and the doctor."""

from __future__ import annotations

import pytest

from .conftest import Machine

ROW = {
    "sandbox": "ab", "runtime": "site", "state": "leased", "role": "alice", "database": "db", "backend_pid": 7,
    "uptime_s": 1.25, "memory_bytes": 3 << 20, "cpu_s": None,
}  # fmt: skip


def test_containers(machine: Machine) -> None:
    machine.server.answers["/v1/sandboxes"] = (200, {"sandboxes": [ROW]})
    line = machine.run("containers").output.splitlines()[1]
    assert line.split() == ["ab", "site", "leased", "alice", "db", "7", "1.2", "3.0", "-"]
    assert machine.json("containers") == [ROW]
    machine.server.answers["/v1/sandboxes"] = (200, {"sandboxes": []})
    assert machine.run("containers").output == "no sandboxes\n"


def test_drain(machine: Machine) -> None:
    assert "new leases are refused; 0 are left" in machine.run("drain").output
    machine.server.answers["/v1/drain"] = (200, {"leases": 2})
    assert "2 are left" in machine.run("drain").output
    machine.run("drain", "--wait", "0.1", "--idle", "3", status=1)
    assert machine.server.asked[-1] == ("POST", "/v1/drain", {"wait_s": 0.1, "idle_s": 3.0})
    assert "granted again" in machine.run("drain", "--off").output
    assert [path for _, path, _ in machine.server.asked][-1:] == ["/v1/undrain"]
    machine.run("drain", "--wait", "-1", status=2)


def test_reload(machine: Machine) -> None:
    assert "in force" in machine.run("reload").output
    machine.server.answers["/v1/reload"] = (
        422,
        {"error": "the configuration is refused", "problems": [{"text": "f:3: r"}]},
    )
    output = machine.run("reload", status=1).output
    assert "the configuration is refused" in output
    assert "f:3: r" in output


@pytest.mark.parametrize("verb", ["containers", "drain", "reload"])
def test_no_server(machine: Machine, verb: str) -> None:
    (machine.root / "control.sock").unlink()
    output = machine.run(verb, status=1).output
    assert "no answer at" in output
    assert "systemctl status protocol_server" in output


def states(machine: Machine, status: int) -> dict[str, str]:
    return {check["name"]: check["state"] for check in machine.json("doctor", status=status)}


def test_doctor(machine: Machine) -> None:
    found = states(machine, 1)
    assert found["configuration"] == found["server"] == found["drift"] == found["image of site"] == "ok"
    assert found["lease socket"] == "failed", "nobody listens in this test"
    machine.server.answers["/v1/state"] = (200, {"draining": True})
    machine.run("runtime-add", "-r", "mine", "-i", "tiny:1", "-l", "python")
    machine.run("runtime-delete", "-r", "site")
    machine.run("image-delete", "-i", "tiny:1", status=1)
    assert states(machine, 1)["drift"] == states(machine, 1)["server"] == "warning"
    (machine.root / "images" / machine.image.removeprefix("sha256:")).rename(machine.root / "elsewhere")
    assert states(machine, 1)["image of mine"] == "failed"
    machine.local.write_text("<x/>")
    assert states(machine, 1) == {"configuration": "failed"}
