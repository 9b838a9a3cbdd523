"""A control plane of the real API server, and the stack `platform` on it, deployed by the real `pulumi`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scripts.stack import policy_pack

from tests.support.control_plane import ControlPlane, MissingError, memory_mb, programs
from tests.support.pulumi_stack import ROOT, Stack, provider

_NEED_MB = 1500
_PACKAGES = {
    "kubernetes": ("kube-apiserver", "kube-controller-manager"),
    "kine": ("kine",),
    "pulumi": ("pulumi", "pulumi-language-python", "pulumi-language-python-exec"),
}
# blue is the usual one; green says everything otherwise
TENANTS = [
    {"name": "blue", "run_as_first": 1_000_660_000, "operators": ["blues"], "viewers": ["watchers"]},
    {
        "name": "green",
        "run_as_first": 1_000_680_000,
        "operators": ["greens"],
        "quota": {"pods": 2},
        "networks": ["data"],
        "container": {"cpus": 0.5, "memory_mb": 64},
    },
]
NETWORKS = [{"name": "pods", "every_pod": True}, {"name": "data", "type": "macvlan"}]
USERS = {"blue": ["blues"], "green": ["greens"], "watcher": ["watchers"]}


@pytest.fixture(scope="package")
def tools() -> dict[str, str]:
    """Return the path of each program."""
    if memory_mb() < _NEED_MB:
        pytest.skip(f"an API server needs more memory than is free, {memory_mb()} MiB of {_NEED_MB}")
    try:
        return programs(_PACKAGES)
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="package")
def control_plane(tools: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    made = ControlPlane(tmp_path_factory.mktemp("control-plane"), tools, USERS)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@dataclass(frozen=True)
class Plugins:
    """What Pulumi starts itself."""

    path: list[Path]
    """Folders with programs."""
    policy_pack: Path


@pytest.fixture(scope="package")
def plugins(tools: dict[str, str], tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Plugins:
    """Bring the plugins that are not on PATH, and print which ones run."""
    folder = tmp_path_factory.mktemp("plugins")
    folders, which = provider()
    pack = policy_pack(Path(tools["pulumi-language-python"]), folder)
    how = (
        "started by a script, since the language host is older than the command"
        if folder in pack.parents
        else "as it is"
    )
    terminal = pytestconfig.pluginmanager.getplugin("terminalreporter")
    if terminal:
        terminal.write_line(f"\nPulumi runs with {which}, and the policy pack {how}.")
    return Plugins([folder, *folders, *sorted({Path(program).parent for program in tools.values()})], pack)


@pytest.fixture(scope="package")
def stack(control_plane: ControlPlane, plugins: Plugins, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The stack, created and configured, and not deployed yet: the first test does that."""
    made = Stack(ROOT / "stacks/platform", tmp_path_factory.mktemp("stacks"), plugins.path, control_plane.kubeconfig())
    made.create()
    made.configure(tenants=TENANTS, cni_plugins_networks=NETWORKS, network_attachment_type=True)
    return made
