"""The files of a host: what is in force, and changes that take effect whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from plcontainer_cli.failure import Failure
from plcontainer_cli.unix_http import Answer, NoAnswerError, ask
from protocol_server.config import Config, ConfigError, load
from protocol_server.document import Problem
from protocol_server.runtimes import Runtime, plain
from protocol_server.xml_form import XmlDocument, write_xml

COMMENT: Final = "Runtimes of this host alone, written by plcontainer. They win over those that site.yml rolls out."
_RELOAD_S: Final = 60.0


class Host:
    """This host, by the protocol server's configuration file."""

    def __init__(self, config_file: Path) -> None:
        self.config_file = config_file

    def load(self) -> Config:
        """What is in force once the server has read its files. Raises Failure with every problem."""
        try:
            return load(self.config_file)
        except ConfigError as error:
            raise Failure("the configuration is refused", [str(problem) for problem in error.problems]) from error

    def ask(self, method: str, target: str, body: object = None, timeout_s: float = 10.0) -> Answer:
        """Ask the running server. Raises Failure when it does not answer or refuses."""
        try:
            answer = ask(self.load().server.control_socket, method, target, body=body, timeout_s=timeout_s)
        except NoAnswerError as error:
            raise Failure(
                f"the protocol server gives {error}", hint="Is it running? `systemctl status protocol_server` tells."
            ) from error
        if not answer.ok:
            raise Failure(answer.error, _texts(answer))
        return answer

    # what is in force

    def sources(self, config: Config) -> dict[str, str]:
        """Where each runtime comes from: `site`, `local`, or `local over site`."""
        return {
            identifier: "site"
            if identifier not in config.local
            else "local over site"
            if identifier in config.rolled_out
            else "local"
            for identifier in config.runtimes
        }

    def local_text(self) -> str:
        """This host's own file, or an empty one's text."""
        try:
            return self.load().server.local_runtimes_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return write_xml([], comment=COMMENT)
        except OSError as error:
            raise Failure(f"{error.filename} cannot be read: {error.strerror}") from error

    # changes

    @contextlib.contextmanager
    def changing(self) -> Iterator[Config]:
        """What is in force, which nobody else changes meanwhile. Raises Failure."""
        config = self.load()
        directory = config.server.local_runtimes_file.parent
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Failure(f"{directory}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # It may have changed while this command waited.
            yield self.load()
        finally:
            os.close(descriptor)

    def change(self, local: Mapping[str, Mapping[str, Any]], removed: Sequence[str]) -> str:
        """Make these runtimes this host's own ones; what came of it. Raises Failure, and then nothing is changed."""
        try:
            text = write_xml(local.values(), removed, COMMENT)
        except ValueError as error:
            raise Failure(str(error)) from error
        return self.change_text(text if local or removed else None)

    def change_text(self, text: str | None) -> str:
        """The same with the file's text; None removes the file."""
        file = self.load().server.local_runtimes_file
        before = file.read_bytes() if file.exists() else None
        try:
            if text is None:
                file.unlink(missing_ok=True)
            else:
                self._swap(file, text)
        except OSError as error:
            raise Failure(f"{file} cannot be written: {error.strerror}") from error
        try:
            return self.reload()
        except Failure:
            if before is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(before)
            raise

    def _swap(self, file: Path, text: str) -> None:
        """Check the text in a file beside, then put it in place. Raises OSError or Failure."""
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
                # The server reads it as a user of its own; there is nothing secret in it.
                os.fchmod(stream.fileno(), 0o644)
            self.check(Path(name), file)
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)

    def check(self, written: Path, file: Path) -> Config:
        """Check `written` as if it were in the place of `file`. Raises Failure that names `file`."""
        try:
            return load(self.config_file, local_file=written)
        except ConfigError as error:
            problems = [_renamed(problem, written, file) for problem in error.problems]
            raise Failure("the change is refused; nothing was changed", problems) from error

    def reload(self) -> str:
        """Let the server read its files anew. A server that is away reads them when it starts."""
        try:
            answer = ask(self.load().server.control_socket, "POST", "/v1/reload", timeout_s=_RELOAD_S)
        except NoAnswerError:
            return "the protocol server does not answer; it takes effect when it starts"
        if not answer.ok:
            raise Failure(answer.error, _texts(answer))
        return "in force"


def _renamed(problem: Problem, written: Path, file: Path) -> str:
    return str(Problem(str(file), problem.line, problem.rule) if problem.file == str(written) else problem)


def _texts(answer: Answer) -> list[str]:
    problems = answer.body.get("problems", []) if isinstance(answer.body, dict) else []
    return [str(problem.get("text", problem)) for problem in problems]


def own(config: Config) -> dict[str, dict[str, Any]]:
    """This host's own runtimes in the form that they are written from."""
    return {identifier: plain(runtime) for identifier, runtime in config.local.items()}


def with_images(text: str, find: Callable[[str], tuple[str, str]], name: Path) -> str:
    """An XML file in which images are named by their ids. `find` gives id and name of an image, and raises Failure."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".xml") as file:
        file.write(text)
        file.flush()
        document = XmlDocument(Path(file.name))
    if document.problems:
        problems = [_renamed(problem, Path(file.name), name) for problem in document.problems]
        raise Failure("the file is refused; nothing was changed", problems)
    runtimes = document.value["runtimes"]
    if all(runtime["image"].startswith("sha256:") for runtime in runtimes):
        return text
    for runtime in runtimes:
        if not runtime["image"].startswith("sha256:"):
            runtime["image"], runtime["image_name"] = find(runtime["image"])
    return write_xml(runtimes, document.removed, COMMENT)


def differences(one: Mapping[str, Runtime], other: Mapping[str, Runtime]) -> list[dict[str, Any]]:
    """What differs between two sets of runtimes: id, what happened from `one` to `other`, and the changed keys."""
    found = []
    for identifier in dict.fromkeys([*one, *other]):
        if identifier not in other:
            found.append({"id": identifier, "change": "removed", "keys": []})
        elif identifier not in one:
            found.append({"id": identifier, "change": "added", "keys": []})
        elif one[identifier] != other[identifier]:
            before, after = plain(one[identifier]), plain(other[identifier])
            keys = [key for key in before if before[key] != after[key]]
            found.append({"id": identifier, "change": "changed", "keys": keys})
    return found
