"""Every option of every role takes effect."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.segment_host import SERVER, SegmentHost, Session

Options = dict[str, Any]
MIB = 2**20


@pytest.fixture(scope="module")
def database(segment: SegmentHost) -> Iterator[str]:
    """Make a database, which has the extension because the template has it."""
    with segment.session() as session:
        session.run("DROP DATABASE IF EXISTS changed")
        assert session.run("CREATE DATABASE changed") == ""
    yield "changed"
    segment.sql("DROP DATABASE changed WITH (FORCE)")


@pytest.fixture
def session(segment: SegmentHost, database: str) -> Iterator[Session]:
    with segment.session(database) as session:
        yield session


def function(session: Session, runtime: str, body: str) -> str:
    """Create a function and return what a call of it returns."""
    made = session.run(
        f"CREATE OR REPLACE FUNCTION f() RETURNS text LANGUAGE plcontainer AS $b$ # container: {runtime}\n{body}\n$b$"
    )
    assert made == "", made
    return session.run("SELECT f()")


# docker_engine


@pytest.fixture(scope="module")
def image(segment: SegmentHost) -> str:
    return segment.docker("image", "ls", "--quiet", "caisson/plpython").split()[0]


def test_docker(segment: SegmentHost, options: Options) -> None:
    info = json.loads(segment.docker("info", "--format", "{{json .}}"))
    assert info["DockerRootDir"] == options["docker_engine_data_root"]
    assert info["LiveRestoreEnabled"] is options["docker_engine_live_restore"]
    assert info["Debug"] is options["docker_engine_debug"]
    assert info["DefaultAddressPools"] == [{"Base": "10.232.0.0/16", "Size": 24}]
    bridge = json.loads(segment.docker("network", "inspect", "bridge"))[0]
    assert bridge["Options"]["com.docker.network.bridge.enable_icc"] == "true"
    assert bridge["IPAM"]["Config"][0]["Subnet"] == "10.231.0.0/24"


def test_a_network_takes_its_addresses_from_the_pool(segment: SegmentHost) -> None:
    segment.docker("network", "create", "pooled")
    try:
        subnet = json.loads(segment.docker("network", "inspect", "pooled"))[0]["IPAM"]["Config"][0]["Subnet"]
    finally:
        segment.docker("network", "rm", "pooled")
    assert re.fullmatch(r"10\.232\.\d+\.0/24", subnet)


def test_a_container_has_the_other_defaults(segment: SegmentHost, options: Options, image: str) -> None:
    show = "grep NoNewPrivs /proc/self/status; ulimit -Sn; ulimit -Hn; cat /proc/1/cgroup"
    run = ["run", "--rm", "--cgroupns=host", "--network", "none", image, "sh", "-c", show]
    privileges, soft, hard, *groups = segment.docker(*run).splitlines()
    assert privileges.split()[1] == "0"
    assert (soft, hard) == (str(options["docker_engine_nofile_soft"]), str(options["docker_engine_nofile_hard"]))
    assert any(f"{options['docker_engine_cgroup_parent']}/" in group for group in groups)


def test_containers_talk_and_ports_have_a_process(segment: SegmentHost, image: str) -> None:
    serve = "import socket; s = socket.create_server(('', 8000))\nwhile True: s.accept()"
    name = segment.docker("run", "--detach", "--publish", "127.0.0.1:18000:8000", image, "python3", "-c", serve)
    try:
        address = segment.inspect(name)["NetworkSettings"]["IPAddress"]
        assert address.startswith("10.231.0.")
        connect = f"""
import socket, time
for _ in range(100):
    try:
        socket.create_connection(('{address}', 8000), 5)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
else:
    raise SystemExit('refused')
"""
        segment.docker("run", "--rm", image, "python3", "-c", connect)
        assert segment.host.process.filter(comm="docker-proxy")
    finally:
        segment.docker("rm", "--force", name)


def test_docker_leaves_the_packet_filter_alone(segment: SegmentHost) -> None:
    # the rules of the name server are the lab's
    assert not re.search(r"^:DOCKER( |-USER)", segment.run("iptables-save"), re.MULTILINE)


# segment_host


def test_the_cluster(options: Options, session: Session) -> None:
    assert session.run("SHOW cluster_name") == "17/analytics"
    assert session.run("SHOW server_encoding") == options["segment_host_encoding"]
    assert (
        session.run("SELECT datcollate FROM pg_database WHERE datname = 'template1'") == options["segment_host_locale"]
    )
    assert session.run("SHOW data_checksums") == "on"
    assert session.run("SHOW port") == str(options["segment_host_postgresql_port"])
    assert session.run("SHOW log_connections") == "on"


def test_the_sizes(options: Options, session: Session) -> None:
    memory = options["segment_host_memory_mb"] * MIB
    connections = options["segment_host_max_connections"]
    expected = {
        "shared_buffers": memory * options["segment_host_shared_buffers_fraction"],
        "effective_cache_size": memory * options["segment_host_effective_cache_fraction"],
        "maintenance_work_mem": memory * options["segment_host_maintenance_work_mem_fraction"],
        "work_mem": memory * options["segment_host_work_mem_fraction"] / connections,
    }
    for name, size in expected.items():
        shown = int(session.run(f"SELECT pg_size_bytes(current_setting('{name}'))"))
        assert shown == pytest.approx(size, abs=MIB), name
    assert session.run("SHOW max_connections") == str(connections)


def test_the_network_gets_in_with_a_password_and_the_banned_never(
    segment: SegmentHost, options: Options, session: Session
) -> None:
    address, port = segment.run("hostname", "--ip-address").split()[0], options["segment_host_postgresql_port"]
    socket.create_connection((address, port), 5).close()
    session.run("DROP ROLE IF EXISTS banned, guest")
    session.run("CREATE ROLE banned LOGIN PASSWORD 'x'; CREATE ROLE guest LOGIN PASSWORD 'x'")
    try:
        login = f"PGPASSWORD=x psql -XAtw -h {address} -p {port} -d changed -c 'SELECT current_user' -U"
        assert segment.run("sh", "-c", f"{login} guest") == "guest"
        assert "pg_hba.conf rejects" in segment.fails("sh", "-c", f"{login} banned")
        assert "no password" in segment.fails("sh", "-c", f"PGPASSWORD= {login.partition(' ')[2]} guest")
    finally:
        session.run("DROP ROLE banned, guest")


# plcontainer


def test_the_extension_is_where_it_was_asked_for(segment: SegmentHost, database: str) -> None:
    query = "SELECT count(*) FROM pg_extension WHERE extname = 'plcontainer'"
    found = {}
    for name in ("postgres", "template1", database):
        with segment.session(name) as session:
            found[name] = session.run(query)
    assert found == {"postgres": "0", "template1": "1", database: "1"}


# protocol_server


def test_the_server(segment: SegmentHost, options: Options) -> None:
    path = segment.host.file(options["protocol_server_socket"])
    assert path.is_socket
    assert path.group == options["protocol_server_socket_group"]
    assert int(segment.unit(SERVER, "MemoryMax")) == options["protocol_server_memory_mb"] * MIB
    assert int(segment.unit(SERVER, "TasksMax")) == options["protocol_server_tasks"]
    assert segment.unit(SERVER, "WatchdogUSec") == f"{options['protocol_server_watchdog_s']}s"
    assert segment.unit(SERVER, "RestartUSec") == "1s"
    assert '"level": "debug"' in segment.run("journalctl", "--unit", SERVER, "--no-pager")


def test_the_operator_s_socket(segment: SegmentHost, options: Options) -> None:
    control = segment.host.file("/run/plcontainer/control.sock")
    assert (control.group, control.mode) == (options["protocol_server_control_group"], 0o660)
    metrics = f"http://127.0.0.1:{options['protocol_server_metrics_port']}/metrics"
    ask = f"import urllib.request; print(urllib.request.urlopen('{metrics}').read().decode())"
    assert f"protocol_server_sandboxes_limit {options['protocol_server_max_sandboxes']}.0" in segment.run(
        "python3", "-c", ask
    )


def test_slices_have_the_limits(segment: SegmentHost, options: Options) -> None:
    parent, limits = options["protocol_server_cgroup_parent"], options["cgroups_sandboxes"]
    assert segment.unit(parent, "ActiveState") == "active"
    assert int(segment.unit(parent, "MemoryMax")) == limits["memory_mb"] * MIB
    assert int(segment.unit(parent, "TasksMax")) == limits["pids"]
    assert segment.unit(parent, "CPUQuotaPerSecUSec") == f"{limits['cpus']:.6f}s"
    for group in options["protocol_server_resource_groups"]:
        unit = f"{parent.removesuffix('.slice')}-{group['name']}.slice"
        assert int(segment.unit(unit, "MemoryMax")) == group["memory_mb"] * MIB


def test_the_network_of_sandboxes_is_filtered(segment: SegmentHost, options: Options) -> None:
    rules = segment.run("nft", "list", "chain", "inet", "plcontainer", "egress")
    for rule in options["protocol_server_sandbox_network_allow"]:
        assert f"ip daddr {rule['address']} tcp dport {rule['ports'][0]} accept" in rules
    assert "plcontainer0" in segment.docker("network", "inspect", "plcontainer")


# plcontainer_runtimes


def test_a_runtime_with_defaults(segment: SegmentHost, options: Options, session: Session) -> None:
    which = "import re\nreturn re.search('/sandboxes/([0-9a-f]{16}) ', open('/proc/self/mountinfo').read())[1]"
    found = segment.inspect(f"plcontainer-{function(session, 'narrow', which)}")
    host, defaults = found["HostConfig"], options["plcontainer_runtimes_defaults"]
    assert (
        found["Config"]["User"] == f"{options['protocol_server_sandbox_uid']}:{options['protocol_server_sandbox_gid']}"
    )
    assert found["Config"]["Labels"]["caisson.instance"] == options["protocol_server_instance"]
    # Docker wants a slice by its name or by its path, depending on its driver of cgroups.
    parent = options["protocol_server_cgroup_parent"]
    assert host["CgroupParent"] in (parent, segment.unit(parent, "ControlGroup"))
    assert host["LogConfig"]["Config"] == {"max-file": "3", "max-size": "1m"}
    assert host["Memory"] == host["MemorySwap"] == defaults["memory_mb"] * MIB
    assert host["CpuShares"] == defaults["cpu_shares"]
    assert host["NanoCpus"] == defaults["cpus"] * 1e9
    assert host["PidsLimit"] == defaults["pids"]
    # the hardening does not depend on what Docker's defaults are
    assert "no-new-privileges" in [option.removesuffix(":true") for option in host["SecurityOpt"]]
    assert host["CapDrop"] == ["ALL"]


def test_a_runtime_of_its_own_kind(segment: SegmentHost, options: Options, session: Session) -> None:
    which = "import re\nreturn re.search('/sandboxes/([0-9a-f]{16}) ', open('/proc/self/mountinfo').read())[1]"
    session.run("DROP ROLE IF EXISTS analyst")
    assert "42501" in function_of_nobody(session, which)
    session.run("CREATE ROLE analyst; GRANT ALL ON SCHEMA public TO analyst")
    try:
        session.run("SET ROLE analyst")
        found = segment.inspect(f"plcontainer-{session.run('SELECT g()')}")
    finally:
        session.run("RESET ROLE")
        session.run("DROP OWNED BY analyst; DROP ROLE analyst")
    runtime, host = options["plcontainer_runtimes_list"][1], found["HostConfig"]
    assert [*found["Config"]["Cmd"]] == runtime["command"]
    assert host["Memory"] == runtime["memory_mb"] * MIB
    assert host["CpuShares"] == runtime["cpu_shares"]
    assert host["NanoCpus"] == runtime["cpus"] * 1e9
    assert host["PidsLimit"] == runtime["pids"]
    assert f"size={runtime['tmpfs_mb']}m" in host["Tmpfs"]["/tmp"]
    limits = {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]}
    assert limits["nofile"] == runtime["nofile"]


def test_a_runtime_with_a_kernel_of_its_own(segment: SegmentHost, session: Session) -> None:
    release = "import os\nreturn os.uname().release"
    assert function(session, "apart", release) != segment.run("uname", "-r").strip()
    assert function(session, "narrow", release) == segment.run("uname", "-r").strip()


def test_the_command(segment: SegmentHost) -> None:
    rows = json.loads(segment.run("plcontainer", "runtime-show", "--json"))
    assert {row["id"]: row["source"] for row in rows} == {"narrow": "site", "wide": "site", "apart": "site"}
    assert json.loads(segment.run("plcontainer", "runtime-verify", "--json"))["drift"] == []
    checks = json.loads(segment.run("plcontainer", "doctor", "--json"))
    assert {check["name"]: check["state"] for check in checks if check["state"] == "failed"} == {}


def function_of_nobody(session: Session, body: str) -> str:
    """Create g() of the runtime for analysts, let everybody call it, and return what a stranger gets."""
    session.run("DROP ROLE IF EXISTS stranger")
    session.run("CREATE ROLE stranger")
    session.run(
        f"CREATE OR REPLACE FUNCTION g() RETURNS text LANGUAGE plcontainer AS $b$ # container: wide\n{body}\n$b$"
    )
    session.run("GRANT EXECUTE ON FUNCTION g() TO PUBLIC; GRANT USAGE ON SCHEMA public TO PUBLIC")
    session.run("SET ROLE stranger")
    answer = session.run("SELECT g()")
    session.run("RESET ROLE")
    session.run("DROP OWNED BY stranger; DROP ROLE stranger")
    return answer


def test_text_of_another_encoding(session: Session) -> None:
    # E9 is an e with an acute accent in LATIN1; it arrives as one character and leaves as one byte
    session.run(
        "CREATE OR REPLACE FUNCTION echo(t text) RETURNS text LANGUAGE plcontainer AS"
        " $b$ # container: narrow\nreturn t if len(t) == 1 and ord(t) == 233 else repr(t)\n$b$"
    )
    assert session.run("SELECT encode(convert_to(echo(chr(233)), 'LATIN1'), 'hex')") == "e9"


def test_more_sessions_than_sandboxes(segment: SegmentHost, options: Options, database: str, session: Session) -> None:
    assert function(session, "narrow", "return 'here'") == "here"
    sessions = [segment.session(database) for _ in range(options["protocol_server_max_sandboxes"])]
    try:
        answers = []
        for other in sessions:
            started = time.monotonic()
            answers.append(other.run("SELECT f()", 15))
            assert time.monotonic() - started < 10
        assert answers[0] == "here"
        assert any("53300" in answer for answer in answers), answers
    finally:
        for other in sessions:
            other.close()
