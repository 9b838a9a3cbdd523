"""A change is reloaded where that is enough, restarts what it must, and is refused before it can do harm."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.segment_host import SERVER, SegmentHost, playbook, recap

SCENARIO = Path(__file__).resolve().parents[1]
Options = dict[str, Any]
Role = Callable[..., str]


def change(**options: Any) -> str:
    """Run site.yml with some other options; returns what it said."""
    done = playbook(SCENARIO, "-e", json.dumps(options))
    assert done.returncode == 0, done.stdout
    return done.stdout


def processes(segment: SegmentHost) -> dict[str, str]:
    """Return the process ids of the three daemons."""
    units = {"docker": "docker.service", "database": "postgresql@17-analytics.service", "server": SERVER}
    return {name: segment.unit(unit, "MainPID") for name, unit in units.items()}


@pytest.fixture(scope="module", autouse=True)
def back_again() -> Iterator[None]:
    """Leave the host as the scenario made it."""
    yield
    said = playbook(SCENARIO, "--check").stdout
    changed = [count["changed"] for count in recap(said).values()]
    if changed != [0]:
        change()
    assert changed == [0], said


@pytest.fixture
def sleeper(segment: SegmentHost) -> Iterator[str]:
    """Start a container that does nothing."""
    image = segment.docker("image", "ls", "--quiet", "caisson/plpython").split()[0]
    name = segment.docker(
        "run", "--detach", "--network", "none", image, "python3", "-c", "import time; time.sleep(600)"
    )
    yield name
    segment.docker("rm", "--force", name)


def test_a_reload_is_enough(segment: SegmentHost, options: Options) -> None:
    before = processes(segment)
    runtimes = [{**options["plcontainer_runtimes_list"][0], "memory_mb": 144}]
    change(
        docker_engine_debug=False,
        segment_host_settings={**options["segment_host_settings"], "log_connections": False},
        segment_host_hba_rules=[],
        protocol_server_log_level="warning",
        plcontainer_runtimes_list=runtimes,
    )
    assert processes(segment) == before
    assert segment.docker("info", "--format", "{{.Debug}}") == "false"
    assert segment.sql("SHOW log_connections") == "off"
    assert segment.sql("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'reject'") == "0"
    assert "144" in segment.run("cat", "/etc/plcontainer/runtimes.yml")


def test_what_was_changed_on_a_host_is_reported_and_left(segment: SegmentHost, role: Role) -> None:
    image = json.loads(segment.run("plcontainer", "runtime-show", "--json"))[0]["image"]
    segment.run("plcontainer", "runtime-add", "-r", "mine", "-i", image, "-l", "python")
    try:
        said = role("plcontainer_runtimes", succeeds=True)
        assert "keeps changes of its own" in said
        assert "runtime mine was added" in said
        rows = json.loads(segment.run("plcontainer", "runtime-show", "--json"))
        assert {row["id"]: row["source"] for row in rows}["mine"] == "local"
    finally:
        segment.run("plcontainer", "runtime-verify", "--repair", "--yes")
    assert "keeps changes of its own" not in role("plcontainer_runtimes", succeeds=True)


def test_what_needs_a_restart_gets_one_and_containers_live_on(segment: SegmentHost, sleeper: str) -> None:
    before, container = processes(segment), segment.inspect(sleeper)["State"]["Pid"]
    change(
        docker_engine_live_restore=True,
        docker_engine_userland_proxy=False,
        segment_host_max_connections=50,
        protocol_server_instance="third",
    )
    after = processes(segment)
    assert {name for name in before if before[name] != after[name]} == set(before)
    # live-restore was not on: the reload before the restart is what saved it
    assert segment.inspect(sleeper)["State"]["Pid"] == container
    assert segment.sql("SHOW max_connections") == "50"
    assert segment.run("find", "/etc/docker", "/etc/postgresql", "-name", "*~") == ""


def test_what_an_earlier_run_left_is_taken_up(segment: SegmentHost, role: Role) -> None:
    change()
    # a run that was killed between the file and the reload
    file = "/etc/postgresql/17/analytics/conf.d/segment_host.conf"
    loaded = segment.sql("SELECT pg_conf_load_time()")
    segment.run("touch", file)
    said = role("segment_host", succeeds=True)
    assert "Files changed after PostgreSQL last read them" in said
    assert segment.sql("SELECT pg_conf_load_time()") > loaded


def test_rules_that_postgresql_refuses_are_put_back(segment: SegmentHost, role: Role) -> None:
    before, file = processes(segment), "/etc/postgresql/17/analytics/pg_hba.conf"
    text = segment.run("cat", file)
    rules = [{"type": "host", "database": "all", "user": "all", "address": "nowhere/99", "method": "scram-sha-256"}]
    said = role("segment_host", succeeds=False, segment_host_hba_rules=rules)
    assert "PostgreSQL refuses the rules in segment_host_hba_rules" in said
    assert segment.run("cat", file) == text
    assert segment.run("stat", "-c", "%U %a", file) == "postgres 640"
    assert segment.sql("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL") == "0"
    assert processes(segment) == before


@pytest.mark.parametrize(
    ("name", "mistake", "complaint"),
    [
        ("segment_host", {"segment_host_settings": {"no_such_setting": 1}}, "unrecognized configuration parameter"),
        ("segment_host", {"segment_host_settings": {"shared_buffers": "much"}}, "invalid value for parameter"),
        ("segment_host", {"segment_host_max_connections": "many"}, "segment_host_max_connections"),
        (
            "segment_host",
            {"segment_host_postgresql_versions": {"11": 13}},
            "segment_host_postgresql_versions says nothing of Debian 13",
        ),
        ("docker_engine", {"docker_engine_settings": {"no-such-key": 1}}, "no-such-key"),
        (
            "docker_engine",
            {"docker_engine_inter_container": False},
            "docker_engine_inter_container: false needs docker_engine_iptables",
        ),
        ("protocol_server", {"protocol_server_settings": {"no_such_key": 1}}, "no_such_key"),
        (
            "plcontainer_runtimes",
            {"plcontainer_runtimes_list": [{"id": "a b", "language": "python", "image": "plpython"}]},
            "an id is a letter",
        ),
        (
            "plcontainer_runtimes",
            {"plcontainer_runtimes_list": [{"id": "x", "language": "cobol", "image": "plpython"}]},
            "cobol",
        ),
    ],
)
def test_a_mistake_is_refused_and_changes_no_daemon(
    segment: SegmentHost, role: Role, name: str, mistake: Options, complaint: str
) -> None:
    before = processes(segment)
    assert complaint in role(name, succeeds=False, **mistake)
    assert processes(segment) == before
    assert segment.sql("SELECT 1") == "1"
