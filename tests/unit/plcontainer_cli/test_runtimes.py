"""The verbs about runtimes: what they change, what they refuse, and that a refusal changes nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from protocol_server.config import load

from .conftest import Machine

ROOT = Path(__file__).resolve().parents[3]
ADD = ("-r", "mine", "-i", "tiny:1", "-l", "python")


def in_force(machine: Machine) -> set[str]:
    return set(load(machine.root / "server.yml").runtimes)


def test_add_takes_effect_at_once(machine: Machine) -> None:
    options = ("-s", "memory_mb=100", "-s", "roles=a,b", "-s", "pool_min=1", "-v", "/data/x:/x", "-v", "/data:/y:rw")
    assert "in force" in machine.run("runtime-add", *ADD, *options).output
    runtime = load(machine.root / "server.yml").runtimes["mine"]
    assert (runtime.image, runtime.image_name, runtime.memory_mb) == (machine.image, "tiny:1", 100)
    assert runtime.roles == ("a", "b")
    assert [(mount.container, mount.writable) for mount in runtime.mounts] == [("/x", False), ("/y", True)]
    assert (runtime.pool.min, runtime.pool.max) == (1, 1)
    assert machine.server.asked == [("POST", "/v1/reload", None)]
    assert stat.S_IMODE(machine.local.stat().st_mode) == 0o644


def test_add_without_a_server(machine: Machine) -> None:
    (machine.root / "control.sock").unlink()
    assert "takes effect when it starts" in machine.run("runtime-add", *ADD).output
    assert in_force(machine) == {"site", "mine"}


def test_what_the_server_refuses_is_taken_back(machine: Machine) -> None:
    machine.server.answers["/v1/reload"] = (422, {"error": "refused", "problems": [{"text": "a:1: b"}]})
    output = machine.run("runtime-add", *ADD, status=1).output
    assert "refused" in output
    assert "a:1: b" in output
    assert not machine.local.exists()


def test_add_of_one_that_is_there(machine: Machine) -> None:
    assert "is there already" in machine.run("runtime-add", "-r", "site", *ADD[2:], status=1).output
    assert machine.run("runtime-replace", "-r", "site", *ADD[2:], "-s", "memory_mb=99").exit_code == 0
    assert load(machine.root / "server.yml").runtimes["site"].memory_mb == 99
    assert machine.json("runtime-show", "-r", "site")[0]["source"] == "local over site"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("-s", "memory_mb"), 2, "must be KEY=VALUE"),
        (("-s", "memory=1"), 2, "unknown setting; known are memory_mb"),
        (("-s", "memory_mb=x"), 2, "must be a whole number"),
        (("-s", "memory_mb=1"), 1, "memory_mb: must be at least 16"),
        (("-s", "enable_network=maybe"), 2, "must be yes or no"),
        (("-s", "enable_network=yes"), 1, "a network needs roles"),
        (("-v", "/data"), 2, "must be HOST:CONTAINER"),
        (("-v", "/data:/x:w"), 2, "must be HOST:CONTAINER"),
        (("-v", "/etc:/x"), 1, "'/etc' is not beneath allowed_mounts"),
        (("-v", "/data:/run/caisson"), 1, "is the server's own"),
        (("-c", "sh -c 'x"), 2, "No closing quotation"),
        (("-c", "a\x01b"), 1, "XML cannot hold"),
        (("-l", "perl"), 1, "'perl' is not in runtime_directories"),
        (("-r", "a b"), 1, "'a b' is not of the expected form"),
        (("-i", "nothing:1"), 1, "image nothing:1 is not on this host"),
    ],
)
def test_refused(machine: Machine, arguments: tuple[str, ...], status: int, said: str) -> None:
    machine.run("runtime-add", *ADD)
    before = machine.local.read_text()
    assert said in machine.run("runtime-replace", *ADD, *arguments, status=status).output
    assert machine.local.read_text() == before
    assert sorted(path.name for path in machine.root.iterdir() if path.name.startswith(".")) == []


def test_wrong_usage(machine: Machine) -> None:
    assert "No such command" in machine.run("runtime-ad", status=2).output
    assert "Missing option" in machine.run("runtime-add", status=2).output


def test_delete(machine: Machine) -> None:
    machine.run("runtime-add", *ADD)
    machine.run("runtime-delete", "-r", "mine")
    assert in_force(machine) == {"site"}
    assert not machine.local.exists(), "nothing is left to say"
    machine.run("runtime-delete", "-r", "site")
    assert in_force(machine) == set()
    assert "is not there" in machine.run("runtime-delete", "-r", "site").output
    machine.run("runtime-add", "-r", "site", *ADD[2:])
    assert in_force(machine) == {"site"}


def test_show(machine: Machine) -> None:
    machine.run("runtime-add", *ADD)
    rows = machine.run("runtime-show").output.splitlines()
    assert [row.split()[0] for row in rows] == ["id", "site", "mine"]
    assert [runtime["source"] for runtime in machine.json("runtime-show")] == ["site", "local"]
    assert "<id>mine</id>" in machine.run("runtime-show", "-r", "mine", "--xml").output
    output = machine.run("runtime-show", "-r", "other", status=1).output
    assert "Runtimes of this host: site, mine." in output


def test_broken_configuration_is_told_with_its_lines(machine: Machine) -> None:
    machine.local.write_text("<configuration>\n<runtme/>\n</configuration>\n")
    output = machine.run("runtime-show", status=1).output
    assert f"{machine.local}:2: <runtme> has no place in <configuration>" in output


def editor(machine: Machine, script: str) -> str:
    path = machine.root / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_edit(machine: Machine) -> None:
    machine.run("runtime-add", *ADD, "-s", "memory_mb=100")
    machine.run("runtime-edit", "-e", editor(machine, 'sed -i s/=\\"100\\"/=\\"200\\"/ "$1"'))
    assert load(machine.root / "server.yml").runtimes["mine"].memory_mb == 200
    assert "nothing was changed" in machine.run("runtime-edit", "-e", "true").output
    bad = machine.run("runtime-edit", "-e", editor(machine, 'sed -i s/=\\"200\\"/=\\"2\\"/ "$1"'), status=1).output
    assert f"{machine.local}:" in bad
    assert "must be at least 16" in bad
    assert "ended with status 1" in machine.run("runtime-edit", "-e", "false", status=1).output
    assert load(machine.root / "server.yml").runtimes["mine"].memory_mb == 200


def test_backup_and_restore(machine: Machine, tmp_path: Path) -> None:
    machine.run("runtime-add", *ADD)
    machine.run("runtime-backup", "-f", str(tmp_path / "b.xml"))
    assert machine.run("runtime-backup", "-f", "-").stdout == (tmp_path / "b.xml").read_text()
    machine.run("runtime-delete", "-r", "mine")
    machine.run("runtime-restore", "-f", str(tmp_path / "b.xml"))
    assert in_force(machine) == {"site", "mine"}
    everything = machine.run("runtime-backup", "--all", "-f", "-").stdout
    assert "<id>site</id>" in everything
    machine.run("runtime-restore", "-f", "-", stdin=everything)
    assert set(load(machine.root / "server.yml").local) == {"site", "mine"}
    assert "No such file" in machine.run("runtime-restore", "-f", str(tmp_path / "c.xml"), status=1).output


PLCONTAINER = """\
<?xml version="1.0" ?>
<configuration>
    <runtime>
        <id>plc_python_shared</id>
        <image>{image}</image>
        <command>/clientdir/py3client.sh</command>
        <shared_directory access="ro" container="/clientdir" host="/usr/local/greenplum-db/bin/plcontainer_clients"/>
        <setting memory_mb="512"/>
    </runtime>
</configuration>
"""


def test_restore_of_a_file_of_plcontainer(machine: Machine) -> None:
    machine.run("runtime-restore", "-f", "-", stdin=PLCONTAINER.format(image="tiny:1"))
    runtime = load(machine.root / "server.yml").runtimes["plc_python_shared"]
    assert (runtime.image, runtime.language, runtime.memory_mb) == (machine.image, "python", 512)
    before = machine.local.read_text()
    output = machine.run("runtime-restore", "-f", "-", stdin=PLCONTAINER.format(image="other:1"), status=1).output
    assert "image other:1 is not on this host" in output
    output = machine.run("runtime-restore", "-f", "-", stdin="<configuration><x/></configuration>", status=1).output
    assert f"{machine.local}:1: <x> has no place" in output
    assert machine.local.read_text() == before


def test_verify(machine: Machine) -> None:
    assert "what site.yml rolled out" in machine.run("runtime-verify").output
    machine.run("runtime-add", *ADD)
    machine.run("runtime-replace", "-r", "site", *ADD[2:])
    output = machine.run("runtime-verify", status=1).output
    assert "runtime mine was added on this host" in output
    assert "runtime site was changed on this host: " in output
    drift = machine.json("runtime-verify", status=1)["drift"]
    assert [(change["id"], change["change"]) for change in drift] == [("site", "changed"), ("mine", "added")]
    machine.run("runtime-verify", "--repair", status=1, stdin="n\n")
    assert in_force(machine) == {"site", "mine"}
    machine.run("runtime-verify", "--repair", stdin="y\n")
    assert in_force(machine) == {"site"}
    assert "<id>mine</id>" in machine.local.with_suffix(".xml.bak").read_text()


def test_verify_hosts(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = machine.json("runtime-verify")
    (tmp_path / "same").write_text(json.dumps(facts))
    facts["runtimes"]["site"]["memory_mb"] = 1
    (tmp_path / "other").write_text(json.dumps(facts))
    ssh = tmp_path / "ssh"
    # The last but one argument is the host.
    ssh.write_text(f'#!/bin/sh\nwhile [ $# -gt 2 ]; do shift; done\ncat "{tmp_path}/$1"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "2 hosts agree" in machine.run("runtime-verify", "--hosts", "same").output
    output = machine.run("runtime-verify", "--hosts", "same,other,away", status=1).output
    assert "runtime site differs between: this host, same; other" in output
    assert "away does not tell: cat:" in output


def test_as_a_program(machine: Machine) -> None:
    """Status and streams of the real process, and that completion knows what there is."""
    command = [sys.executable, "-m", "plcontainer_cli", "--config", str(machine.root / "server.yml")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*command, "runtime-show", "-r", "x"], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: runtime x is not there\n")
    assert subprocess.run([*command, "x"], capture_output=True, check=False, env=environment).returncode == 2
    words = f"plcontainer --config {machine.root / 'server.yml'} runtime-show -r s"
    asked = {**environment, "_PLCONTAINER_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "5"}
    done = subprocess.run([*command[:3]], capture_output=True, text=True, check=False, env=asked)
    assert done.stdout == "plain,site\n"


def test_completion_script_is_what_bash_accepts() -> None:
    script = ROOT / "src/plcontainer_cli/completions/plcontainer.bash"
    check = f'source "{script}" && complete -p plcontainer'
    done = subprocess.run(["bash", "--norc", "-c", check], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("-F _plcontainer_completion plcontainer")
