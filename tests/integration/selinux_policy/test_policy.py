"""The SELinux policy, on a kernel that need not know of SELinux: compiled, linked into Debian's, broken, asked."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.images import build_image
from builder.packages import build_package
from builder.project import ROOT

pytestmark = pytest.mark.slow

RELEASE = "13"
HERE = Path(__file__).parent
SOURCE = ROOT / "src/selinux_policy"
INSTALLED = "/usr/share/selinux/packages/plcontainer"
RHEL_HEADERS = Path("/usr/share/selinux/devel/include/services/container.if")


class Policy:
    """A container with Debian's policy and tools, and our package installed."""

    def __init__(self, container: str) -> None:
        self.container = container
        self.said = ""

    def run(self, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "exec", "-i", self.container, *command], input=stdin, capture_output=True, text=True, check=False
        )

    def shell(self, script: str) -> str:
        done = self.run("sh", "-euc", script)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def policy() -> Iterator[Policy]:
    image = build_image("selinux_policy", RELEASE, say=print)
    image.load()
    package = build_package("selinux_policy", RELEASE, say=print)
    options = ["--rm", "--detach", "--init", "--network", "none", "--label", "caisson.test"]
    options += ["--volume", f"{package.deb.parent}:/package:ro", "--volume", f"{HERE}:/tests:ro"]
    started = subprocess.run(
        ["docker", "run", *options, image.tag, "sleep", "infinity"], check=True, capture_output=True, text=True
    )
    one = Policy(started.stdout.strip())
    try:
        # What neverallow rules say is only looked at when this is asked for.
        one.shell(
            "sed -i '/^expand-check/d' /etc/selinux/semanage.conf; echo expand-check=1 >>/etc/selinux/semanage.conf"
        )
        done = one.run("dpkg", "--install", f"/package/{package.deb.name}")
        assert done.returncode == 0, done.stderr[-5000:]
        one.said = done.stdout + done.stderr
        yield one
    finally:
        subprocess.run(["docker", "rm", "--force", one.container], check=True, capture_output=True)


def test_the_package_links_its_module_into_debians_policy(policy: Policy) -> None:
    assert "neverallow" not in policy.said
    modules = policy.shell("semodule --list=full")
    assert re.search(r"^400 plcontainer\s+pp", modules, re.MULTILINE), modules


def test_the_checksum_that_the_package_names_is_the_stores(policy: Policy) -> None:
    named = policy.shell(f"cat {INSTALLED}/plcontainer.sha256").strip()
    (line,) = [line for line in policy.shell("semodule -lfull --checksum").splitlines() if " plcontainer " in line]
    assert line.split()[-1] == f"sha256:{named}"


def test_a_module_that_breaks_a_promise_is_not_linked(policy: Policy) -> None:
    before = policy.shell("semodule -lfull | sha256sum; sha256sum /etc/selinux/default/policy/policy.*")
    done = policy.run("semodule", "-s", "default", "-n", "-i", "/tests/broken.cil")
    assert done.returncode != 0
    broken = [line for line in (HERE / "broken.cil").read_text(encoding="utf-8").splitlines() if line[:1] == "("]
    # The rule that was refused stands below each promise that it breaks.
    refused = {re.sub(r"\s+", " ", found) for found in re.findall(r"\(allow [^\n]*\)", done.stderr)}
    for rule in broken:
        assert rule in refused, f"{rule} breaks no promise"
    assert done.stderr.count("neverallow check failed") >= 20
    assert policy.shell("semodule -lfull | sha256sum; sha256sum /etc/selinux/default/policy/policy.*") == before


# source, target, class, what it may, what it may not
MAY: list[tuple[str, str, str, str, str]] = [
    ("plcontainer_sandbox_t", "plcontainer_sandbox_t", "tcp_socket", "", "create"),
    ("plcontainer_sandbox_t", "plcontainer_sandbox_t", "packet_socket", "", "create"),
    ("plcontainer_sandbox_t", "plcontainer_sandbox_t", "netlink_route_socket", "", "create"),
    ("plcontainer_sandbox_t", "plcontainer_sandbox_t", "unix_stream_socket", "create connect", ""),
    ("plcontainer_sandbox_t", "plcontainer_rendezvous_t", "unix_stream_socket", "connectto", "listen accept"),
    ("plcontainer_sandbox_t", "protocol_server_t", "unix_stream_socket", "", "connectto"),
    ("plcontainer_sandbox_t", "postgresql_t", "unix_stream_socket", "", "connectto"),
    ("plcontainer_sandbox_t", "dockerd_t", "unix_stream_socket", "", "connectto"),
    ("plcontainer_sandbox_t", "plcontainer_conf_t", "file", "", "read open getattr"),
    ("plcontainer_sandbox_t", "protocol_server_runtime_t", "sock_file", "", "write"),
    ("plcontainer_sandbox_t", "plcontainer_ipc_t", "sock_file", "write", "unlink create"),
    ("plcontainer_sandbox_t", "plcontainer_ipc_t", "dir", "search", "read write add_name"),
    ("plcontainer_sandbox_t", "plcontainer_ipc_t", "file", "", "create read open"),
    ("plcontainer_sandbox_t", "plcontainer_runtime_t", "file", "read map execute", "write append"),
    ("plcontainer_sandbox_t", "plcontainer_accounts_t", "file", "read open", "write"),
    ("plcontainer_sandbox_t", "plcontainer_memfd_t", "file", "map read write", "open"),
    ("plcontainer_sandbox_t", "postgresql_db_t", "file", "", "read open getattr"),
    ("plcontainer_sandbox_t", "shadow_t", "file", "", "read open"),
    ("plcontainer_sandbox_t", "plcontainer_sandbox_t", "capability", "", "sys_admin net_raw dac_override"),
    ("plcontainer_sandbox_t", "plcontainer_sandbox_t", "cap_userns", "", "sys_admin sys_ptrace net_admin"),
    ("plcontainer_sandbox_t", "plcontainer_sandbox_t", "process", "execmem fork sigkill", "ptrace setexec setcurrent"),
    ("plcontainer_net_sandbox_t", "plcontainer_net_sandbox_t", "tcp_socket", "create connect", "listen"),
    ("plcontainer_net_sandbox_t", "plcontainer_net_sandbox_t", "packet_socket", "", "create"),
    ("plcontainer_net_sandbox_t", "plcontainer_net_sandbox_t", "rawip_socket", "", "create"),
    ("postgresql_t", "protocol_server_t", "unix_stream_socket", "connectto", ""),
    ("postgresql_t", "protocol_server_t", "fd", "use", ""),
    ("postgresql_t", "plcontainer_rendezvous_t", "unix_stream_socket", "read write", "connectto"),
    ("protocol_server_t", "plcontainer_ipc_t", "dir", "create relabelfrom relabelto", ""),
    ("protocol_server_t", "plcontainer_rendezvous_t", "unix_stream_socket", "create listen accept", ""),
    ("protocol_server_t", "protocol_server_t", "process", "setsockcreate", "setexec"),
    ("protocol_server_t", "dockerd_t", "unix_stream_socket", "connectto", ""),
    ("protocol_server_t", "security_t", "security", "check_context", "load_policy setenforce"),
    ("protocol_server_t", "postgresql_db_t", "file", "", "read open"),
    ("protocol_server_t", "plcontainer_conf_t", "file", "read", "write"),
    ("dockerd_t", "plcontainer_sandbox_t", "process", "transition", ""),
    ("dockerd_t", "plcontainer_sandbox_t", "process2", "nnp_transition", ""),
    ("dockerd_t", "plcontainer_ipc_t", "dir", "mounton search", ""),
    ("dockerd_t", "plcontainer_accounts_t", "file", "mounton read", "write"),
    ("protocol_server_t", "init_t", "file", "read", "write"),
    ("init_t", "protocol_server_t", "process", "transition", ""),
    ("init_t", "protocol_server_t", "process2", "nnp_transition", ""),
    ("container_t", "plcontainer_ipc_t", "sock_file", "", "write"),
    ("container_t", "plcontainer_conf_t", "file", "", "read"),
]


@pytest.fixture(scope="module")
def answers(policy: Policy) -> dict[str, Any]:
    done = policy.run("python3", "/tests/ask.py", stdin=json.dumps([row[:3] for row in MAY]))
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("row", range(len(MAY)), ids=["-".join(row[:3]) for row in MAY])
def test_what_is_allowed(answers: dict[str, Any], row: int) -> None:
    source, target, kind, may, may_not = MAY[row]
    allowed = set(answers["answers"][row])
    assert set(may.split()) <= allowed, f"{source} {target}:{kind}: not {set(may.split()) - allowed}"
    assert not set(may_not.split()) & allowed, f"{source} {target}:{kind}: {set(may_not.split()) & allowed}"


def test_categories_hold_sandboxes_back_and_the_server_not(answers: dict[str, Any]) -> None:
    constrained = set(answers["constrained"])
    assert {"plcontainer_sandbox_t", "plcontainer_net_sandbox_t"} <= constrained
    assert not {"protocol_server_t", "postgresql_t", "dockerd_t"} & constrained


PATHS = {
    "/etc/plcontainer": "plcontainer_conf_t",
    "/etc/plcontainer/runtimes.local.xml": "plcontainer_conf_t",
    "/run/plcontainer": "protocol_server_runtime_t",
    "/run/plcontainer/protocol_server.sock": "protocol_server_runtime_t",
    "/run/plcontainer/leases/1": "protocol_server_runtime_t",
    "/run/plcontainer/sandboxes": "plcontainer_ipc_t",
    "/run/plcontainer/sandboxes/0123/sandbox.sock": "<<none>>",
    "/run/plcontainer/accounts/10000-10000/passwd": "plcontainer_accounts_t",
    "/usr/lib/caisson/runtime_python/plc/_plc.abi3.so": "plcontainer_runtime_t",
    "/usr/lib/caisson/runtime_r/main.R": "plcontainer_runtime_t",
    "/usr/lib/caisson/protocol_server/server.py": "lib_t",
    "/usr/sbin/plcontainer-protocol-server": "protocol_server_exec_t",
    "/usr/sbin/plcontainer": "bin_t",
    "/var/lib/plcontainer/images/x": "plcontainer_var_lib_t",
    "/run/docker.sock": "container_runtime_t",
}


def test_paths_have_their_types(policy: Policy) -> None:
    shown = policy.shell(f"matchpathcon -P /etc/selinux/default {' '.join(PATHS)}")
    found = dict(line.split("\t", 1) for line in shown.splitlines())
    types = {path: context if context == "<<none>>" else context.split(":")[2] for path, context in found.items()}
    assert types == PATHS


def test_permissive_is_a_module_of_its_own_and_both_go(policy: Policy) -> None:
    """Last: it takes the package away."""
    policy.shell(f"semodule -s default -n -X 400 -i {INSTALLED}/plcontainer_permissive.cil")
    shown = policy.shell("seinfo /etc/selinux/default/policy/policy.* --permissive")
    assert {"protocol_server_t", "plcontainer_sandbox_t", "plcontainer_net_sandbox_t"} <= set(shown.split())
    policy.shell("dpkg --remove caisson-selinux-policy")
    assert "plcontainer" not in policy.shell("semodule -lfull")
    assert "plcontainer_sandbox_t" not in policy.shell("seinfo /etc/selinux/default/policy/policy.* --type")


def test_the_module_compiles_on_rhel(tmp_path: Path) -> None:
    config = Path("/etc/selinux/config")
    if not RHEL_HEADERS.exists() or "SELINUXTYPE=targeted" not in config.read_text(encoding="utf-8"):
        pytest.skip(
            f"no headers of a targeted policy with containers here ({RHEL_HEADERS}): RHEL's layer is not compiled"
        )
    for name in ("Makefile", "plcontainer.te", "plcontainer.fc", "plcontainer_permissive.cil"):
        (tmp_path / name).write_bytes((SOURCE / name).read_bytes())
    (tmp_path / "rhel").mkdir()
    (tmp_path / "rhel/plcontainer.if").write_bytes((SOURCE / "rhel/plcontainer.if").read_bytes())
    done = subprocess.run(["make", "PLATFORM=rhel"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
