"""Every option of the role host_baseline takes effect."""

from __future__ import annotations

from typing import Any

from tests.support.segment_host import SegmentHost

Options = dict[str, Any]


def test_kernel_parameters(segment: SegmentHost, options: Options) -> None:
    wanted = options["host_baseline_kernel_parameters"]
    for name in ("net.ipv4.conf.all.log_martians", "net.ipv4.tcp_keepalive_time"):
        assert segment.run("cat", f"/proc/sys/{name.replace('.', '/')}") == str(wanted[name])
    text = segment.run("cat", "/etc/sysctl.d/80-host_baseline.conf")
    # null leaves a parameter alone; the role's own are still there
    assert "tcp_syncookies" not in text
    assert "net.ipv4.conf.all.rp_filter = 1" in text


def test_limits(segment: SegmentHost, options: Options) -> None:
    shown = segment.run("systemd-run", "--quiet", "--pipe", "--wait", "bash", "-c", "ulimit -u; ulimit -c")
    assert shown.split() == [str(options["host_baseline_service_limits"]["NPROC"]), "0"]
    lines = segment.run("cat", "/etc/security/limits.d/80-host_baseline.conf").splitlines()
    assert "@adm soft nofile 2048" in lines
    refused = segment.run("cat", "/etc/modprobe.d/host_baseline.conf")
    assert "install cramfs /bin/false" in refused
    assert "sctp" not in refused


def test_the_journal_is_capped(segment: SegmentHost, options: Options) -> None:
    limit = options["host_baseline_journal_mb"] * 2**20
    flood = f"import os\nfor i in range({limit // 16384}): print(os.urandom(16384).hex())"
    unit = ["--quiet", "--wait", "--property=LogRateLimitIntervalSec=0"]
    segment.run("systemd-run", *unit, "python3", "-c", flood)
    segment.run("journalctl", "--sync")
    sizes = segment.run("sh", "-c", "du -cb /var/log/journal | tail -1").split()
    # twice as much was written
    assert int(sizes[0]) <= limit + 2**20


def test_only_security_updates_are_installed(segment: SegmentHost, options: Options) -> None:
    found = segment.run("apt-config", "dump", "Unattended-Upgrade")
    origins = [line for line in found.splitlines() if "Origins" in line and '""' not in line]
    assert origins
    assert all("-security" in line for line in origins)
    assert f'"{options["host_baseline_security_updates_except"][0]}"' in found
    assert segment.run("apt-config", "dump", "APT::Periodic::Unattended-Upgrade").endswith('"1";')


def test_what_is_turned_off_is_gone(segment: SegmentHost) -> None:
    assert "No such file" in segment.fails("nft", "list", "table", "inet", "host_baseline")
    for path in ("/etc/host_baseline/firewall.nft", "/etc/audit/rules.d/80-host_baseline.rules"):
        assert not segment.host.file(path).exists
