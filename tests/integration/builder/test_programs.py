"""Programs of Go modules, where the cache has them: their versions are go.mod's, and their bills are complete."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from builder.description import load_package, package_folder
from builder.images import find_image
from builder.packages import find_package
from builder.project import ROOT
from tests.support import manifests

pytestmark = pytest.mark.slow

# program -> its package, how it is asked for its version, and of which module that is
PROGRAMS = {
    "etcd": ("etcd", ["--version"], "go.etcd.io/etcd/server/v3"),
    "etcdctl": ("etcd", ["version"], "go.etcd.io/etcd/etcdctl/v3"),
    "etcdutl": ("etcd", ["version"], "go.etcd.io/etcd/etcdutl/v3"),
    "kine": ("kine", ["--version"], "github.com/k3s-io/kine"),
    "kube-apiserver": ("kubernetes", ["--version"], "k8s.io/kubernetes"),
    "kube-bench": ("kube_bench", ["version"], "github.com/aquasecurity/kube-bench"),
    "kube-controller-manager": ("kubernetes", ["--version"], "k8s.io/kubernetes"),
    "kube-proxy": ("kubernetes", ["--version"], "k8s.io/kubernetes"),
    "kube-scheduler": ("kubernetes", ["--version"], "k8s.io/kubernetes"),
    "kubeadm": ("kubernetes", ["version", "--output", "short"], "k8s.io/kubernetes"),
    "kubeconform": ("kubeconform", ["-v"], "github.com/yannh/kubeconform"),
    "kubectl": ("kubernetes", ["version", "--client"], "k8s.io/kubernetes"),
    "kubelet": ("kubernetes", ["--version"], "k8s.io/kubernetes"),
    "pulumi": ("pulumi", ["version"], "github.com/pulumi/pulumi/pkg/v3"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_tells_the_version_of_go_mod(name: str) -> None:
    package, question, module = PROGRAMS[name]
    built = find_package(package, "13")
    if built is None:
        pytest.skip(f"compiling {package} takes minutes: `python -m builder package {package}`, then this is tested")
    (program,) = built.unpacked().glob(f"usr/bin/{name}")
    done = subprocess.run(
        [program, *question], check=True, capture_output=True, text=True, env={"HOME": "/nonexistent"}
    )
    required = dict(re.findall(r"(\S+) v(\d\S*)", (package_folder(package, ROOT) / "go.mod").read_text()))
    assert required[module] in done.stdout + done.stderr
    libraries = subprocess.run(["ldd", program], check=False, capture_output=True, text=True)
    assert "not a dynamic executable" in libraries.stderr


@pytest.mark.parametrize("package", sorted({package for package, _, _ in PROGRAMS.values()}))
def test_the_bill_names_programs_and_modules(package: str) -> None:
    built = find_package(package, "13")
    if built is None:
        pytest.skip(f"compiling {package} takes minutes: `python -m builder package {package}`, then this is tested")
    assert built.bill is not None
    bill = json.loads(built.bill.read_text(encoding="utf-8"))
    names = {item["name"] for item in bill["components"]}
    for go in load_package(package, "13").go:
        assert go.programs.keys() <= names
    assert "stdlib" in names
    sums = "".join(path.read_text() for path in package_folder(package, ROOT).rglob("go.sum"))
    for item in bill["components"]:
        for fact in item.get("properties", []):
            assert f"{item['name']} {item['version']} {fact['value']}" in sums
    inside = built.unpacked() / "usr/share/doc" / built.package / built.bill.name
    assert inside.read_bytes() == built.bill.read_bytes()


def test_coredns_takes_every_plugin_that_it_has_in_it(tmp_path: Path) -> None:
    built = find_image("coredns", "13")
    if built is None:
        pytest.skip("compiling coredns takes minutes: `python -m builder image coredns`, then this is tested")
    program = tmp_path / "coredns"
    with tarfile.open(built.archive) as archive, tarfile.open(fileobj=archive.extractfile("layer.tar")) as files:
        program.write_bytes(files.extractfile("./usr/bin/coredns").read())  # type: ignore[union-attr]
    program.chmod(0o755)
    shown = subprocess.run([program, "-plugins"], check=True, capture_output=True, text=True).stdout
    order = re.search(r"directives = \[\]string\{([^}]*)\}", (ROOT / "images/coredns/cmd/coredns/main.go").read_text())
    assert order is not None
    # forward brings dnstap with it
    assert set(re.findall(r'"(\w+)"', order[1])) == set(shown.split()) - {"dnstap"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        ({"replicas": "3"}, "got string, want"),
        ({"replica": 3}, "additional properties 'replica' not allowed"),
    ],
    ids=["right", "wrong type", "unknown field"],
)
def test_manifests_are_checked_against_the_api(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    if missing := [name for name in ("kubernetes", "kubeconform") if find_package(name, "13") is None]:
        pytest.skip(f"compiling takes minutes: `python -m builder all {' '.join(missing)}`, then this is tested")
    container = {"name": "a", "image": "a@sha256:00", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template, **change}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": spec}
    found = manifests.problems([deployment], tmp_path)
    assert bool(found) == bool(problem)
    assert problem in "".join(found)
