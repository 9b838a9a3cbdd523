"""Verbs and their options."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from plcontainer_cli import doctor as checks
from plcontainer_cli import verify
from plcontainer_cli.failure import Failure
from plcontainer_cli.host import Host, own, with_images
from plcontainer_cli.images import downloaded, images_of
from plcontainer_cli.show import show_json, show_table, text
from protocol_server import __version__
from protocol_server.config import Config
from protocol_server.runtimes import plain
from protocol_server.xml_form import DEFAULTS, read_setting, setting_names, write_xml

CONFIG_FILE: Final = "/etc/plcontainer/protocol_server.yml"
_DRAIN_ANSWER_S: Final = 30.0

Command = TypeVar("Command", bound=Callable[..., None])
pass_host = click.make_pass_decorator(Host)


def with_json(command: Command) -> Command:
    """Give a command the option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def for_operators(command: Command) -> Command:
    """Say plainly when a file may not be read or written."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except PermissionError as error:
            raise Failure(f"{error.filename}: {error.strerror}", hint="Most of this needs root.") from error

    return run  # type: ignore[return-value]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="plcontainer")
@click.option(
    "--config", "config_file", default=CONFIG_FILE, envvar="PLCONTAINER_CONFIG", show_default=True, metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path), help="Configuration of the protocol server.",
)  # fmt: skip
@click.pass_context
def main(context: click.Context, config_file: Path) -> None:
    """Look after the runtimes, images and sandboxes of this host.

    Runtimes that site.yml rolls out lie in runtimes.yml. What is changed here is kept in a file of this host's own, in
    PL/Container's XML form, and wins over them; the next run of site.yml reports it and leaves it alone. A change that
    is not valid changes nothing.

    Exit status: 0 done, 1 refused or found wrong, 2 wrong usage.
    """
    context.obj = Host(config_file)


# runtimes


def complete_runtime(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids that begin so, for the shell."""
    root = context.find_root()
    try:
        config = Host(Path(root.params.get("config_file") or CONFIG_FILE)).load()
    except Failure:
        return []
    return [identifier for identifier in config.runtimes if identifier.startswith(incomplete)]


def complete_setting(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of settings that begin so, for the shell."""
    return [f"{name}=" for name in setting_names() if name.startswith(incomplete)]


def runtime_options(command: Command) -> Command:
    """What a runtime is made of."""
    options = [
        click.option("-r", "--runtime", "identifier", required=True, metavar="ID", shell_complete=complete_runtime,
                     help="Its id, as functions name it."),
        click.option("-i", "--image", required=True, metavar="IMAGE", help="Its image, by name or id."),
        click.option("-l", "--language", required=True, metavar="LANGUAGE", help="Language of its functions."),
        click.option("-v", "--volume", "volumes", multiple=True, metavar="HOST:CONTAINER[:ro|rw]",
                     help="A directory of this host to mount; ro when neither is said."),
        click.option("-s", "--setting", "settings", multiple=True, metavar="KEY=VALUE", shell_complete=complete_setting,
                     help=f"A setting: {', '.join(setting_names())}."),
        click.option("-c", "--command", metavar="COMMAND", help="Program and arguments instead of the language's own."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _runtime(host: Host, identifier: str, image: str, language: str, options: dict[str, Any]) -> dict[str, Any]:
    """A runtime's values from the options of a command. Raises Failure or UsageError."""
    found = images_of(host.load().server).find(image)
    values: dict[str, Any] = {**DEFAULTS, "id": identifier, "language": language}
    values |= {"image": found.id, "image_name": next(iter(found.names), found.id), "pool": {"min": 0, "max": 0}}
    if options["command"]:
        values["command"] = _words(options["command"])
    if options["volumes"]:
        values["mounts"] = [_volume(volume) for volume in options["volumes"]]
    for setting in options["settings"]:
        name, equals, value = setting.partition("=")
        if not equals:
            raise click.UsageError(f"-s {setting}: must be KEY=VALUE")
        try:
            key, converted = read_setting(name, value)
        except ValueError as error:
            raise click.UsageError(f"-s {setting}: {error}") from error
        if key.startswith("pool_"):
            values["pool"][key.removeprefix("pool_")] = converted
        else:
            values[key] = converted
    values["pool"]["max"] = max(values["pool"].values())
    return values


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"-c {command}: {error}") from error


def _volume(volume: str) -> dict[str, str]:
    parts = volume.split(":")
    if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        raise click.UsageError(f"-v {volume}: must be HOST:CONTAINER, with :ro or :rw behind it or not")
    return {"host": parts[0], "container": parts[1], "access": parts[2] if len(parts) == 3 else "ro"}


def _put(host: Host, identifier: str, values: dict[str, Any]) -> str:
    config = host.load()
    removed = [one for one in config.removed if one != identifier]
    return host.change({**own(config), identifier: values}, removed)


@main.command("runtime-add")
@runtime_options
@pass_host
@for_operators
def runtime_add(host: Host, /, identifier: str, image: str, language: str, **options: Any) -> None:
    """Add a runtime to this host."""
    with host.changing() as config:
        if identifier in config.runtimes:
            raise Failure(f"runtime {identifier} is there already", hint="`plcontainer runtime-replace` changes it.")
        result = _put(host, identifier, _runtime(host, identifier, image, language, options))
    click.echo(f"runtime {identifier} added: {result}")


@main.command("runtime-replace")
@runtime_options
@pass_host
@for_operators
def runtime_replace(host: Host, /, identifier: str, image: str, language: str, **options: Any) -> None:
    """Add a runtime, or put it in the place of the one that has its id."""
    with host.changing() as config:
        verb = "replaced" if identifier in config.runtimes else "added"
        result = _put(host, identifier, _runtime(host, identifier, image, language, options))
    click.echo(f"runtime {identifier} {verb}: {result}")


@main.command("runtime-delete")
@click.option(
    "-r", "--runtime", "identifier", required=True, metavar="ID", shell_complete=complete_runtime, help="Its id."
)
@pass_host
@for_operators
def runtime_delete(host: Host, identifier: str) -> None:
    """Remove a runtime from this host; one that is not there is fine.

    One that site.yml rolled out is noted as removed here; take it out of plcontainer_runtimes_list for good.
    """
    with host.changing() as config:
        if identifier not in config.runtimes:
            click.echo(f"runtime {identifier} is not there")
            return
        local = {name: values for name, values in own(config).items() if name != identifier}
        removed = [*config.removed, *([identifier] if identifier in config.rolled_out else [])]
        result = host.change(local, removed)
    click.echo(f"runtime {identifier} removed: {result}")


@main.command("runtime-show")
@click.option("-r", "--runtime", "identifier", metavar="ID", shell_complete=complete_runtime, help="This one alone.")
@click.option("--xml", "as_xml", is_flag=True, help="Print PL/Container's XML form.")
@with_json
@pass_host
@for_operators
def runtime_show(host: Host, identifier: str | None, as_xml: bool, as_json: bool) -> None:
    """Show runtimes, and where each comes from."""
    config = host.load()
    if identifier is not None and identifier not in config.runtimes:
        names = ", ".join(config.runtimes) or "none"
        raise Failure(f"runtime {identifier} is not there", hint=f"Runtimes of this host: {names}.")
    chosen = [plain(runtime) for name, runtime in config.runtimes.items() if identifier in (None, name)]
    sources = host.sources(config)
    if as_xml:
        click.echo(write_xml(chosen), nl=False)
    elif as_json:
        show_json([{**runtime, "source": sources[runtime["id"]]} for runtime in chosen])
    elif identifier is not None:
        for key, value in {**chosen[0], "source": sources[identifier]}.items():
            click.echo(f"{key}: {text(value)}")
    else:
        rows = [{**runtime, "image": runtime["image_name"], "source": sources[runtime["id"]]} for runtime in chosen]
        columns = ("id", "language", "image", "memory_mb", "cpus", "pids", "isolation", "roles", "source")
        show_table(rows, columns, "no runtimes")


@main.command("runtime-edit")
@click.option("-e", "--editor", envvar="EDITOR", default="vi", show_default=True, help="Editor to use.")
@pass_host
@for_operators
def runtime_edit(host: Host, editor: str) -> None:
    """Edit this host's own runtimes, again and again until they are valid."""
    with host.changing() as config:
        before = host.local_text()
        with tempfile.TemporaryDirectory(prefix="plcontainer-") as directory:
            file = Path(directory) / "runtimes.xml"
            file.write_text(before, encoding="utf-8")
            while True:
                done = subprocess.run([*shlex.split(editor), str(file)], check=False)
                if done.returncode:
                    raise Failure(f"{editor} ended with status {done.returncode}; nothing was changed")
                after = file.read_text(encoding="utf-8", errors="surrogateescape")
                if after == before:
                    click.echo("nothing was changed")
                    return
                try:
                    result = _restore(host, config, after)
                    break
                except Failure as failure:
                    click.echo(failure.format_message(), err=True)
                    if not (sys.stdin.isatty() and click.confirm("Edit again?", default=True, err=True)):
                        raise Failure("nothing was changed") from failure
    click.echo(f"runtimes of this host changed: {result}")


def _restore(host: Host, config: Config, xml: str) -> str:
    images = images_of(config.server)

    def find(name: str) -> tuple[str, str]:
        return images.find(name).id, name

    return host.change_text(with_images(xml, find, config.server.local_runtimes_file))


@main.command("runtime-backup")
@click.option("-f", "--file", "file", required=True, metavar="FILE", help="Where to write to; - for standard output.")
@click.option("--all", "everything", is_flag=True, help="All runtimes in force, not only this host's own.")
@pass_host
@for_operators
def runtime_backup(host: Host, file: str, everything: bool) -> None:
    """Write this host's own runtimes to a file, in XML."""
    xml = write_xml(map(plain, host.load().runtimes.values())) if everything else host.local_text()
    try:
        with click.open_file(file, "w", encoding="utf-8", atomic=file != "-") as stream:
            stream.write(xml)
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}") from error


@main.command("runtime-restore")
@click.option("-f", "--file", "file", required=True, metavar="FILE", help="XML to read; - for standard input.")
@pass_host
@for_operators
def runtime_restore(host: Host, file: str) -> None:
    """Make the runtimes in a file this host's own ones, in place of those it has.

    Files of PL/Container are understood: images may have names that are known on this host, and its clients stand for
    their languages.
    """
    try:
        with click.open_file(file, encoding="utf-8") as stream:
            xml = stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file}: {error}") from error
    with host.changing() as config:
        result = _restore(host, config, xml)
    click.echo(f"runtimes of this host restored: {result}")


@main.command("runtime-verify")
@click.option(
    "--hosts", metavar="HOST,...", default="", help="Ask these hosts over ssh, and compare them with this one."
)
@click.option("--remote-command", default="plcontainer", show_default=True, help="This command on those hosts.")
@click.option(
    "--repair", is_flag=True, help="Go back to what site.yml rolled out; a copy of this host's own file is kept."
)
@click.option("--yes", is_flag=True, help="Ask nothing.")
@with_json
@pass_host
@for_operators
def runtime_verify(host: Host, *, hosts: str, remote_command: str, repair: bool, yes: bool, as_json: bool) -> None:
    """See whether runtimes are what site.yml rolled out, and the same on all hosts; exit status 1 if not."""
    found = verify.facts(host)
    others = verify.ask_hosts([name.strip() for name in hosts.split(",") if name.strip()], remote_command)
    disagreements = verify.disagreements({"this host": found, **others})
    silent = {name: facts["error"] for name, facts in others.items() if "error" in facts}
    if as_json:
        show_json({**found, "disagreements": disagreements, "silent": silent})
    else:
        _show_verified(found, others, disagreements, silent)
    if repair and found["drift"]:
        _repair(host, yes)
    elif found["drift"] or disagreements or silent:
        raise click.exceptions.Exit(1)


def _show_verified(
    found: dict[str, Any], others: dict[str, Any], disagreements: list[dict[str, Any]], silent: dict[str, str]
) -> None:
    for change in found["drift"]:
        keys = f": {', '.join(change['keys'])}" if change["keys"] else ""
        click.echo(f"runtime {change['id']} was {change['change']} on this host{keys}")
    if not found["drift"]:
        click.echo("this host has what site.yml rolled out")
    for one in disagreements:
        groups = "; ".join(
            f"{', '.join(group['hosts'])}{'' if group['there'] else ' (absent)'}" for group in one["versions"]
        )
        click.echo(f"runtime {one['id']} differs between: {groups}")
    for name, error in silent.items():
        click.echo(f"{name} does not tell: {error}")
    if others and not disagreements and not silent:
        click.echo(f"{len(others) + 1} hosts agree")
    if found["drift"]:
        click.echo("Put changes into plcontainer_runtimes_list, or take them back: plcontainer runtime-verify --repair")


def _repair(host: Host, yes: bool) -> None:
    with host.changing() as config:
        file = config.server.local_runtimes_file
        copy = file.with_suffix(".xml.bak")
        if not yes:
            click.confirm(f"Take this host's own changes back ({file}, kept as {copy})?", abort=True, err=True)
        try:
            copy.write_bytes(file.read_bytes())
        except OSError as error:
            raise Failure(f"{copy}: {error.strerror}") from error
        result = host.change_text(None)
    click.echo(f"this host has what site.yml rolled out: {result}", err=True)


# images


@main.command("image-add")
@click.option("-f", "--file", "file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="An archive, as `docker save` writes it; compressed or not.")  # fmt: skip
@click.option("-u", "--url", metavar="URL", help="An archive on a web server; --digest says which one it must be.")
@click.option("--digest", metavar="SHA256", default="", help="What the file at the URL must be, 64 hexadecimal digits.")
@with_json
@pass_host
@for_operators
def image_add(host: Host, file: Path | None, url: str | None, digest: str, as_json: bool) -> None:
    """Bring an image to this host. Images are never pulled from a registry."""
    if (file is None) == (url is None):
        raise click.UsageError("either -f or -u must be there")
    images = images_of(host.load().server)
    if file is not None:
        identifier, name, new = images.add(file)
    else:
        if not digest:
            raise click.UsageError("-u needs --digest")
        with downloaded(url or "", digest) as archive:
            identifier, name, new = images.add(archive)
    if as_json:
        show_json({"id": identifier, "name": name, "new": new})
    else:
        click.echo(f"{identifier} {name} {'added' if new else 'is here already'}")


@main.command("image-delete")
@click.option("-i", "--image", required=True, metavar="IMAGE", help="Its name or id.")
@pass_host
@for_operators
def image_delete(host: Host, image: str) -> None:
    """Remove an image that no runtime uses."""
    with host.changing() as config:
        images = images_of(config.server)
        found = images.find(image)
        users = [runtime.id for runtime in config.runtimes.values() if runtime.image == found.id]
        if users:
            raise Failure(
                f"image {image} is used by {', '.join(users)}", hint="Remove or replace these runtimes first."
            )
        images.delete(found.id)
    click.echo(f"{found.id} removed")


@main.command("image-list")
@with_json
@pass_host
@for_operators
def image_list(host: Host, as_json: bool) -> None:
    """List the images of this host, and the runtimes that use them."""
    config = host.load()
    rows: list[dict[str, Any]] = []
    for image in images_of(config.server).list():
        users = [runtime.id for runtime in config.runtimes.values() if runtime.image == image.id]
        rows.append({**asdict(image), "names": list(image.names), "runtimes": users})
    if as_json:
        show_json(rows)
    else:
        shown = [{**row, "size_mb": row["size"] >> 20} for row in rows]
        show_table(shown, ("names", "id", "size_mb", "runtimes"), "no images")


# the server


@main.command("containers")
@with_json
@pass_host
@for_operators
def containers(host: Host, as_json: bool) -> None:
    """List the sandboxes of this host: warm ones, and those that sessions have."""
    rows = host.ask("GET", "/v1/sandboxes").body["sandboxes"]
    if as_json:
        show_json(rows)
        return
    shown = [{**row, "memory_mb": _mib(row.get("memory_bytes"))} for row in rows]
    columns = ("sandbox", "runtime", "state", "role", "database", "backend_pid", "uptime_s", "memory_mb", "cpu_s")
    show_table(shown, columns, "no sandboxes")


def _mib(size: int | None) -> float | None:
    return None if size is None else size / (1 << 20)


@main.command("drain")
@click.option("--wait", "wait_s", type=click.FloatRange(0, 86400), default=0.0, show_default=True, metavar="SECONDS",
              help="Wait for the end of the leases that are there, so long at most.")  # fmt: skip
@click.option("--idle", "idle_s", type=click.FloatRange(0, 86400), metavar="SECONDS",
              help="Meanwhile take sandboxes back whose sessions have been idle for so long.")  # fmt: skip
@click.option("--off", is_flag=True, help="End it: grant leases again.")
@with_json
@pass_host
@for_operators
def drain(host: Host, wait_s: float, idle_s: float | None, off: bool, as_json: bool) -> None:
    """Refuse new leases, for maintenance; calls go on. Exit status 1 while there still are leases after --wait."""
    if off:
        state = host.ask("POST", "/v1/undrain").body
    else:
        body = {"wait_s": wait_s, **({} if idle_s is None else {"idle_s": idle_s})}
        state = host.ask("POST", "/v1/drain", body, timeout_s=wait_s + _DRAIN_ANSWER_S).body
    if as_json:
        show_json(state)
    else:
        leases = state.get("leases", 0)
        click.echo("leases are granted again" if off else f"new leases are refused; {leases} are left")
    if not off and wait_s and state.get("leases"):
        raise click.exceptions.Exit(1)


@main.command("reload")
@with_json
@pass_host
@for_operators
def reload(host: Host, as_json: bool) -> None:
    """Let the server read its files anew; when one is not valid, nothing changes."""
    state = host.ask("POST", "/v1/reload", timeout_s=60.0).body
    if as_json:
        show_json(state)
    else:
        click.echo("the configuration is in force")


@main.command("doctor")
@with_json
@pass_host
@for_operators
def doctor(host: Host, as_json: bool) -> None:
    """Look for what may keep this host from serving; exit status 1 when something is wrong."""
    found = checks.examine(host)
    if as_json:
        show_json([asdict(check) for check in found])
    else:
        show_table([asdict(check) for check in found], ("state", "name", "detail"), "nothing was looked at")
    if any(check.state == "failed" for check in found):
        raise click.exceptions.Exit(1)


def run(arguments: Sequence[str] | None = None) -> None:
    """The program; ends by SystemExit."""
    # The server and its sandboxes, users of their own, read what is written; nothing of it is secret.
    os.umask(0o022)
    main(args=list(arguments) if arguments is not None else None, prog_name="plcontainer")
