"""What pods must be like, once for the policy pack (before anything is created) and the cluster's admission (after).

The expressions are written so that Python and RE2, which admission policies use, read them alike.
"""

from __future__ import annotations

DIGEST = r"@sha256:[0-9a-f]{64}$"
"""An image by its digest."""
SECRET_NAME = r"(?i)(passw(or)?d|passphrase|secret|token|api_?key|private_?key|credential)"  # noqa: S105
"""A variable whose name says that its value is secret ..."""
NOT_SECRET_NAME = r"(?i)_?(file|path|dir|url|name|ref|ttl|seconds)$"  # noqa: S105
"""... unless it says where the secret is."""
