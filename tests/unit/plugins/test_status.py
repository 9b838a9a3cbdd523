"""The report of status.yml, and what it is made of."""

from __future__ import annotations

from pathlib import Path

from plugins.filter.status import status_lines, status_report
from plugins.modules.host_status import compared, directories, kernel, last_line, piece, selinux

WELL = piece("service", "docker.service", "active, enabled")
ILL = piece("service", "protocol_server.service", "failed, enabled", ok=False)


def test_a_report_takes_what_roles_left() -> None:
    hosts = [{"inventory_hostname": "one", "__docker_engine_status": {"pieces": [WELL]}, "__other": {"pieces": [ILL]}}]
    report = status_report(hosts)
    assert report["ok"] is True
    assert report["hosts"]["one"]["pieces"] == [{"role": "docker_engine", **WELL}]
    assert status_lines(report)[0] == "one: all is well"


def test_one_thing_that_is_ill_makes_all_of_it_so() -> None:
    hosts = [
        {"inventory_hostname": "one", "__docker_engine_status": {"pieces": [WELL]}},
        {"inventory_hostname": "two", "__protocol_server_status": {"pieces": [WELL, ILL]}},
    ]
    report = status_report(hosts)
    assert (report["ok"], report["hosts"]["one"]["ok"], report["hosts"]["two"]["ok"]) == (False, True, False)
    lines = status_lines(report)
    assert "two: 1 of 2 not well" in lines
    assert [line for line in lines if line.startswith("!")] == [
        "! service     protocol_server.service            failed, enabled"
    ]


def test_a_host_that_cannot_be_reached_is_told_with_its_cause_in_one_line() -> None:
    report = status_report([{"inventory_hostname": "one", "status_reached": {"msg": "no\nroute to host"}}])
    assert report["ok"] is False
    assert status_lines(report)[1].endswith("no route to host")


def test_no_host_is_not_well() -> None:
    assert status_report([])["ok"] is False


def test_the_kernel_tells_what_it_has(tmp_path: Path) -> None:
    states = {entry["name"]: entry["state"] for entry in kernel(tmp_path)}
    assert states == {"SELinux": "not in this kernel or off", "cgroups": "version 1"}
    files = {
        "sys/fs/selinux/enforce": "1",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "8\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "3\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    states = {entry["name"]: entry["state"] for entry in kernel(tmp_path)}
    assert states == {
        "SELinux": "enforcing",
        "cgroups": "version 2: cpu memory",
        "huge pages of 2048 KiB": "8, 3 are free",
    }


def test_selinux_that_was_to_enforce_and_does_not_is_not_well(tmp_path: Path) -> None:
    for name, text in {"sys/fs/selinux/enforce": "0", "etc/plcontainer/selinux.json": '{"asked": "enforcing"}'}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert selinux(tmp_path) == piece("kernel", "SELinux", "permissive, asked for enforcing", ok=False)
    (tmp_path / "sys/fs/selinux/enforce").write_text("1", encoding="ascii")
    assert selinux(tmp_path)["ok"] is True
    (tmp_path / "etc/plcontainer/selinux.json").write_text('{"asked": "auto"}', encoding="ascii")
    (tmp_path / "sys/fs/selinux/enforce").unlink()
    assert selinux(tmp_path) == piece("kernel", "SELinux", "not in this kernel or off, asked for auto")


def test_too_little_space_is_not_well(tmp_path: Path) -> None:
    assert [entry["ok"] for entry in directories({str(tmp_path): 0, "/nowhere": 0})] == [True, False]
    assert directories({str(tmp_path): 10**9})[0]["ok"] is False


def test_the_last_line_says_it() -> None:
    assert last_line("psql: error\nFATAL: no") == "FATAL: no"
    assert last_line("") == "no answer"


def test_each_difference_that_others_have_found_is_a_line() -> None:
    assert compared({"kernel": [], "volumes": ["/srv: not mounted", "/data: read-only"]}) == [
        piece("setting", "kernel", "as asked"),
        piece("setting", "volumes", "/srv: not mounted", ok=False),
        piece("setting", "volumes", "/data: read-only", ok=False),
    ]
