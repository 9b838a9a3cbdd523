"""A segment host of a lab, for tests: commands, SQL, sessions that stay open, and sandboxes."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import testinfra
import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVER = "protocol_server.service"


def setting(name: str) -> Any:
    """Return a value of settings/."""
    for file in sorted((ROOT / "settings").glob("*.yml")):
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        if name in found:
            return found[name]
    raise KeyError(name)


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Return what ``condition`` returns as soon as that is true; fail after ``timeout_s`` seconds."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.05)
    return found


class Session:
    """A session of psql as the user postgres that stays open. Errors are part of the answer, SQLSTATE first."""

    def __init__(self, container: str, database: str, port: int) -> None:
        command = f"psql -XAtq -v VERBOSITY=verbose -d {database} -p {port} 2>&1"
        self._process = subprocess.Popen(
            ["docker", "exec", "-i", container, "su", "postgres", "-c", command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd="/",
        )  # fmt: skip
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._count = 0
        threading.Thread(target=self._read, daemon=True).start()
        self.pid = int(self.run("SELECT pg_backend_pid()"))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def start(self, sql: str) -> None:
        """Send SQL and do not wait for its answer."""
        assert self._process.stdin is not None
        self._count += 1
        self._process.stdin.write(f"{sql.rstrip().rstrip(';')};\n\\echo __end_{self._count}\n")
        self._process.stdin.flush()

    def finish(self, timeout_s: float = 30) -> str:
        """Return the answer to what was started."""
        end = time.monotonic() + timeout_s
        lines: list[str] = []
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no answer within {timeout_s:g} s; so far: {lines}") from None
            if line is None:
                raise AssertionError(f"psql ended: {lines}")
            if line == f"__end_{self._count}":
                return "\n".join(lines)
            lines.append(line)

    def run(self, sql: str, timeout_s: float = 30) -> str:
        """Send SQL and return its answer."""
        self.start(sql)
        return self.finish(timeout_s)

    def alive(self) -> bool:
        """Tell whether it is still the same session."""
        return self.run("SELECT pg_backend_pid()") == str(self.pid)

    def close(self) -> None:
        """End the session."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=10)

    def __enter__(self) -> Self:
        """Return the session."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the session."""
        self._process.kill() if self._process.poll() is not None else self.close()


class SegmentHost:
    """A host of the lab ``lab``, reached through Docker."""

    def __init__(self, lab: str, name: str, port: int | None = None) -> None:
        self.name = name
        self.port = port or setting("segment_host_postgresql_port")
        self.container = f"{lab}-{name}"
        self.host = testinfra.get_host(f"docker://{self.container}")

    def run(self, *argv: str) -> str:
        """Run a command as root that must succeed; returns its output without the last line break."""
        done = subprocess.run(["docker", "exec", self.container, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{self.name}: {' '.join(argv)}: {done.stderr or done.stdout}"
        return done.stdout.rstrip("\n")

    def fails(self, *argv: str) -> str:
        """Run a command as root that must fail; returns what it said."""
        done = subprocess.run(["docker", "exec", self.container, *argv], capture_output=True, text=True, check=False)
        assert done.returncode != 0, f"{self.name}: {' '.join(argv)}: {done.stdout}"
        return done.stdout + done.stderr

    def put(self, path: str, text: str) -> None:
        """Write a file in place: owner and mode stay."""
        subprocess.run(
            ["docker", "exec", "-i", self.container, "sh", "-c", f"cat > {path}"], input=text, text=True, check=True
        )

    def session(self, database: str = "postgres") -> Session:
        """Open a session."""
        return Session(self.container, database, self.port)

    def sql(self, sql: str) -> str:
        """Run SQL in a session of its own."""
        with self.session() as session:
            return session.run(sql)

    def docker(self, *argv: str) -> str:
        """Run Docker of the host."""
        return self.run("docker", *argv)

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what Docker says of a container."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", container))
        return found[0]

    def sandboxes(self) -> set[str]:
        """Return the names of the sandboxes that run."""
        listed = self.docker("ps", "--format", "{{.Names}}", "--filter", "label=caisson.component=sandbox")
        return set(listed.split())

    def leased_sandbox(self, session: Session) -> str:
        """Return the name of the container that serves a session, which asks it through a function of the tests."""
        answer = session.run("SELECT test_sandbox()")
        assert re.fullmatch(r"[0-9a-f]{16}", answer), answer
        return f"plcontainer-{answer}"

    def unit(self, name: str, field: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--property", field, "--value", name)

    def server_pid(self) -> int:
        """Return the process id of the protocol server, 0 while it does not run."""
        return int(self.unit(SERVER, "MainPID"))

    def server_is_up(self) -> bool:
        """Tell whether the protocol server serves."""
        return self.unit(SERVER, "ActiveState") == "active"

    def debian(self) -> str:
        """Return the release of the host, such as 13."""
        return str(self.host.system_info.release).partition(".")[0]

    def has_capability(self, number: int) -> bool:
        """Tell whether the host itself has a capability: a lab host lacks some that a machine has."""
        found = re.search(r"^CapBnd:\s+([0-9a-f]+)", self.run("cat", "/proc/1/status"), re.MULTILINE)
        return bool(found and int(found[1], 16) >> number & 1)

    def function(self, body: str, name: str, result: str = "text", arguments: str = "") -> None:
        """Create a function of the default runtime whose Python source is ``body``."""
        runtime = setting("plcontainer_runtimes_list")[0]["id"]
        head = f"CREATE OR REPLACE FUNCTION {name}({arguments}) RETURNS {result} LANGUAGE plcontainer"
        answer = self.sql(f"{head} AS $body$ # container: {runtime}\n{body} $body$")
        assert answer == "", answer


def lab_name(scenario: Path) -> str:
    """Return the lab of a molecule scenario."""
    values = yaml.safe_load(
        (scenario / "inventory/group_vars/all/settings_of_this_lab.yml").read_text(encoding="utf-8")
    )
    return str(values["lab_name"])


def host_names(scenario: Path) -> list[str]:
    """Return the hosts of a molecule scenario."""
    hosts = yaml.safe_load((scenario / "inventory/hosts.yml").read_text(encoding="utf-8"))
    return list(hosts["segment_hosts"]["hosts"])


def playbook(scenario: Path, *arguments: str, file: Path | str = "site.yml") -> subprocess.CompletedProcess[str]:
    """Run site.yml, or another playbook, on the hosts of a molecule scenario."""
    command = ["ansible-playbook", "-i", str(scenario / "inventory"), str(file), *arguments]
    # as a user runs it: molecule has settings of its own, and a terminal would break lines
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
    environment |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default", "COLUMNS": "1000"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def recap(output: str) -> dict[str, dict[str, int]]:
    """Return the counts of a playbook's recap by host."""
    return {
        line[1]: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line[2])}
        for line in re.finditer(r"^(\S+)\s+: (ok=.*)$", output, re.MULTILINE)
    }
