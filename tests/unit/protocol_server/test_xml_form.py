"""PL/Container's XML form: read like runtimes.yml, refused with file and line, written back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from protocol_server.config import Config, ConfigError, load
from protocol_server.runtimes import DeviceRequest, Mount, Pool, plain
from protocol_server.xml_form import write_xml

IMAGE = "sha256:" + "a" * 64
SERVER = """\
allowed_users: [root]
socket_group: root
runtimes_file: {directory}/runtimes.yml
local_runtimes_file: {directory}/local.xml
allowed_mounts: [/data]
network: sandboxes
"""
SITE = f"""\
runtimes:
  - {{id: site, language: python, image: "{IMAGE}", image_name: i, memory_mb: 64, cpu_shares: 512, cpus: 1, pids: 9,
     tmpfs_mb: 8, nofile: 64}}
  - {{id: both, language: python, image: "{IMAGE}", image_name: i, memory_mb: 64, cpu_shares: 512, cpus: 1, pids: 9,
     tmpfs_mb: 8, nofile: 64}}
"""
GOOD = f"""\
<?xml version="1.0" ?>
<configuration>
    <runtime>
        <id>plc_python</id>
        <image>{IMAGE}</image>
        <command>/clientdir/py3client.sh</command>
        <shared_directory access="ro" container="/clientdir" host="/usr/local/greenplum/bin/plcontainer_clients"/>
        <shared_directory access="rw" container="/in" host="/data/in"/>
        <setting memory_mb="512" cpu_share="1024"/>
        <setting use_container_logging="no"/>
        <setting enable_network="yes"/>
        <setting roles="alice, bob"/>
        <setting resource_group_id=""/>
        <device_request type="gpu" all="no" driver="nvidia">
            <deviceid>GPU-1</deviceid>
            <capacity>compute</capacity>
        </device_request>
    </runtime>
</configuration>
"""


def read(directory: Path, xml: str) -> Config:
    (directory / "protocol_server.yml").write_text(SERVER.format(directory=directory))
    (directory / "runtimes.yml").write_text(SITE)
    (directory / "local.xml").write_text(xml, encoding="utf-8")
    return load(directory / "protocol_server.yml")


def test_form_of_plcontainer(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD)
    assert list(config.runtimes) == ["site", "both", "plc_python"]
    runtime = config.runtimes["plc_python"]
    assert runtime.language == "python"
    assert runtime.command == ("python3", "-I", "/opt/caisson/runtime_python"), "the client is the server's own"
    assert runtime.mounts == (Mount("/data/in", "/in", writable=True),), "the client's directory is not mounted"
    assert (runtime.memory_mb, runtime.cpu_shares, runtime.pids) == (512, 1024, 64)
    assert (runtime.container_logging, runtime.enable_network, runtime.roles) == (False, True, ("alice", "bob"))
    assert runtime.device_requests == (DeviceRequest("nvidia", False, ("GPU-1",), ("gpu", "compute")),)
    assert runtime.pool == Pool(0, 0)


def test_defaults_are_those_of_plcontainer(tmp_path: Path) -> None:
    xml = GOOD.replace('memory_mb="512" cpu_share="1024"', 'pool_min="1"')
    runtime = read(tmp_path, xml).runtimes["plc_python"]
    assert (runtime.memory_mb, runtime.cpu_shares) == (1024, 1024)
    assert runtime.pool == Pool(1, 1)


def test_own_runtimes_win(tmp_path: Path) -> None:
    xml = GOOD.replace("<id>plc_python<", "<id>both<").replace("</conf", "<removed>site</removed></conf")
    config = read(tmp_path, xml)
    assert list(config.runtimes) == ["both"]
    assert config.runtimes["both"].memory_mb == 512
    assert list(config.rolled_out) == ["site", "both"]
    assert list(config.local) == ["both"]
    assert config.removed == ("site",)


def test_no_local_file_is_no_problem(tmp_path: Path) -> None:
    read(tmp_path, GOOD)
    (tmp_path / "local.xml").unlink()
    config = load(tmp_path / "protocol_server.yml")
    assert list(config.runtimes) == ["site", "both"]
    with pytest.raises(ConfigError, match=r"absent\.xml: cannot be read"):
        load(tmp_path / "protocol_server.yml", local_file=tmp_path / "absent.xml")


def at(text: str) -> int:
    """The line of GOOD that has `text`."""
    return next(number for number, line in enumerate(GOOD.splitlines(), 1) if text in line)


def without(text: str) -> str:
    return "".join(line for line in GOOD.splitlines(keepends=True) if text not in line)


EMPTY = "<configuration/>"
#: name -> the file, and what must be said of it.
BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "local.xml:1: not valid XML: no element found"),
    "not closed": (GOOD.replace("</configuration>", ""), "local.xml:20: not valid XML: no element found"),
    "wrong nesting": (GOOD.replace("</id>", "</ide>"), "local.xml:4: not valid XML: mismatched tag"),
    "two roots": (GOOD + EMPTY, "local.xml:20: not valid XML: junk after document element"),
    "other root": ("<config/>", "local.xml:1: <config>: the outermost element must be <configuration>"),
    "entity": (GOOD.replace("plc_python", "&name;"), "local.xml:4: not valid XML: undefined entity"),
    "doctype": (
        '<!DOCTYPE c [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n' + EMPTY,
        "local.xml:1: a document type declaration is not accepted",
    ),
    "external entity": (
        '<?xml version="1.0"?>\n<!DOCTYPE c [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n<configuration>&a;</configuration>',
        "local.xml:2: a document type declaration is not accepted",
    ),
    "nested too deeply": ("<configuration>" + "<runtime>" * 9, "local.xml:1: nested too deeply"),
    "unknown element": (
        GOOD.replace("<setting roles", "<cpu/><setting roles"),
        f"local.xml:{at('roles')}: <cpu> has no place in <runtime>; known are id, image,",
    ),
    "backend": (
        GOOD.replace("</configuration>", '<backend name="d" type="docker"/></configuration>'),
        "local.xml:19: <backend>: what isolates sandboxes is said in protocol_server.yml",
    ),
    "text between": (GOOD.replace("<id>", "oops<id>"), "local.xml:3: <runtime>: text has no place here: 'oops'"),
    "no id": (without("<id>"), "local.xml:3: <runtime>: <id> is missing"),
    "no image": (without("<image>"), "local.xml:3: <runtime>: <image> is missing"),
    "no command": (without("<command>"), "local.xml:3: <runtime>: <command> is missing"),
    "empty id": (GOOD.replace(">plc_python<", "> <"), "local.xml:4: <id> is empty"),
    "two ids": (GOOD.replace("</id>", "</id><id>b</id>"), "local.xml:4: <id> is repeated, first in line 4"),
    "illegal id": (GOOD.replace("plc_python", "plc python"), "local.xml:4: runtimes[0].id: 'plc python' is not"),
    "long id": (GOOD.replace("plc_python", "a" * 64), "local.xml:4: runtimes[0].id: "),
    "repeated id": (
        GOOD.replace("</configuration>", GOOD[GOOD.index("    <runtime>") :]),
        "local.xml:20: runtimes[1].id: id 'plc_python' is repeated, first in line 4",
    ),
    "image that moves": (
        GOOD.replace(IMAGE, "plpython:latest"),
        "local.xml:5: runtimes[0].image: 'plpython:latest' is",
    ),
    "foreign command": (
        GOOD.replace("/clientdir/py3client.sh", "python3 x.py"),
        "local.xml:6: <command>: not one of PL/Container's, so <language> must be there",
    ),
    "unbalanced quote": (
        GOOD.replace("/clientdir/py3client.sh", 'sh -c "x'),
        "local.xml:6: <command>: No closing quotation",
    ),
    "unknown language": (
        GOOD.replace("<command>", "<language>perl</language><command>"),
        "local.xml:6: runtimes[0].language: 'perl' is not in runtime_directories, which has python, r",
    ),
    "directory without access": (
        GOOD.replace('access="rw" ', ""),
        "local.xml:8: <shared_directory>: attribute 'access' is missing",
    ),
    "directory without host": (
        GOOD.replace('host="/data/in"', ""),
        "local.xml:8: <shared_directory>: attribute 'host' is missing",
    ),
    "access": (
        GOOD.replace('"rw"', '"w"'),
        "local.xml:8: runtimes[0].mounts[0].access: must be one of ro, rw, not 'w'",
    ),
    "directory outside": (
        GOOD.replace("/data/in", "/etc"),
        "local.xml:8: runtimes[0].mounts[0].host: '/etc' is not beneath allowed_mounts, which has /data",
    ),
    "directory with dots": (
        GOOD.replace("/data/in", "/data/../etc"),
        "local.xml:8: runtimes[0].mounts[0].host: '/data/../etc' is not an absolute path without",
    ),
    "relative container path": (
        GOOD.replace('container="/in"', 'container="in"'),
        "local.xml:8: runtimes[0].mounts[0].container: 'in' is not of the expected form",
    ),
    "container path of the server": (
        GOOD.replace('container="/in"', 'container="/run"'),
        "local.xml:8: runtimes[0].mounts[0].container: '/run' is the server's own (/run/caisson)",
    ),
    "container path twice": (
        GOOD.replace("<setting roles", '<shared_directory access="ro" container="/in" host="/data"/><setting roles'),
        f"local.xml:{at('roles')}: runtimes[0].mounts[1].container: '/in' is used by another directory",
    ),
    "unknown attribute": (
        GOOD.replace("memory_mb=", "memory="),
        "local.xml:9: <setting>: unknown attribute 'memory'; known are cpu_share,",
    ),
    "setting twice": (
        GOOD.replace("<setting roles", '<setting memory_mb="1"/><setting roles'),
        f"local.xml:{at('roles')}: <setting>: 'memory_mb' is repeated, first in line 9",
    ),
    "empty setting": (GOOD.replace(' resource_group_id=""', ""), "local.xml:13: <setting> has no attribute"),
    "memory of words": (GOOD.replace('"512"', '"lots"'), "local.xml:9: <setting>: memory_mb must be a whole number"),
    "negative memory": (GOOD.replace('"512"', '"-1"'), "local.xml:9: <setting>: memory_mb must be a whole number"),
    "no memory": (GOOD.replace('"512"', '"0"'), "local.xml:9: runtimes[0].memory_mb: must be at least 16, not 0"),
    "shares": (GOOD.replace('"1024"', '"0"'), "local.xml:9: runtimes[0].cpu_shares: must be at least 2, not 0"),
    "logging maybe": (
        GOOD.replace('use_container_logging="no"', 'use_container_logging="enable"'),
        "local.xml:10: <setting>: use_container_logging must be yes or no, not 'enable'",
    ),
    "network for everybody": (
        without("roles").replace("gpu", "x"),
        "local.xml:11: runtimes[0].enable_network: a network needs roles",
    ),
    "network and gvisor": (
        GOOD.replace('resource_group_id=""', 'isolation="gvisor"'),
        "local.xml:11: runtimes[0].enable_network: sandboxes with the isolation 'gvisor' have no network",
    ),
    "roles with a gap": (GOOD.replace("alice, bob", "alice,,bob"), "local.xml:12: <setting>: roles must be names"),
    "resource group": (
        GOOD.replace('resource_group_id=""', 'resource_group_id="16391"'),
        "local.xml:13: runtimes[0].resource_group_id: '16391' is not in resource_groups, which has none",
    ),
    "isolation": (
        GOOD.replace('resource_group_id=""', 'isolation="vm"'),
        "local.xml:13: runtimes[0].isolation: must be one of default, gvisor, not 'vm'",
    ),
    "pool": (
        GOOD.replace('resource_group_id=""', 'pool_min="3" pool_max="1"'),
        "local.xml:13: runtimes[0].pool: min of 3 is more than max of 1",
    ),
    "device without type": (
        GOOD.replace('type="gpu" ', ""),
        "local.xml:14: <device_request>: attribute 'type' is missing",
    ),
    "all devices and one": (
        GOOD.replace('all="no"', 'all="yes"'),
        "local.xml:14: runtimes[0].device_requests[0]: either all devices or some by their ids",
    ),
    "devices for everybody": (
        without("roles").replace('"yes"', '"no"'),
        "local.xml:13: runtimes[0].device_requests: devices need roles",
    ),
    "removed and there": (
        GOOD.replace("</configuration>", "<removed>plc_python</removed>\n</configuration>"),
        "local.xml:19: <removed>: 'plc_python' is a <runtime>",
    ),
    "removed twice": (
        "<configuration>\n<removed>a</removed>\n<removed>a</removed>\n</configuration>",
        "local.xml:3: <removed>: 'a' is repeated",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(tmp_path: Path, name: str) -> None:
    xml, expected = BAD[name]
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, xml)
    said = [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]
    assert any(line.startswith(expected) for line in said), said


def test_not_utf_8(tmp_path: Path) -> None:
    read(tmp_path, EMPTY)
    (tmp_path / "local.xml").write_bytes(b"<configuration>\n\xff</configuration>")
    with pytest.raises(ConfigError, match=r"local\.xml:2: not valid XML: not well-formed"):
        load(tmp_path / "protocol_server.yml")


def test_problems_of_both_files_are_told(tmp_path: Path) -> None:
    read(tmp_path, GOOD)
    (tmp_path / "runtimes.yml").write_text("runtimes: 5\n")
    (tmp_path / "local.xml").write_text("<config/>")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "protocol_server.yml")
    assert [Path(problem.file).name for problem in caught.value.problems] == ["local.xml", "runtimes.yml"]


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "command": {"command": ("sh", "-c", "echo \"a b\" & <x> 'y'", "")},
    "mounts": {"mounts": (Mount("/data/a & b", "/a<b", False), Mount("/data", "/c", True))},
    "devices": {
        "roles": ("alice",),
        "device_requests": (
            DeviceRequest("nvidia", False, ("0", "1"), ("gpu", "compute")),
            DeviceRequest("", True, (), ("gpu",)),
        ),
    },
    "limits": {"cpus": 0.25, "cpuset": "0-3,7", "nofile": 77, "pool": Pool(2, 5), "max_sandboxes": 9},
    "gvisor": {"isolation": "gvisor"},
    "user": {"user": "1000660000:0"},
    "flags": {"container_logging": False, "enable_network": True, "roles": ("a b", "ä")},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    runtime = dataclasses.replace(read(tmp_path, GOOD).rolled_out["site"], **VARIANTS[name])
    if name == "command":
        # An empty argument is no argument that the schema accepts.
        runtime = dataclasses.replace(runtime, command=runtime.command[:-1])
    config = read(tmp_path, write_xml([plain(runtime)], ["both"], "written -- by a test"))
    assert config.local == {"site": runtime}
    assert config.removed == ("both",)


def test_what_xml_cannot_hold(tmp_path: Path) -> None:
    runtime = plain(read(tmp_path, GOOD).rolled_out["site"])
    with pytest.raises(ValueError, match="cannot hold"):
        write_xml([{**runtime, "command": ["a\x01b"]}])
