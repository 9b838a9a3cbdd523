"""The module segment_host_info on files."""

from __future__ import annotations

import os
from pathlib import Path

from plugins.modules import segment_host_info


def test_the_data_directory(tmp_path: Path) -> None:
    assert segment_host_info.data_directory(tmp_path) is None
    (tmp_path / "postgresql.conf").write_text(
        "# data_directory = '/x'\ndata_directory = '/srv/data'\t# comment\n", encoding="utf-8"
    )
    assert segment_host_info.data_directory(tmp_path) == Path("/srv/data")


def test_the_newest_file_that_the_server_reads(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    for name, changed in (
        ("postgresql.conf", 10),
        ("pg_hba.conf", 20),
        ("conf.d/x.conf", 30),
        ("start.conf", 40),
        ("conf.d/hugepages.conf", 45),
        ("environment", 50),
    ):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (changed, changed))
    assert segment_host_info.newest_change(tmp_path) == 30


def test_no_cluster(tmp_path: Path) -> None:
    assert segment_host_info.newest_change(tmp_path) == 0
    state = segment_host_info.look(99, "nowhere")
    assert state == {
        "exists": False, "left_data": "", "running": False, "port": 0, "data_checksums": False,
        "stale": False, "pending_restart": [], "hba_errors": [],
    }  # fmt: skip


def test_data_without_a_configuration(tmp_path: Path) -> None:
    data = tmp_path / "var/lib/postgresql/17/main"
    data.mkdir(parents=True)
    assert segment_host_info.look(17, "main", tmp_path)["left_data"] == ""
    (data / "PG_VERSION").touch()
    state = segment_host_info.look(17, "main", tmp_path)
    assert (state["left_data"], state["exists"]) == (str(data), False)


def test_a_cluster_whose_postgresql_was_removed(tmp_path: Path) -> None:
    data, configuration = tmp_path / "data", tmp_path / "etc/postgresql/17/main"
    data.mkdir()
    (data / "PG_VERSION").touch()
    configuration.mkdir(parents=True)
    (configuration / "postgresql.conf").write_text(f"data_directory = '{data}'\n", encoding="utf-8")
    state = segment_host_info.look(17, "main", tmp_path)
    assert (state["exists"], state["data_checksums"]) == (True, None)
    program = tmp_path / "usr/lib/postgresql/17/bin/pg_controldata"
    program.parent.mkdir(parents=True)
    for version, checksums in ((1, True), (0, False)):
        program.write_text(f"#!/bin/sh\necho 'Data page checksum version:           {version}'\n", encoding="utf-8")
        program.chmod(0o755)
        assert segment_host_info.look(17, "main", tmp_path)["data_checksums"] is checksums
