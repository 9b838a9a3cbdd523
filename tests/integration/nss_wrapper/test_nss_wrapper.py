"""A user id that no image knows, in containers: bare, with libnss_wrapper, and with the server's files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import cache
from builder.description import image_releases
from builder.images import BuiltImage, build_image
from protocol_server.backends.accounts import Account, group, passwd

JAVA_SOURCES = Path(__file__).parent / "java"
USER = Account(1000660000, 0)
WAYS = ("bare", "libnss_wrapper", "mounted files")
PYTHON = """
import getpass, os, pwd, subprocess
def tell(what, ask):
    try:
        answer = ask()
    except (KeyError, OSError) as error:
        answer = f"{type(error).__name__}: {error}"
    print(what, answer, sep="\\t")
def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stderr if done.returncode else done.stdout).strip()
tell("whoami", lambda: run("whoami"))
tell("id -un", lambda: run("id", "-un"))
tell("Python getpass.getuser()", getpass.getuser)
tell("Python pwd.getpwuid()", lambda: pwd.getpwuid(os.getuid()).pw_name)
tell("Python os.path.expanduser('~')", lambda: os.path.expanduser("~"))
"""
R = """
info <- Sys.info()
cat("R Sys.info() user", info[["user"]], sep = "\\t"); cat("\\n")
cat("R Sys.info() effective_user", info[["effective_user"]], sep = "\\t"); cat("\\n")
cat("R path.expand('~')", path.expand("~"), sep = "\\t"); cat("\\n")
"""
#: What tells the user's name, and what it tells in a container that has none for it.
WITHOUT_A_NAME = {
    "whoami": "cannot find name for user ID",
    "id -un": "cannot find name for user ID",
    "Python getpass.getuser()": "OSError: No username set in the environment",
    "Python pwd.getpwuid()": "KeyError: 'getpwuid(): uid not found: 1000660000'",
    "R Sys.info() user": "unknown",
    "R Sys.info() effective_user": "unknown",
    "Java user.name": "?",
    "Java UnixSystem": "null",
    "Hadoop UserGroupInformation": "KerberosAuthException: failure to login",
}
HOMES = ("Python os.path.expanduser('~')", "R path.expand('~')")

pytestmark = pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0,
    reason="needs a Docker that answers",
)


def built(name: str) -> BuiltImage:
    image = build_image(name, image_releases(name)[-1], say=print)
    image.load()
    return image


@pytest.fixture(scope="module")
def plpython() -> BuiltImage:
    return built("plpython")


@pytest.fixture(scope="module")
def plr() -> BuiltImage:
    return built("plr")


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the server mounts."""
    folder = tmp_path_factory.mktemp("accounts")
    for name, text in (("passwd", passwd(USER)), ("group", group(USER))):
        (folder / name).write_text(text)
        (folder / name).chmod(0o444)
    return folder


def run(image: BuiltImage, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command in a container that is locked in as a sandbox is, as a user that its image does not know."""
    return subprocess.run(
        ["docker", "run", "--rm", "--user", str(USER), "--read-only", "--tmpfs", "/tmp:mode=1777", "--network=none",
         "--cap-drop=ALL", "--security-opt=no-new-privileges", *options, image.id, *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def way(name: str, accounts: Path) -> tuple[str, ...]:
    """The options of `docker run` that give the user id a name, or none."""
    mounts = [f"--volume={accounts / file}:/etc/{file}:ro" for file in ("passwd", "group")]
    return {"bare": ("--entrypoint=",), "libnss_wrapper": (), "mounted files": ("--entrypoint=", *mounts)}[name]


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def java(plpython: BuiltImage) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Options that put this machine's Java and Hadoop's client into a container, and the command that asks them."""
    for program in ("javac", "mvn"):
        if shutil.which(program) is None:
            pytest.skip(f"needs a JDK and Maven; there is no {program}")
    home = Path(shutil.which("javac") or "").resolve().parents[1]
    name = f"names-{cache.tree_digest(JAVA_SOURCES)[:12]}"
    with cache.locked("java-names"):
        folder = cache.entry("java", name)
        if not folder.is_dir():
            with cache.new_entry("java", name) as building:
                copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={building}/jars"]
                subprocess.run(["mvn", "-q", "-B", "-f", str(JAVA_SOURCES / "pom.xml"), *copy], check=True, timeout=300)
                source = str(JAVA_SOURCES / "Names.java")
                subprocess.run(["javac", "-cp", f"{building}/jars/*", "-d", str(building), source], check=True)
        cache.mark_used(folder)
    # Debian's JDK has its configuration in /etc.
    mounts = {home: str(home), folder: "/names"} | {path: str(path) for path in Path("/etc").glob("java-*")}
    return tuple(f"--volume={path}:{inside}:ro" for path, inside in mounts.items()), (
        str(home / "bin/java"), "-Xshare:auto", "-cp", "/names:/names/jars/*", "Names",
    )  # fmt: skip


def table(of: dict[str, dict[str, str]]) -> Iterator[str]:
    """Lines of a table: what was asked, and what each way answers."""
    yield f"| asked as {USER} | {' | '.join(WAYS)} |"
    yield f"|---|{'---|' * len(WAYS)}"
    for what in of["bare"]:
        yield f"| {what} | {' | '.join(of[name].get(what, '') for name in WAYS)} |"


def test_who_programs_take_the_user_for(
    plpython: BuiltImage, plr: BuiltImage, accounts: Path, java: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    found: dict[str, dict[str, str]] = {}
    for name in WAYS:
        options = way(name, accounts)
        found[name] = rows(run(plpython, "python3", "-c", PYTHON, options=options))
        found[name] |= rows(run(plr, "Rscript", "--vanilla", "-e", R, options=options))
        found[name] |= rows(run(plpython, *java[1], options=(*options, *java[0])))
    print("", *table(found), sep="\n")
    for what, answer in WITHOUT_A_NAME.items():
        assert answer in found["bare"][what], what
        for name in WAYS[1:]:
            assert found[name][what] == "sandbox", f"{what} with {name}"
    for what in HOMES:
        assert [found[name][what] for name in WAYS] == ["/", "/tmp", "/tmp"], what
    assert found["bare"].keys() == WITHOUT_A_NAME.keys() | set(HOMES), "no row is left unjudged"


def shell(image: BuiltImage, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    return run(image, "sh", "-c", script, options=options)


def test_the_files_are_the_user_s_own_and_etc_stays_as_it_is(plpython: BuiltImage) -> None:
    script = """
        stat -c '%a %u' "${NSS_WRAPPER_PASSWD%/*}" "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
        grep -c '^sandbox:' /etc/passwd "$NSS_WRAPPER_PASSWD"
        { echo x >> /etc/passwd; } 2>/dev/null || stat -c '%a %u' /etc/passwd
    """
    done = shell(plpython, script)
    lines = done.stdout.splitlines()
    assert lines[:3] == ["700 1000660000", "400 1000660000", "400 1000660000"], done
    assert [line.rpartition(":")[2] for line in lines[3:5]] == ["0", "1"]
    assert lines[5:] == ["644 0"], "nothing was written, and nobody may"


def test_who_has_a_name_or_brings_files_is_left_alone(plpython: BuiltImage) -> None:
    ask = 'echo "${LD_PRELOAD:-nothing} ${NSS_WRAPPER_PASSWD:-nothing} ${HOME}"'
    assert shell(plpython, ask, "--user=65534:65534").stdout == "nothing nothing /nonexistent\n"
    assert shell(plpython, ask, "--env=NSS_WRAPPER_PASSWD=/own").stdout == "nothing /own /\n"


def test_a_name_of_one_s_own(plpython: BuiltImage) -> None:
    assert shell(plpython, "whoami", "--env=CAISSON_USER=spark").stdout == "spark\n"
    # What would be a line of its own is no name.
    done = shell(plpython, "whoami", "--env=CAISSON_USER=a:x:0:0\nb")
    assert done.stdout == ""
    assert "nss_wrapper: user id 1000660000 has no name: CAISSON_USER" in done.stderr


def test_where_nothing_can_be_written_it_says_so_and_the_program_runs(plpython: BuiltImage) -> None:
    closed = ("--tmpfs=/tmp:mode=0755,ro", "--tmpfs=/dev/shm:mode=0755,ro")
    command = [
        "docker",
        "run",
        "--rm",
        "--user",
        str(USER),
        "--read-only",
        *closed,
        "--network=none",
        plpython.id,
        "echo",
        "it runs",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "it runs\n"
    assert done.stderr == "nss_wrapper: user id 1000660000 has no name: neither /tmp nor /dev/shm can be written to\n"


def test_a_link_that_was_planted_is_not_followed(plpython: BuiltImage, tmp_path: Path) -> None:
    planted = tmp_path / "tmp"
    planted.mkdir(mode=0o1777)
    planted.chmod(0o1777)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim").chmod(0o777)
    for name in ("nss_wrapper", "nss_wrapper.XXXXXXXX", "passwd", "group"):
        (planted / name).symlink_to("/victim")
    mounts = (f"--volume={tmp_path / 'victim'}:/victim", f"--volume={planted}:/shared", "--env=TMPDIR=/shared")
    assert shell(plpython, "whoami", *mounts).stdout == "sandbox\n"
    assert list((tmp_path / "victim").iterdir()) == []
