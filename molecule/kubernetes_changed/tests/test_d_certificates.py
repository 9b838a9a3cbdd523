"""Certificates are renewed in time, without a restart of what serves."""

from __future__ import annotations

from tests.support.control_planes import PKI, PROGRAMS, ControlPlanes
from tests.support.segment_host import wait_until

DAY_S = 86400
SHORT = """
sed 's/^certificateValidityPeriod: .*/certificateValidityPeriod: 48h/' /etc/kubernetes/kubeadm.yml > /run/short.yml
kubeadm certs renew {name} --config /run/short.yml
rm /run/short.yml
"""


def test_a_certificate_that_ends_soon_is_renewed_by_a_run(planes: ControlPlanes) -> None:
    host = planes.clusters["node3"].host
    port = planes.options["kubernetes_control_plane_port"]

    def valid(file: str, days: int) -> bool:
        return bool(host.host.run(f"openssl x509 -noout -checkend {days * DAY_S} -in {PKI}/{file}.crt").rc == 0)

    def shown() -> str:
        """Return the serial number of the certificate that the API server shows."""
        return host.run(
            "sh",
            "-c",
            f"openssl s_client -connect 127.0.0.1:{port} < /dev/null 2> /dev/null | openssl x509 -noout -serial",
        )

    for name, file in (("apiserver", "apiserver"), ("etcd-peer", "etcd/peer")):
        before = shown()
        host.run("sh", "-c", SHORT.format(name=name))
        assert not valid(file, 3)
        pids = {program: host.unit(f"{program}.service", "MainPID") for program in PROGRAMS[:2]}
        said, counts = planes.play("--limit", "node3")
        assert counts["node3"]["changed"] > 0, said
        assert valid(file, planes.options["kubernetes_control_plane_certificate_days"] - 1)
        assert not valid(file, planes.options["kubernetes_control_plane_certificate_days"] + 1)
        wait_until(lambda old=before: shown() != old, 90, "the API server shows the new one")  # type: ignore[misc]
        assert {program: host.unit(f"{program}.service", "MainPID") for program in pids} == pids
        said, counts = planes.play("--limit", "node3")
        assert counts["node3"]["changed"] == 0, said
    planes.wait_until_well()
