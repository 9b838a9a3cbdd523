"""Control planes that are lost, one and two of three, and what is left meanwhile."""

from __future__ import annotations

import time

from tests.support.cluster import RESTRICTED, Cluster
from tests.support.control_planes import PROGRAMS, ControlPlanes
from tests.support.segment_host import wait_until

WAITS = "import signal; signal.pause()"
CANARY = "canary-a09cf4f3"
UNITS = [f"{name}.service" for name in reversed(PROGRAMS)]


def _writes(cluster: Cluster, name: str) -> bool:
    """Tell whether an object can be written within seconds."""
    argv = [
        "kubectl",
        "--kubeconfig",
        "/etc/kubernetes/admin.conf",
        "--request-timeout",
        "5s",
        "create",
        "configmap",
        name,
    ]
    return bool(cluster.host.host.run(" ".join(argv)).rc == 0)


def _container(cluster: Cluster, name: str) -> tuple[str, int]:
    status = cluster.get("pod", name)["status"]["containerStatuses"][0]
    return status["containerID"], status["restartCount"]


def test_one_and_then_two_of_three_are_lost(planes: ControlPlanes, cluster: Cluster) -> None:
    """With one lost all goes on; with two nothing is written and nothing is lost; pods live on in either case."""
    planes.wait_until_well()
    cluster.made(cluster.pod("lives", WAITS, nodeName="node1"))
    cluster.run("wait", "--for=condition=Ready", "pod/lives", "--timeout=60s")
    before = _container(cluster, "lives")
    planes.lead("node3")
    with planes.gone("node3"):
        lost = time.monotonic()
        wait_until(lambda: _writes(cluster, f"after-{time.monotonic_ns()}"), 30, "writes go on through the forwarder")
        print(f"\nwrites go on {time.monotonic() - lost:.1f} s after the leader was cut off")
        assert _container(cluster, "lives") == before
        # one of the other schedulers and controller managers works
        assert cluster.answer("new", "print('runs')", container={"securityContext": RESTRICTED}) == "runs"
        assert _writes(cluster, "kept")

        second = planes.clusters["node2"].host
        second.run("systemctl", "kill", "--signal=KILL", *UNITS)
        second.run("systemctl", "stop", *UNITS)
        wait_until(lambda: not _writes(cluster, f"never-{time.monotonic_ns()}"), 30, "writes are refused")
        asked = time.monotonic()
        assert not _writes(cluster, "never")
        assert time.monotonic() - asked < 15, "a client is told, and does not hang"
        task = before[0].removeprefix("containerd://")
        assert task in cluster.host.run("ctr", "--namespace", "k8s.io", "tasks", "list")
    back = time.monotonic()
    wait_until(lambda: _writes(cluster, f"again-{time.monotonic_ns()}"), 60, "writes go on with two of three")
    print(f"writes go on {time.monotonic() - back:.1f} s after one of two came back")
    assert cluster.get("configmap", "kept")
    assert "NotFound" in cluster.fails("get", "configmap", "never")
    assert _container(cluster, "lives") == before

    said, counts = planes.play()
    assert counts["node2"]["changed"] > 0, said
    planes.wait_until_well()
    assert _container(cluster, "lives") == before
    cluster.run("delete", "pod", "lives", "--now")


def test_an_emptied_host_makes_no_second_cluster_and_joins_again(planes: ControlPlanes, cluster: Cluster) -> None:
    host = planes.clusters["node2"].host
    before = planes.members("node1")
    cluster.run("create", "secret", "generic", "kept", f"--from-literal=word={CANARY}")
    host.run("systemctl", "disable", "--now", *UNITS)
    host.run(
        "sh", "-c", "rm -rf /var/lib/etcd /etc/kubernetes/pki /etc/kubernetes/encryption.yml /etc/kubernetes/*.conf"
    )
    with planes.gone("node1", "node3"):
        said, counts = planes.refused("--limit", "node2")
        assert "does not answer" in said
        assert counts["node2"]["changed"] == 0
    host.fails("test", "-e", "/var/lib/etcd/member")
    wait_until(lambda: planes.well("node1") and planes.well("node3"), 60, "the others are back")

    said, counts = planes.play("--limit", "node2", "-vvv")
    assert counts["node2"]["changed"] > 0
    after = planes.members("node1")
    assert sorted(after) == planes.names
    assert after["node2"]["ID"] != before["node2"]["ID"]
    assert after["node1"]["ID"] == before["node1"]["ID"]
    planes.wait_until_well()
    # what was handed over was neither said nor kept on the way
    for file in ("/etc/kubernetes/pki/ca.key", "/etc/kubernetes/pki/sa.key"):
        line = host.run("cat", file).splitlines()[5]
        assert line not in said
    key = host.run("sed", "-n", "s/ *secret: //p", "/etc/kubernetes/encryption.yml")
    assert len(key) == 44
    assert key not in said
    # its API server reads secrets with the key that it was given
    server = f"https://{planes.address('node2')}:{planes.options['kubernetes_control_plane_port']}"
    secret = planes.clusters["node2"].run(
        "--server", server, "get", "secret", "kept", "--output", "jsonpath={.data.word}"
    )
    assert secret
    cluster.run("delete", "secret", "kept")
    said, counts = planes.play()
    assert sum(count["changed"] for count in counts.values()) == 0, said


def test_a_store_is_not_started_anew_while_that_ends_writes(planes: ControlPlanes) -> None:
    planes.wait_until_well()
    node1 = planes.clusters["node1"].host
    pid = node1.unit("etcd.service", "MainPID")
    planes.clusters["node3"].host.run("systemctl", "stop", "etcd.service")
    try:
        # newer than its process, as after a change
        node1.run("touch", "/etc/systemd/system/etcd.service")
        said, _ = planes.refused("--limit", "node1")
        assert "without node1 too few would be left" in said
        assert node1.unit("etcd.service", "MainPID") == pid
    finally:
        planes.clusters["node3"].host.run("systemctl", "start", "etcd.service")
    planes.wait_until_well()
    planes.play("--limit", "node1")
    assert node1.unit("etcd.service", "MainPID") != pid
    planes.wait_until_well()
