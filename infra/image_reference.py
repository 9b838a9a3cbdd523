"""An image by its digest: what was tested is what runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# host[:port]/path, or a path alone; then a digest. A tag between the two is refused: nobody would look at it.
_REFERENCE = re.compile(
    r"(?P<repository>(?:[a-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)@(?P<digest>sha256:[0-9a-f]{64})"
)


@dataclass(frozen=True)
class ImageReference:
    """A repository and a digest."""

    repository: str
    digest: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}"

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Return `repository@sha256:...` as a reference. Raises ValueError for everything else, tags included."""
        found = _REFERENCE.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is not repository@sha256:digest; a tag may be moved to another image")
        return cls(found["repository"], found["digest"])

    @classmethod
    def named(cls, name: str, images: Mapping[str, str]) -> ImageReference:
        """Return the image that the setting platform_images has under a name. Raises ValueError."""
        if name not in images:
            raise ValueError(f"platform_images has no image {name}; it has {', '.join(sorted(images)) or 'none'}")
        return cls.parse(images[name])
