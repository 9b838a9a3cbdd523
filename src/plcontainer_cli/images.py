"""The images of a host, wherever its backend keeps them."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from plcontainer_cli.failure import Failure
from plcontainer_cli.unix_http import Answer, NoAnswerError, ask
from protocol_server.config import ServerConfig
from protocol_server.images import ImageError, ImageStore, archive_id

_LOAD_S: Final = 1800.0
_PIECE: Final = 1 << 20


@dataclass(frozen=True)
class Image:
    """An image: `names` are for people, the id is what counts. Size in bytes."""

    id: str
    names: tuple[str, ...]
    size: int


class Images(ABC):
    """The images of one host."""

    @abstractmethod
    def list(self) -> list[Image]:
        """All images. Raises Failure."""

    @abstractmethod
    def add(self, archive: Path) -> tuple[str, str, bool]:
        """Take an archive in; id, name and whether it is new here. Raises Failure."""

    @abstractmethod
    def delete(self, image: str) -> None:
        """Remove an image by its id. Raises Failure."""

    def find(self, text: str) -> Image:
        """The image with this name or id; ids may be cut short to 12 digits. Raises Failure."""
        digits = text.removeprefix("sha256:")
        images = self.list()
        found = [
            image
            for image in images
            if text in image.names
            or f"{text}:latest" in image.names
            or (len(digits) >= 12 and image.id.startswith(f"sha256:{digits}"))
        ]
        if len({image.id for image in found}) == 1:
            return found[0]
        names = ", ".join(sorted(name for image in images for name in image.names)) or "none"
        if found:
            raise Failure(f"{text} is more than one image: {', '.join(image.id for image in found)}")
        raise Failure(
            f"image {text} is not on this host", hint=f"Images here: {names}. `plcontainer image-add` brings one."
        )


class StoredImages(Images):
    """Those of the backend `process`."""

    def __init__(self, directory: Path) -> None:
        self._store = ImageStore(directory)

    def list(self) -> list[Image]:
        """All images."""
        with _told():
            return [Image(image.id, (image.name,), image.size) for image in self._store.list()]

    def add(self, archive: Path) -> tuple[str, str, bool]:
        """Unpack an archive."""
        with _told():
            image, new = self._store.add(archive)
        return image.id, image.name, new

    def delete(self, image: str) -> None:
        """Remove a directory."""
        with _told():
            self._store.delete(image)


class DockerImages(Images):
    """Docker's."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def list(self) -> list[Image]:
        """All images that have a name."""
        found = []
        for item in self._ask("GET", "/images/json").body:
            names = tuple(name for name in item.get("RepoTags") or () if name != "<none>:<none>")
            found.append(Image(item["Id"], names, int(item["Size"])))
        return sorted(found, key=lambda image: (image.names, image.id))

    def add(self, archive: Path) -> tuple[str, str, bool]:
        """Let Docker load an archive, then look for the image that must be there."""
        with _told():
            identifier, name = archive_id(archive)
        new = self._ask("GET", f"/images/{identifier}/json", missing=True).status == 404
        if new:
            with archive.open("rb") as stream:
                self._ask("POST", "/images/load?quiet=1", upload=stream, timeout_s=_LOAD_S)
            self._ask("GET", f"/images/{identifier}/json")
        return identifier, name, new

    def delete(self, image: str) -> None:
        """Let Docker remove an image with all its names, unless a container uses it."""
        for name in next((found.names for found in self.list() if found.id == image), ()):
            self._ask("DELETE", f"/images/{quote(name, safe='')}")
        self._ask("DELETE", f"/images/{image}", missing=True)

    def _ask(self, method: str, target: str, *, missing: bool = False, **more: Any) -> Answer:
        try:
            answer = ask(self._socket, method, target, **more)
        except NoAnswerError as error:
            raise Failure(f"Docker gives {error}") from error
        if not answer.ok and not (missing and answer.status == 404):
            raise Failure(f"Docker says: {answer.error}")
        return answer


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise Failure(str(error)) from error


def images_of(config: ServerConfig) -> Images:
    """Where a host keeps its images."""
    if config.backend == "process":
        return StoredImages(config.image_directory)
    return DockerImages(config.docker_socket)


@contextlib.contextmanager
def downloaded(url: str, digest: str) -> Iterator[Path]:
    """A file from the web while the context lasts; its SHA-256 must be `digest`. Raises Failure."""
    if not url.startswith(("https://", "http://")):
        raise Failure(f"{url} is neither https:// nor http://")
    # An archive may be larger than what /tmp holds in memory.
    with tempfile.NamedTemporaryFile(prefix="plcontainer-", dir="/var/tmp") as file:
        found = hashlib.sha256()
        try:
            with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - checked above
                while piece := response.read(_PIECE):
                    file.write(piece)
                    found.update(piece)
        except (OSError, urllib.error.URLError) as error:
            raise Failure(f"{url} cannot be fetched: {error}") from error
        file.flush()
        if found.hexdigest() != digest.removeprefix("sha256:"):
            raise Failure(f"{url} is not what was asked for: its SHA-256 is {found.hexdigest()}")
        yield Path(file.name)
