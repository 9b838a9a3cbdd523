"""scripts/stack.py: what it brings along for `pulumi`."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import stack


def test_a_passphrase_is_made_once_and_for_this_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    made = stack.settings({"PATH": "/bin"}, folder, [tmp_path])
    file = Path(made["PULUMI_CONFIG_PASSPHRASE_FILE"])
    assert made["PULUMI_BACKEND_URL"] == f"file://{folder}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600
    passphrase = file.read_text()
    assert len(passphrase) >= 32
    stack.settings({}, folder, [])
    assert file.read_text() == passphrase
    assert list(folder.iterdir()) == [file]


def test_programs_come_before_path(tmp_path: Path) -> None:
    made = stack.settings({"PATH": "/bin"}, tmp_path, [tmp_path / "pulumi"])
    assert made["PATH"].split(":") == [str(tmp_path / "pulumi"), str(stack.ROOT / ".venv/bin"), "/bin"]


def test_what_a_person_says_stays(tmp_path: Path) -> None:
    given = {"PULUMI_BACKEND_URL": "s3://bucket", "PULUMI_CONFIG_PASSPHRASE": "x", "PULUMI_SKIP_UPDATE_CHECK": "false"}
    made = stack.settings(given, tmp_path / "state", [])
    assert given.items() <= made.items()
    assert "PULUMI_CONFIG_PASSPHRASE_FILE" not in made
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("where", ["bin/pulumi-resource-kubernetes", "home/plugins/resource-kubernetes-v4.34.2/x"])
def test_the_provider_is_on_path_or_installed(tmp_path: Path, where: str) -> None:
    environment = {"PATH": str(tmp_path / "bin"), "PULUMI_HOME": str(tmp_path / "home")}
    assert not stack.has_provider(environment)
    (tmp_path / where).parent.mkdir(parents=True)
    (tmp_path / where).touch(0o755)
    assert stack.has_provider(environment)


def test_a_missing_provider_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pulumi").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    (tmp_path / "pulumi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    for name in ("HOME", "XDG_STATE_HOME", "PULUMI_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    assert stack.main(["up", "platform"]) == 1
    assert "run `pulumi plugin install resource kubernetes`" in capsys.readouterr().err
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(("version", "as_it_is"), [("v3.78.0", False), ("v3.250.0", True)])
def test_the_policy_pack_runs_by_hosts_of_any_age(tmp_path: Path, version: str, as_it_is: bool) -> None:
    host = tmp_path / "host"
    host.write_bytes(b"\0dep\tgithub.com/pulumi/pulumi/sdk/v3\t" + version.encode() + b"\th1:x\n")
    pack = stack.policy_pack(host, tmp_path)
    assert (pack / "__main__.py").read_text() == (stack.ROOT / "infra/policy/__main__.py").read_text()
    assert (pack == stack.ROOT / "infra/policy") == as_it_is
    assert (tmp_path / "pulumi-analyzer-policy-caisson").exists() != as_it_is


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `pulumi` that writes what it is told, a line a run, into the file that is returned."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("pulumi", "pulumi-language-python", stack.PROVIDER):
        (programs / name).write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/said\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/bin")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "said"


@pytest.mark.parametrize(
    ("verb", "command"),
    [
        ("up", f"up --yes --skip-preview --stack=blue --policy-pack={stack.ROOT}/infra/policy"),
        ("preview", f"preview --stack=blue --policy-pack={stack.ROOT}/infra/policy"),
        ("refresh", "refresh --yes --skip-preview --stack=blue"),
        ("destroy", "destroy --yes --skip-preview --stack=blue"),
        ("cancel", "cancel --yes blue"),
        ("outputs", "stack output --json --stack=blue"),
        ("forget", "stack rm --force --yes blue"),
    ],
)
def test_verbs(said: Path, verb: str, command: str) -> None:
    assert stack.main([verb, "platform", "--stack", "blue"]) == 0
    where = f"--cwd={stack.ROOT}/stacks/platform --non-interactive"
    assert said.read_text().splitlines() == [
        f"{where} stack select --create --secrets-provider=passphrase blue",
        f"{where} {command}",
    ]


def test_forget_and_cancel_need_no_provider(said: Path) -> None:
    (said.parent / "programs" / stack.PROVIDER).unlink()
    assert stack.main(["forget", "platform"]) == 0
    assert stack.main(["destroy", "platform"]) == 1


def test_another_provider_is_for_where_the_official_one_is_not(
    said: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (said.parent / "programs" / stack.PROVIDER).rename(other / stack.PROVIDER)
    assert stack.main(["up", "platform", "--refresh", "--provider", str(other)]) == 0
    assert said.read_text().endswith(" --refresh\n")
    assert f"so {other} takes its place" in capfd.readouterr().err
    (other / stack.PROVIDER).rename(said.parent / "programs" / stack.PROVIDER)
    assert stack.main(["up", "platform", "--provider", str(other)]) == 0
    assert capfd.readouterr().err == ""


def test_a_stack_that_is_there_is_not_asked_for(said: Path, tmp_path: Path) -> None:
    states = tmp_path / "caisson/pulumi/.pulumi/stacks/platform"
    states.mkdir(parents=True)
    (states / "main.json").write_text("{}")
    assert stack.main(["up", "platform"]) == 0
    assert [line.split()[2] for line in said.read_text().splitlines()] == ["up"]
    assert stack.main(["up", "platform", "--stack", "other"]) == 0
    assert [line.split()[2:4] for line in said.read_text().splitlines()][1:] == [["stack", "select"], ["up", "--yes"]]
    assert not stack.is_there("platform", "main", {"PULUMI_BACKEND_URL": f"s3://{tmp_path}/caisson/pulumi"})
