"""The controls of the CIS Docker Benchmark 1.6.0, on hosts as they are by default and on the sandbox of a real session.

A test has the number of its control. A control that has none is in waivers/cis_docker.yml, with the reason.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.segment_host import SegmentHost, setting

SECTIONS = {"1.1": 18, "1.2": 2, "2": 18, "3": 24, "4": 12, "5": 32, "6": 2, "7": 9}
CONTROLS = [f"{section}.{number}" for section, count in SECTIONS.items() for number in range(1, count + 1)]
WAIVERS = yaml.safe_load((Path(__file__).parent / "waivers/cis_docker.yml").read_text(encoding="utf-8"))

UNITS = "/usr/lib/systemd/system"
AUDITED = {
    "1.1.3": "/usr/sbin/dockerd",
    "1.1.4": "/run/containerd",
    "1.1.5": "/var/lib/docker",
    "1.1.6": "/etc/docker",
    "1.1.7": f"{UNITS}/docker.service",
    "1.1.8": "/run/containerd/containerd.sock",
    "1.1.9": f"{UNITS}/docker.socket",
    "1.1.10": "/etc/default/docker",
    "1.1.11": "/etc/docker/daemon.json",
    "1.1.12": "/etc/containerd/config.toml",
    "1.1.14": "/usr/bin/containerd",
    "1.1.15": "/usr/bin/containerd-shim",
    "1.1.16": "/usr/bin/containerd-shim-runc-v1",
    "1.1.17": "/usr/bin/containerd-shim-runc-v2",
    "1.1.18": "/usr/sbin/runc",
}
OWNERS = {
    "3.1": (f"{UNITS}/docker.service", "root:root"),
    "3.3": (f"{UNITS}/docker.socket", "root:root"),
    "3.5": ("/etc/docker", "root:root"),
    "3.15": ("/run/docker.sock", "root:docker"),
    "3.17": ("/etc/docker/daemon.json", "root:root"),
    "3.19": ("/etc/default/docker", "root:root"),
    "3.23": ("/run/containerd/containerd.sock", "root:root"),
}
MODES = {
    "3.2": (f"{UNITS}/docker.service", 0o644),
    "3.4": (f"{UNITS}/docker.socket", 0o644),
    "3.6": ("/etc/docker", 0o755),
    "3.16": ("/run/docker.sock", 0o660),
    "3.18": ("/etc/docker/daemon.json", 0o644),
    "3.20": ("/etc/default/docker", 0o644),
    "3.24": ("/run/containerd/containerd.sock", 0o660),
}
# Files that are not there need no owner and no mode.
ABSENT = {
    "3.7": "/etc/docker/certs.d",
    "3.8": "/etc/docker/certs.d",
    "3.21": "/etc/sysconfig/docker",
    "3.22": "/etc/sysconfig/docker",
}
# Certificates and keys that dockerd is not told of, since it listens on no port.
UNTOLD = {
    "3.9": "tlscacert",
    "3.10": "tlscacert",
    "3.11": "tlscert",
    "3.12": "tlscert",
    "3.13": "tlskey",
    "3.14": "tlskey",
}
Found = dict[str, Any]


@pytest.fixture(scope="module")
def info(segment: SegmentHost) -> Found:
    """Return what Docker says of itself."""
    found: Found = json.loads(segment.docker("info", "--format", "{{json .}}"))
    return found


@pytest.fixture(scope="module")
def daemon(segment: SegmentHost) -> Found:
    """Return daemon.json. No option is given in another way, so it is all that dockerd was told."""
    command = segment.run("cat", f"/proc/{segment.unit('docker.service', 'MainPID')}/cmdline").split("\0")
    assert {word.partition("=")[0] for word in command if word.startswith("-")} <= {"-H", "--containerd"}
    found: Found = json.loads(segment.run("cat", "/etc/docker/daemon.json"))
    return found


@pytest.fixture(scope="module")
def sandbox(segment: SegmentHost) -> Iterator[Found]:
    """Return what Docker says of the sandbox of a session, while it is there."""
    with segment.session() as session:
        yield segment.inspect(segment.leased_sandbox(session))


@pytest.fixture
def status(segment: SegmentHost, sandbox: Found) -> dict[str, str]:
    """Return what the kernel says of the sandbox's first process."""
    text = segment.run("cat", f"/proc/{sandbox['State']['Pid']}/status")
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def controls_with_a_test() -> set[str]:
    """Return the controls that have a test."""
    tables: list[dict[str, Any]] = [AUDITED, OWNERS, MODES, ABSENT, UNTOLD]
    names = [re.fullmatch(r"test_cis_(\d+(?:_\d+)+)_[a-z].*", name) for name in vars(sys.modules[__name__])]
    return {name[1].replace("_", ".") for name in names if name} | {key for table in tables for key in table}


def test_every_control_is_tested_or_waived_with_a_reason() -> None:
    tested = controls_with_a_test()
    waived = {control for control in CONTROLS for pattern in WAIVERS if fnmatch(control, pattern)}
    assert set(CONTROLS) - tested - waived == set(), "neither tested nor waived"
    assert tested & waived == set(), "tested, and waived all the same"
    assert tested <= set(CONTROLS)
    for pattern, reason in WAIVERS.items():
        assert any(fnmatch(control, pattern) for control in CONTROLS), f"{pattern}: no such control"
        assert len(reason) > 5, pattern


@pytest.mark.parametrize("path", AUDITED.values(), ids=AUDITED.keys())
def test_cis_changes_are_recorded(segment: SegmentHost, path: str) -> None:
    rules = segment.run("cat", "/etc/audit/rules.d/80-host_baseline.rules")
    assert re.search(rf"^-w {re.escape(path)} -p x?wa -k docker$", rules, re.MULTILINE)


@pytest.mark.parametrize(("path", "owner"), OWNERS.values(), ids=OWNERS.keys())
def test_cis_owners(segment: SegmentHost, path: str, owner: str) -> None:
    assert segment.run("stat", "-L", "-c", "%U:%G", path) == owner


@pytest.mark.parametrize(("path", "mode"), MODES.values(), ids=MODES.keys())
def test_cis_modes(segment: SegmentHost, path: str, mode: int) -> None:
    assert int(segment.run("stat", "-L", "-c", "%a", path), 8) & ~mode == 0


@pytest.mark.parametrize("path", ABSENT.values(), ids=ABSENT.keys())
def test_cis_what_is_not_there(segment: SegmentHost, path: str) -> None:
    assert not segment.host.file(path).exists


@pytest.mark.parametrize("key", UNTOLD.values(), ids=UNTOLD.keys())
def test_cis_certificates_that_are_not_used(daemon: Found, key: str) -> None:
    assert key not in daemon


def test_cis_1_1_1_docker_has_a_file_system_of_its_own(segment: SegmentHost, info: Found) -> None:
    assert segment.run("findmnt", "-n", "-o", "TARGET", "--target", info["DockerRootDir"]) == info["DockerRootDir"]


def test_cis_1_1_2_nobody_else_controls_docker(segment: SegmentHost) -> None:
    assert segment.run("getent", "group", "docker").rpartition(":")[2] == "protocol_server"


def test_cis_2_2_containers_do_not_talk_to_each_other(segment: SegmentHost) -> None:
    bridge = json.loads(segment.docker("network", "inspect", "bridge"))[0]
    assert bridge["Options"]["com.docker.network.bridge.enable_icc"] == "false"


def test_cis_2_3_level_of_the_log(daemon: Found, info: Found) -> None:
    assert daemon.get("log-level", "info") == "info"
    assert info["Debug"] is False


def test_cis_2_4_docker_sets_packet_filter_rules(segment: SegmentHost) -> None:
    assert "-j DOCKER" in segment.run("iptables", "-S", "FORWARD")


def test_cis_2_5_no_insecure_registries(info: Found) -> None:
    assert set(info["RegistryConfig"]["InsecureRegistryCIDRs"]) <= {"127.0.0.0/8", "::1/128"}
    assert all(entry["Secure"] for entry in info["RegistryConfig"]["IndexConfigs"].values())


def test_cis_2_6_no_aufs(info: Found) -> None:
    assert info["Driver"] == "overlay2"


def test_cis_2_7_no_port_that_could_need_tls(segment: SegmentHost, daemon: Found) -> None:
    assert "hosts" not in daemon
    assert "dockerd" not in segment.run("ss", "--listening", "--tcp", "--processes", "--no-header")


def test_cis_2_8_limits_by_default(segment: SegmentHost) -> None:
    image = segment.docker("image", "ls", "--quiet", "caisson/plpython").split()[0]
    show = "ulimit -Hn; ulimit -Hu 2>/dev/null || ulimit -Hp; ulimit -Hc"
    shown = segment.docker("run", "--rm", "--network", "none", image, "sh", "-c", show).split()
    assert shown == [str(setting("docker_engine_nofile_hard")), str(setting("docker_engine_nproc")), "0"]


def test_cis_2_10_cgroup_parent(daemon: Found) -> None:
    assert "cgroup-parent" not in daemon


def test_cis_2_11_size_of_base_devices(daemon: Found) -> None:
    assert "storage-opts" not in daemon


def test_cis_2_14_nobody_gains_privileges(segment: SegmentHost, daemon: Found) -> None:
    assert daemon["no-new-privileges"] is True
    image = segment.docker("image", "ls", "--quiet", "caisson/plpython").split()[0]
    shown = segment.docker("run", "--rm", "--network", "none", image, "cat", "/proc/self/status")
    assert re.search(r"^NoNewPrivs:\s+1$", shown, re.MULTILINE)


def test_cis_2_15_live_restore(info: Found) -> None:
    assert info["LiveRestoreEnabled"] is True


def test_cis_2_16_no_userland_proxy(daemon: Found) -> None:
    assert daemon["userland-proxy"] is False


def test_cis_2_17_seccomp_profile(info: Found) -> None:
    profiles = [option for option in info["SecurityOptions"] if "seccomp" in option]
    assert profiles in (["name=seccomp,profile=default"], ["name=seccomp,profile=builtin"])


def test_cis_2_18_nothing_experimental(info: Found) -> None:
    assert info["ExperimentalBuild"] is False


def test_cis_4_1_a_user_that_is_not_root(sandbox: Found, status: dict[str, str]) -> None:
    assert int(sandbox["Config"]["User"].partition(":")[0]) >= 1000
    assert "0" not in status["Uid"].split() + status["Gid"].split()


def test_cis_5_1_no_swarm(info: Found) -> None:
    assert info["Swarm"]["LocalNodeState"] == "inactive"


def test_cis_5_2_apparmor_where_the_kernel_has_it(info: Found, sandbox: Found) -> None:
    has = any("apparmor" in option for option in info["SecurityOptions"])
    assert (sandbox["AppArmorProfile"] not in ("", "unconfined")) is has


def test_cis_5_3_selinux_where_docker_has_it(info: Found, sandbox: Found) -> None:
    has = any("selinux" in option for option in info["SecurityOptions"])
    assert bool(sandbox["ProcessLabel"]) is has
    assert not any("label=disable" in option for option in sandbox["HostConfig"]["SecurityOpt"])


def test_cis_5_4_no_capabilities(sandbox: Found, status: dict[str, str]) -> None:
    assert sandbox["HostConfig"]["CapDrop"] == ["ALL"]
    assert not sandbox["HostConfig"]["CapAdd"]
    assert {int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


def test_cis_5_5_not_privileged(sandbox: Found) -> None:
    assert sandbox["HostConfig"]["Privileged"] is False


def test_cis_5_6_no_directories_of_the_system(sandbox: Found) -> None:
    for mount in sandbox["Mounts"]:
        assert mount["Source"].startswith(("/run/plcontainer/", "/usr/lib/caisson/")), mount
        assert mount["RW"] is False, mount


def test_cis_5_7_no_sshd(segment: SegmentHost, sandbox: Found) -> None:
    assert "sshd" not in segment.docker("top", sandbox["Id"])


def test_cis_5_8_no_privileged_ports(sandbox: Found) -> None:
    assert not sandbox["HostConfig"]["PortBindings"]


def test_cis_5_9_no_open_ports(segment: SegmentHost, sandbox: Found) -> None:
    for table in ("tcp", "tcp6", "udp", "udp6"):
        lines = segment.run("cat", f"/proc/{sandbox['State']['Pid']}/net/{table}").splitlines()
        assert len(lines) == 1, table
    assert not sandbox["NetworkSettings"]["Ports"]


def namespace(segment: SegmentHost, sandbox: Found, kind: str) -> tuple[str, str]:
    """Return a namespace of the sandbox and that of the host."""
    return (
        segment.run("readlink", f"/proc/{sandbox['State']['Pid']}/ns/{kind}"),
        segment.run("readlink", f"/proc/1/ns/{kind}"),
    )


def test_cis_5_10_a_network_of_its_own(segment: SegmentHost, sandbox: Found) -> None:
    inside, outside = namespace(segment, sandbox, "net")
    assert inside != outside
    assert sandbox["HostConfig"]["NetworkMode"] == "none"


def test_cis_5_11_memory_is_limited(sandbox: Found) -> None:
    expected = setting("plcontainer_runtimes_defaults")["memory_mb"] * 2**20
    assert sandbox["HostConfig"]["Memory"] == sandbox["HostConfig"]["MemorySwap"] == expected


def test_cis_5_12_processors_are_shared(sandbox: Found) -> None:
    assert sandbox["HostConfig"]["CpuShares"] == setting("plcontainer_runtimes_defaults")["cpu_shares"]


def test_cis_5_13_the_root_is_read_only(sandbox: Found) -> None:
    assert sandbox["HostConfig"]["ReadonlyRootfs"] is True


def test_cis_5_14_no_port_on_any_interface(sandbox: Found) -> None:
    assert not sandbox["HostConfig"]["PublishAllPorts"]
    assert not sandbox["NetworkSettings"]["Ports"]


def test_cis_5_15_it_is_not_started_again(sandbox: Found) -> None:
    assert sandbox["HostConfig"]["RestartPolicy"]["Name"] == "no"


def test_cis_5_16_processes_of_its_own(segment: SegmentHost, sandbox: Found) -> None:
    inside, outside = namespace(segment, sandbox, "pid")
    assert inside != outside


def test_cis_5_17_ipc_of_its_own(segment: SegmentHost, sandbox: Found) -> None:
    inside, outside = namespace(segment, sandbox, "ipc")
    assert inside != outside


def test_cis_5_18_no_devices(sandbox: Found) -> None:
    assert not sandbox["HostConfig"]["Devices"]
    assert not sandbox["HostConfig"]["DeviceRequests"]


def test_cis_5_19_limits_of_its_own(sandbox: Found) -> None:
    limits = {limit["Name"]: limit["Hard"] for limit in sandbox["HostConfig"]["Ulimits"]}
    assert (limits["nofile"], limits["core"]) == (setting("plcontainer_runtimes_defaults")["nofile"], 0)


def test_cis_5_20_mounts_stay_apart(sandbox: Found) -> None:
    assert {mount["Propagation"] for mount in sandbox["Mounts"]} <= {"rprivate", "private"}


def test_cis_5_21_a_host_name_of_its_own(segment: SegmentHost, sandbox: Found) -> None:
    inside, outside = namespace(segment, sandbox, "uts")
    assert inside != outside


def test_cis_5_22_system_calls_are_filtered(sandbox: Found, status: dict[str, str]) -> None:
    assert not any("seccomp" in option for option in sandbox["HostConfig"]["SecurityOpt"])
    assert status["Seccomp"] == "2"


def test_cis_5_25_the_cgroup_is_the_one_that_was_asked_for(segment: SegmentHost, sandbox: Found) -> None:
    # Docker wants a slice by its name or by its path, depending on its driver of cgroups
    parent = sandbox["HostConfig"]["CgroupParent"].rpartition("/")[2]
    assert parent == setting("protocol_server_cgroup_parent")
    groups = segment.run("cat", f"/proc/{sandbox['State']['Pid']}/cgroup")
    assert f"{parent}/" in groups
    assert sandbox["Id"] in groups


def test_cis_5_26_no_new_privileges(sandbox: Found, status: dict[str, str]) -> None:
    assert "no-new-privileges" in [option.removesuffix(":true") for option in sandbox["HostConfig"]["SecurityOpt"]]
    assert status["NoNewPrivs"] == "1"


def test_cis_5_28_the_image_that_was_brought(segment: SegmentHost, sandbox: Found) -> None:
    listed = segment.docker("image", "ls", "--quiet", "--no-trunc", "caisson/plpython").split()
    assert [sandbox["Image"]] == sorted(set(listed))


def test_cis_5_29_processes_are_counted(sandbox: Found) -> None:
    assert sandbox["HostConfig"]["PidsLimit"] == setting("plcontainer_runtimes_defaults")["pids"]


def test_cis_5_30_not_on_the_default_bridge(sandbox: Found) -> None:
    assert set(sandbox["NetworkSettings"]["Networks"]) <= {"none"}


def test_cis_5_31_no_user_namespace_of_the_host_is_asked_for(sandbox: Found) -> None:
    assert sandbox["HostConfig"]["UsernsMode"] == ""


def test_cis_5_32_no_socket_of_docker(segment: SegmentHost, sandbox: Found) -> None:
    mounts = segment.run("cat", f"/proc/{sandbox['State']['Pid']}/mountinfo")
    assert "docker.sock" not in mounts
    assert "containerd.sock" not in mounts


def test_cis_6_1_no_images_that_nothing_uses(segment: SegmentHost) -> None:
    images = {runtime["image"] for runtime in setting("plcontainer_runtimes_list")}
    listed = segment.docker("image", "ls", "--format", "{{.Repository}}").split()
    assert sorted(listed) == sorted(f"caisson/{image}" for image in images)


def test_cis_6_2_no_containers_that_have_ended(segment: SegmentHost) -> None:
    assert segment.docker("ps", "--all", "--quiet", "--filter", "status=exited") == ""
