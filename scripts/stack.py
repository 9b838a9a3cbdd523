"""Deploy a stack with everything that `pulumi` needs brought along: `python scripts/stack.py up platform`.

`pulumi` is the one on PATH, or ours. The state lies in a folder of this user, its secrets encrypted by a passphrase
that is made there once; PULUMI_BACKEND_URL and PULUMI_CONFIG_PASSPHRASE(_FILE) say something else.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from builder.errors import BuildError
from builder.programs import find_program

ROOT = Path(__file__).resolve().parents[1]
PROVIDER = "pulumi-resource-kubernetes"
# neither asks: the person has asked for it
_WORDS = {
    "up": ["up", "--yes", "--skip-preview"],
    "preview": ["preview"],
    "refresh": ["refresh", "--yes", "--skip-preview"],
    "destroy": ["destroy", "--yes", "--skip-preview"],
    "cancel": ["cancel", "--yes"],
    "outputs": ["stack", "output", "--json"],
    "forget": ["stack", "rm", "--force", "--yes"],
}
_ON_CLUSTER = ("up", "preview", "refresh", "destroy")
_NAMED_LAST = ("cancel", "forget")
"""Verbs whose command has the stack as an argument, not as an option."""
_LOOKED_AT = ("up", "preview")
"""Verbs that the policy pack looks at."""
_OLD_HOST = re.compile(rb"github\.com/pulumi/pulumi/sdk/v3\tv3\.\d\d\.")
"""In what Go writes into programs about their modules."""


class StackError(Exception):
    """What stands against it, for the person who reads it."""


def state_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of this user's states."""
    return Path(environment.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "caisson" / "pulumi"


def settings(environment: Mapping[str, str], folder: Path, programs: list[Path]) -> dict[str, str]:
    """Return the environment of `pulumi`: what is there wins, and a passphrase that is missing is made."""
    path = [*map(str, programs), str(ROOT / ".venv/bin"), environment.get("PATH", os.defpath)]
    made = {"PULUMI_SKIP_UPDATE_CHECK": "true", **environment, "PATH": ":".join(path)}
    if "PULUMI_BACKEND_URL" not in environment:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made["PULUMI_BACKEND_URL"] = f"file://{folder}"
    if not environment.keys() & {"PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"}:
        made["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(_passphrase(folder))
    return made


def _passphrase(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = folder / "passphrase"
    if not file.exists():
        # in one step, so that a run that is killed leaves all of it or nothing
        unfinished = folder / f"passphrase.{os.getpid()}"
        unfinished.touch(0o600)
        unfinished.write_text(secrets.token_urlsafe(32), encoding="ascii")
        unfinished.rename(file)
    return file


def policy_pack(host: Path, folder: Path) -> Path:
    """Return the policy pack as the language host `host` can run it; `folder` is on PATH.

    A host that is older than its command is not told where a pack lies. The command starts packs of a runtime that has
    no host by a script: so it gets a copy that says such a runtime, and the script.
    """
    pack = ROOT / "infra" / "policy"
    if not _OLD_HOST.search(host.read_bytes()):
        return pack
    copy = folder / "policy"
    shutil.copytree(pack, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "PulumiPolicy.yaml").write_text("runtime: caisson\n", encoding="utf-8")
    script = folder / "pulumi-analyzer-policy-caisson"
    script.write_text(f'#!/bin/sh\nexec "{ROOT}/.venv/bin/python" -u -m pulumi.policy "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return copy


def is_there(project: str, stack: str, environment: Mapping[str, str]) -> bool:
    """Tell whether a stack is known to be there, without a command that asks: only a folder of states is looked at."""
    kind, _, folder = environment.get("PULUMI_BACKEND_URL", "").partition("://")
    states = Path(folder) / ".pulumi" / "stacks" / project
    return kind == "file" and any((states / f"{stack}.json{packed}").is_file() for packed in ("", ".gz"))


def has_provider(environment: Mapping[str, str]) -> bool:
    """Tell whether the official provider is here: on PATH, or installed by `pulumi plugin install`."""
    home = Path(environment.get("PULUMI_HOME") or Path.home() / ".pulumi")
    installed = list((home / "plugins").glob("resource-kubernetes-v4.*"))
    return bool(shutil.which(PROVIDER, path=environment.get("PATH")) or installed)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb on one stack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=_WORDS)
    parser.add_argument("project", choices=sorted(path.parent.name for path in ROOT.glob("stacks/*/Pulumi.yaml")))
    parser.add_argument("--stack", default="main", help="which deployment of the project (main)")
    parser.add_argument("--kubeconfig", type=Path, help="the cluster, instead of KUBECONFIG's")
    parser.add_argument(
        "--secrets-provider", default="passphrase", help="what encrypts secrets of a new stack (passphrase)"
    )
    parser.add_argument("--provider", type=Path, help=f"a folder with {PROVIDER}, for where the official one is not")
    parser.add_argument("--refresh", action="store_true", help="up: look first at what is really there")
    options = parser.parse_args(arguments)
    try:
        return run(options)
    except (StackError, BuildError) as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace) -> int:
    """Run one verb on one stack, which is created when it is not there. Returns Pulumi's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        return _run(options, Path(folder))


def _run(options: argparse.Namespace, folder: Path) -> int:
    programs = find_program("pulumi", say=lambda line: print(line, file=sys.stderr)).parent
    folders = [folder, programs]
    if options.provider and not has_provider(os.environ):
        print(f"stack: the official provider is not here, so {options.provider} takes its place", file=sys.stderr)
        folders.append(options.provider.resolve())
    environment = settings(os.environ, state_folder(os.environ), folders)
    # the provider's classes take longer to compile than everything else takes to run
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if options.kubeconfig:
        environment["KUBECONFIG"] = str(options.kubeconfig.resolve())
    if options.verb in _ON_CLUSTER and not has_provider(environment):
        raise StackError(
            f"there is no {PROVIDER} on PATH, and none installed: run `pulumi plugin install resource kubernetes`, "
            "or name a folder that has it with --provider"
        )
    pulumi = ["pulumi", f"--cwd={ROOT / 'stacks' / options.project}", "--non-interactive"]
    if not is_there(options.project, options.stack, environment):
        subprocess.run(
            [*pulumi, "stack", "select", "--create", f"--secrets-provider={options.secrets_provider}", options.stack],
            env=environment,
            check=True,
            stdout=sys.stderr,
        )
    named = [options.stack] if options.verb in _NAMED_LAST else [f"--stack={options.stack}"]
    if options.verb in _LOOKED_AT:
        host = shutil.which("pulumi-language-python", path=environment["PATH"])
        if host is None:
            raise StackError("there is no pulumi-language-python beside pulumi")
        named.append(f"--policy-pack={policy_pack(Path(host), folder)}")
    if options.refresh and options.verb == "up":
        named.append("--refresh")
    return subprocess.run([*pulumi, *_WORDS[options.verb], *named], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
