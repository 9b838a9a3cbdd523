"""What every cluster has is what the API takes, field by field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tests.support import manifests
from tests.support.cluster import Cluster

FOLDER = "/etc/kubernetes/addons"


def test_manifests_are_what_the_api_takes(cluster: Cluster, tmp_path: Path) -> None:
    names = cluster.host.run("ls", FOLDER).split()
    found: dict[str, list[dict[str, Any]]] = {
        name: [one for one in yaml.safe_load_all(cluster.host.run("cat", f"{FOLDER}/{name}")) if one] for name in names
    }
    assert {"accounts.yaml", "dns.yaml", "metrics.yaml", "network_policies.yaml", "storage.yaml"} <= found.keys()
    assert all(found.values())
    documents = [one for several in found.values() for one in several]
    schemas = tmp_path / "schemas"
    schemas.mkdir()
    assert manifests.problems(documents, schemas) == []
    documents[0]["misspelled"] = True
    assert len(manifests.problems(documents, schemas)) == 1
