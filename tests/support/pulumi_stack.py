"""A stack of the project, deployed by the real `pulumi` command, with its state in a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "known to this test only"
PROVIDER = "pulumi-resource-kubernetes"


def provider() -> tuple[list[Path], str]:
    """Return the folders of the provider plugin, none where the official one is on PATH, and which one it is."""
    if official := shutil.which(PROVIDER):
        return [], f"the official provider, {official}"
    own = ROOT / "tests/support/kubernetes_provider"
    return [own / "bin"], f"the tests' own provider, {own.relative_to(ROOT)}"


@dataclass
class Stack:
    """A copy of a project of stacks/, so that nothing is written into the tree."""

    source: Path
    """The project's folder."""
    folder: Path
    """Where the copy and the state lie; stacks that refer to each other share it."""
    path: list[Path]
    """Folders with the programs that Pulumi needs, before PATH."""
    kubeconfig: Path
    name: str = "test"

    @property
    def project(self) -> Path:
        return self.folder / self.source.name

    def create(self) -> None:
        shutil.copytree(self.source, self.project)
        file = self.project / "Pulumi.yaml"
        content = yaml.safe_load(file.read_text())
        content["runtime"]["options"]["virtualenv"] = str(ROOT / ".venv")
        file.write_text(yaml.safe_dump(content))
        (self.folder / "state").mkdir(exist_ok=True)
        self.run("stack", "init", self.name)

    def configure(self, **values: Any) -> None:
        """Write the stack's configuration; a value of None takes a key away."""
        file = self.project / f"Pulumi.{self.name}.yaml"
        content = yaml.safe_load(file.read_text()) or {}
        name = yaml.safe_load((self.project / "Pulumi.yaml").read_text())["name"]
        config = content.get("config", {}) | {f"{name}:{key}": value for key, value in values.items()}
        content["config"] = {key: value for key, value in config.items() if value is not None}
        file.write_text(yaml.safe_dump(content))

    def command(self, *words: str) -> tuple[list[str], dict[str, str]]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PULUMI_", "KUBE"))}
        # the provider's classes take longer to compile than everything else takes to run
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        settings = {
            # a language host that is older than its CLI does not hear of `virtualenv`, and takes the first python
            "PATH": ":".join([*map(str, self.path), str(ROOT / ".venv/bin"), os.environ["PATH"]]),
            "PULUMI_HOME": str(self.folder / "home"),
            "PULUMI_BACKEND_URL": f"file://{self.folder}/state",
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "KUBECONFIG": str(self.kubeconfig),
        }
        options = ["--non-interactive", "--color=never", f"--cwd={self.project}"]
        return ["pulumi", *words, *options], kept | settings

    def run(self, *words: str, fails: bool = False) -> str:
        """Run a command of Pulumi and return what it said; it must end as expected."""
        command, environment = self.command(*words)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, said
        return said

    def up(self, *words: str, fails: bool = False) -> str:
        return self.run("up", "--yes", "--skip-preview", f"--stack={self.name}", *words, fails=fails)

    def kill_during_up(self, started: Callable[[], bool]) -> None:
        """Kill an `up` with all its processes as soon as `started` is true. It must not have ended by then."""
        command, environment = self.command("up", "--yes", "--skip-preview", f"--stack={self.name}")
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            while not started():
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"

    def preview(self, *words: str, fails: bool = False) -> str:
        return self.run("preview", f"--stack={self.name}", *words, fails=fails)

    def state(self) -> dict[str, Any]:
        exported: dict[str, Any] = json.loads(self.run("stack", "export", f"--stack={self.name}"))
        return exported

    def resources(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.state()["deployment"].get("resources", [])
        return found
