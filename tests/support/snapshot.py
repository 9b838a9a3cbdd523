"""What a host consists of, to compare hosts and moments: files, packages, users, units and what the kernel was told."""

from __future__ import annotations

import re
import subprocess

from tests.support.segment_host import SegmentHost

Snapshot = dict[str, dict[str, str]]

# Each part is a command whose lines are facts: a name, a space, the rest. What changes by itself is left out of them.
PARTS = {
    "files": r"""
        find /etc /usr /var/lib /opt /root /home -xdev \( -path /var/lib/apt -o -path /var/lib/dpkg \
          -o -path /var/lib/postgresql -o -path /var/lib/docker -o -path /var/lib/containerd -o -name __pycache__ \) \
          -prune -o -printf '%p %y %m %u %g %l\n'""",
    "contents": r"""
        find /etc -xdev -type f ! -name '*-' ! -name ld.so.cache ! -name machine-id ! -name '*.key' ! -name '*.pem' \
          ! -name passwd ! -name group ! -name shadow ! -name gshadow \
          -exec sha256sum {} + | awk '{print $2, $1}'""",
    "copies of packages": "find /var/cache/apt/archives /var/log -name '*caisson*' -o -name '*plcontainer*'",
    "mounts": "findmnt --raw --noheadings --output TARGET,FSTYPE",
    "automatic packages": "apt-mark showauto",
    "packages": r"dpkg-query -W -f '${Package} ${db:Status-Status}\n'",
    # ids are given in the order of installation
    "users": "cut -d: -f1,6,7 /etc/passwd | tr : ' '",
    "groups": "python3 -c 'import grp; [print(one.gr_name, *sorted(one.gr_mem)) for one in grp.getgrall()]'",
    "unit files": "systemctl list-unit-files --no-legend --plain --full | awk '{print $1, $2}'",
    "units": "systemctl list-units --no-legend --plain --full --type=service,socket,timer,slice | awk '{print $1, $3}'",
    "packet filters": r"""
        { command -v nft && nft list ruleset; command -v iptables-save && iptables-save; } \
          | grep -v -e '^#' -e DOCKER_ -e 127.0.0.11 \
          | sed 's/counter packets [0-9]* bytes [0-9]*//; s/\[[0-9]*:[0-9]*\]//' | tr ' ' _""",
    "links": "ip -br link | sed 's/[@ ].*//'",
    "kernel parameters": "sysctl -a 2> /dev/null",
}
# Counters, and what belongs to the moment: what runs in Docker, and what systemd does at the first start alone. The
# Docker that the hosts themselves are in gives them names by rules of its own.
UNSTEADY = re.compile(
    r"(fs\.(dentry|inode|file-nr|aio-nr|quota)|kernel\.(random|ns_last_pid|pty\.nr|tainted)|session-|user-\d|user@|run-"
    r"|net\.netfilter\.nf_conntrack_count|net\.ipv[46]\.(conf|neigh)\.veth|net\.core\.netdev_rss_key|apt-|dpkg-|fstrim"
    r"|systemd-(tmpfiles|update|hostnamed|journal-catalog|sysusers)|ldconfig|/var/lib/(docker|containerd|ucf)/|/run/"
    r"|e2scrub|logrotate|man-db|.*veth|vm\.nr_hugepages)"
)


def snapshot(host: SegmentHost) -> Snapshot:
    """Return by part each fact by its name."""
    found = {}
    for part, command in PARTS.items():
        asked = ["docker", "exec", host.container, "sh", "-c", command]
        text = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        lines = (line.strip().partition(" ") for line in text.splitlines() if line.strip())
        found[part] = {name: value for name, _, value in lines if not UNSTEADY.match(name)}
    return found


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """Return how two snapshots differ, one line each."""
    lines = []
    for part, old in before.items():
        new = after[part]
        lines += [f"{part}: {name} is new: {new[name]}" for name in sorted(new.keys() - old.keys())]
        lines += [f"{part}: {name} is gone: {old[name]}" for name in sorted(old.keys() - new.keys())]
        both = sorted(old.keys() & new.keys())
        lines += [f"{part}: {name}: {old[name]} -> {new[name]}" for name in both if old[name] != new[name]]
    return lines
