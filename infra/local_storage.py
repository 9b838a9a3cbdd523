"""Directories and mounts of nodes as volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import pulumi
import pulumi_kubernetes as k8s

from infra import names


@dataclass(frozen=True, kw_only=True)
class LocalVolume:
    """A volume that is a directory or a mount of one node."""

    name: str
    node: str
    path: str
    gb: int

    def problems(self) -> list[str]:
        """Return what stands against it, a line each."""
        found = [f"local volume {self.name!r} {problem}"] if (problem := names.problem_of(self.name)) else []
        path = PurePosixPath(self.path)
        if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/"):
            found.append(f"local volume {self.name}: {self.path} is no absolute path of a directory")
        if self.gb < 1:
            found.append(f"local volume {self.name}: it has {self.gb} GB")
        return found


@dataclass(frozen=True, kw_only=True)
class LocalStorageArgs:
    """A storage class and its volumes."""

    storage_class: str
    volumes: tuple[LocalVolume, ...] = ()

    def problems(self) -> list[str]:
        """Return what stands against it, a line each."""
        found = [f"storage class {self.storage_class!r} {p}"] if (p := names.problem_of(self.storage_class)) else []
        found += [problem for volume in self.volumes for problem in volume.problems()]
        for what in ("name", "path"):
            keys = [(v.node, v.path) if what == "path" else v.name for v in self.volumes]
            found += [f"two local volumes have the {what} {key}" for key in set(keys) if keys.count(key) > 1]
        return found


class LocalStorage(pulumi.ComponentResource):
    """A storage class whose volumes lie on nodes. A pod goes where its volume is, and data outlives its claim."""

    storage_class: pulumi.Output[str]

    def __init__(self, name: str, args: LocalStorageArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("caisson:kubernetes:LocalStorage", name, {}, opts)
        if problems := args.problems():
            raise ValueError("; ".join(problems))
        inside = pulumi.ResourceOptions(parent=self)
        made = k8s.storage.v1.StorageClass(
            name,
            metadata=k8s.meta.v1.ObjectMetaArgs(name=args.storage_class, labels=names.PART_OF),
            provisioner="kubernetes.io/no-provisioner",
            reclaim_policy="Retain",
            volume_binding_mode="WaitForFirstConsumer",
            opts=inside,
        )
        self.storage_class = made.metadata.name
        self.volumes = [self._volume(volume, inside) for volume in args.volumes]
        self.register_outputs({"storage_class": self.storage_class})

    def _volume(self, volume: LocalVolume, opts: pulumi.ResourceOptions) -> k8s.core.v1.PersistentVolume:
        here = k8s.core.v1.NodeSelectorRequirementArgs(
            key="kubernetes.io/hostname", operator="In", values=[volume.node]
        )
        return k8s.core.v1.PersistentVolume(
            volume.name,
            metadata=k8s.meta.v1.ObjectMetaArgs(name=volume.name, labels=names.PART_OF),
            spec=k8s.core.v1.PersistentVolumeSpecArgs(
                capacity={"storage": f"{volume.gb}Gi"},
                access_modes=["ReadWriteOnce"],
                persistent_volume_reclaim_policy="Retain",
                storage_class_name=self.storage_class,
                volume_mode="Filesystem",
                local=k8s.core.v1.LocalVolumeSourceArgs(path=volume.path),
                node_affinity=k8s.core.v1.VolumeNodeAffinityArgs(
                    required=k8s.core.v1.NodeSelectorArgs(
                        node_selector_terms=[k8s.core.v1.NodeSelectorTermArgs(match_expressions=[here])]
                    )
                ),
            ),
            opts=opts,
        )
