"""The labels and annotations by which components, admission policies and people know each other's objects."""

from __future__ import annotations

import re

TENANT = "caisson/tenant"
"""Label of a tenant's namespace, its name. Admission policies look at pods in namespaces that have it."""
SCRAPE = "caisson/scrape"
"""Label of pods whose metrics may be read; `true`."""
RUN_AS_RANGE = "caisson/run-as-range"
"""Annotation of a tenant's namespace: first user id and how many, as 1000660000/10000."""
PURPOSE = "caisson/purpose"
"""Annotation of a service account: what it is for."""
OWNER = "caisson/owner"
"""Annotation of a service account: whom to ask."""
PART_OF = {"app.kubernetes.io/part-of": "caisson"}

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def problem_of(name: str) -> str:
    """Return what is wrong with the name of an object (RFC 1123 label), empty when nothing is."""
    return "" if _NAME.fullmatch(name) else "is not a name: lower-case letters, digits and -, 63 at most"
