"""What every backend must do, whatever isolates its sandboxes."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.protocol_server.support import Backend, ServerError, eventually, refused

from .conftest import Host, Session

COLD_MS = {"docker": 800, "process": 150, "runsc": 2500}


def test_lease_and_release(host: Host) -> None:
    host.start()
    session = host.session()
    assert session.run("result = 41 + 1") == 42
    began = time.monotonic()
    session.close()
    host.gone()
    assert time.monotonic() - began < 5


def test_cold_start(host: Host) -> None:
    host.start()
    times = []
    for _ in range(5):
        session = host.session()
        session.run("import sys; result = sys.version")
        session.close()
        host.gone()
    times = [event["ms"] for event in host.daemon.events("sandbox_started")]
    print(f"cold start on {host.kind.name}: {sorted(times)} ms")
    # The best of some: other tests run on the same machine.
    assert min(times) <= COLD_MS[host.kind.name]


def test_pool_hit(host: Host) -> None:
    host.daemon.runtimes = [host.runtime("probe", pool=(1, 1))]
    host.start()
    seen: set[str] = set()
    for _ in range(3):
        eventually(lambda: set(host.daemon.warm()) - seen, "one is warm")
        session = host.session()
        assert session.run("result = 1") == 1
        seen.add(session.sandbox)
        session.close()
    granted = host.daemon.events("lease_granted")
    assert all(event["warm"] for event in granted)
    assert min(event["ms"] for event in granted) <= 20


def test_facts_inside(host: Host) -> None:
    host.start()
    facts = host.session().run("""
import os, socket
status = {}
if os.path.exists("/proc/self/status"):
    for line in open("/proc/self/status"):
        name, _, value = line.partition(":")
        status[name] = value.split()
result = {
    "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid()], "groups": os.getgroups(),
    "capabilities": [value[0] for name, value in status.items() if name.startswith("Cap")],
    "host": socket.gethostname(), "cwd": os.getcwd(), "env": dict(os.environ),
    "mounts": [line.split()[:4] for line in open("/proc/mounts")],
    "nofile": __import__("resource").getrlimit(__import__("resource").RLIMIT_NOFILE),
    "core": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE),
}
""")
    assert facts["ids"] == [10000] * 4
    assert set(facts["groups"]) <= {10000}
    assert set(facts["capabilities"]) == {"0" * 16}
    assert facts["host"] == "sandbox"
    assert facts["env"]["PLC_RUNTIME_ID"] == "probe"
    assert not {name for name in facts["env"] if name.startswith(("NOTIFY", "PG", "SUDO", "SSH", "PYTHONPATH"))}
    assert facts["nofile"] == [64, 64]
    options = {mount[1]: mount[3].split(",") for mount in facts["mounts"]}
    assert "ro" in options["/"]
    assert facts["core"] == [0, 0]


NAMES = """
import getpass, grp, os, pwd, subprocess
def tried(step):
    try:
        return step()
    except (KeyError, OSError) as error:
        return f"{type(error).__name__}: {error}"
result = {
    "ids": [os.getuid(), os.getgid()],
    "getpass.getuser": tried(getpass.getuser),
    "pwd.getpwuid": tried(lambda: list(pwd.getpwuid(os.getuid()))[:4]),
    "grp.getgrgid": tried(lambda: grp.getgrgid(os.getgid()).gr_name),
    "os.path.expanduser": [os.path.expanduser("~"), tried(lambda: os.path.expanduser("~sandbox"))],
    "whoami": subprocess.run(["whoami"], capture_output=True, text=True).stdout.strip(),
    "id -un": subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip(),
    "preloaded": os.environ.get("LD_PRELOAD", ""),
}
"""


@pytest.mark.parametrize(("user", "ids"), [("", (10000, 10000)), ("1000660000:0", (1000660000, 0))])
def test_the_user_has_a_name(host: Host, user: str, ids: tuple[int, int]) -> None:
    host.daemon.runtimes = [host.runtime("probe", user=user)]
    host.start()
    found = host.session().run(NAMES)
    print(f"names on {host.kind.name}: {found}")
    assert found == {
        "ids": list(ids),
        "getpass.getuser": "sandbox",
        "pwd.getpwuid": ["sandbox", "x", *ids],
        "grp.getgrgid": "root" if ids[1] == 0 else "sandbox",
        "os.path.expanduser": ["/tmp", "/tmp"],
        "whoami": "sandbox",
        "id -un": "sandbox",
        "preloaded": "",
    }


def test_filesystem(host: Host) -> None:
    host.start()
    session = host.session()
    for place in ("/", "/usr", "/etc", "/run/caisson", "/opt/caisson/runtime_python", "/var/tmp", "/dev", "/opt"):
        _, number, _ = session.fails(f"open({place + '/x'!r}, 'w')")
        assert number in (13, 30, 1), f"{place}: {number}"
    assert session.run("open('/tmp/x', 'w').write('a' * 1000); result = open('/tmp/x').read()[:3]") == "aaa"
    _, number, _ = session.fails("f = open('/tmp/y', 'wb')\nfor _ in range(64): f.write(b'a' * (1 << 20)); f.flush()")
    assert number == 28
    assert session.run("import os; result = os.listdir('/opt/caisson/runtime_python')") == ["__main__.py"]
    session.run("import os; os.remove('/tmp/y')")


def test_death_is_told_within_a_second(host: Host) -> None:
    host.start()
    session = host.session()
    began = time.monotonic()
    host.kill(session)
    assert session.ended() == ("terminated by signal KILL", "08006")
    assert time.monotonic() - began < 1


def test_exit_status_is_told(host: Host) -> None:
    host.start()
    session = host.session()
    session.send("import os; os._exit(3)")
    assert session.ended() == ("exited with status 3", "08006")
    session.close()
    host.gone()


def test_out_of_memory_is_told_apart(host: Host) -> None:
    host.start()
    for _ in range(2):
        session = host.session()
        began = time.monotonic()
        session.send("pieces = []\nwhile True: pieces.append(b'x' * (1 << 20))")
        assert session.ended() == ("exceeded its memory limit of 96 MB", "53200")
        assert time.monotonic() - began < 10
        session.close()


def test_a_child_out_of_memory(host: Host) -> None:
    if host.kind.name == "runsc":
        pytest.skip("gVisor's processes are one to the host's kernel, which ends them together")
    host.start()
    session = host.session()
    status = session.run("""
import subprocess, sys
code = "pieces = []\\nwhile True: pieces.append(b'x' * (1 << 20))"
result = subprocess.run([sys.executable, "-I", "-c", code]).returncode
""")
    assert status == -9
    assert session.run("result = 'alive'") == "alive"


def test_end_before_ready(host: Host) -> None:
    command = ["python3", "-I", "-c", "import sys; print('numpy is not what it was', file=sys.stderr); sys.exit(7)"]
    host.daemon.runtimes = [host.runtime("early", command=command)]
    host.start()
    fields = refused(host.daemon.socket, runtime="early")
    assert fields["C"] == "58000"
    assert fields["M"] == 'a sandbox of runtime "early" exited with status 7 before it was ready'
    assert fields["D"] == "The end of its log:\nnumpy is not what it was"
    host.gone()


def test_never_connects(host: Host) -> None:
    host.daemon.settings["start_timeout_s"] = 3
    host.daemon.runtimes = [host.runtime("mute", command=["sleep", "600"])]
    host.start()
    fields = refused(host.daemon.socket, runtime="mute")
    assert fields["C"] == "58000"
    assert fields["M"] == 'a sandbox of runtime "mute" was not ready within 3 s'
    host.gone()


def test_command_that_does_not_exist(host: Host) -> None:
    host.daemon.runtimes = [host.runtime("typo", command=["/no/such/program"])]
    host.start()
    fields = refused(host.daemon.socket, runtime="typo")
    assert fields["C"] == "58000"
    assert "/no/such/program" in fields["D"]
    host.gone()


def test_missing_image(host: Host) -> None:
    missing = "sha256:" + "d" * 64
    host.daemon.runtimes.append(host.runtime("gone", image=missing, image_name="caisson/gone:1"))
    host.start()
    assert "caisson/gone:1" in host.daemon.wait_event("runtime_unusable", runtime="gone")["problem"]
    fields = refused(host.daemon.socket, runtime="gone")
    assert fields["C"] == "58P01"
    assert "caisson/gone:1" in fields["M"]
    host.gone()


def test_killed_server_and_reclaim(host: Host) -> None:
    host.daemon.runtimes = [host.runtime("probe", pool=(1, 1))]
    host.start()
    session, lost = host.session(), host.session()
    assert session.run("kept = 1; result = 0") == 0
    session.send("import time; time.sleep(1); result = 'done'")
    host.daemon.kill()
    # The call in flight does not notice.
    assert session.answer() == {"result": "done"}
    session.sock.close()
    lost_sandbox, lost_token = lost.sandbox, lost.token
    lost.close()
    host.daemon.settings["reclaim_grace_s"] = 1
    host.start()
    with host.again() as again:
        assert again.reclaim(session.token) == session.sandbox
        again.data, session.data = session.data, None
        assert again.run("result = 'still here'") == "still here"
        again.sandbox = session.sandbox
        host.daemon.wait_event("lease_reaped", 20)
        host.daemon.wait_event("sandbox_removed", 20, sandbox=lost_sandbox)
        with pytest.raises(ServerError), Backend(host.daemon.socket) as late:
            late.reclaim(lost_token)
        # Its end is told by the server that did not start it.
        again.send("import os; os._exit(4)")
        reason, sqlstate = again.ended()
        assert sqlstate == "08006"
        assert reason == "exited with status 4"


def test_orderly_restart_leaves_leases(host: Host) -> None:
    host.daemon.runtimes = [host.runtime("probe", pool=(1, 1))]
    host.start()
    session = host.session()
    eventually(host.daemon.warm, "one is warm")
    assert host.daemon.stop() == 0
    assert session.run("result = 5") == 5
    session.sock.close()
    host.daemon.runtimes = [host.runtime("probe")]
    host.start()
    with host.again() as again:
        again.reclaim(session.token)
    session.close()
    host.gone()


def test_what_it_writes_never_hinders_it(host: Host) -> None:
    """A log flood slows nobody else down, and the server's memory does not grow."""
    host.start()
    session = host.session()
    assert host.daemon.process is not None
    assert (
        session.run("""
import os
for _ in range(256): os.write(1, b"x" * 65535 + b"\\n")
result = "written"
""")
        == "written"
    )
    text = Path(f"/proc/{host.daemon.process.pid}/status").read_text()
    resident_kb = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))
    assert resident_kb < 120 * 1024


def test_without_container_logging(host: Host) -> None:
    host.daemon.runtimes = [host.runtime("probe", container_logging=False)]
    host.start()
    assert host.session().run("print('x' * 100000, flush=True); result = 1") == 1


def test_shared_directories(host: Host) -> None:
    shared = host.daemon.root / "shared"
    for name in ("in", "out"):
        (shared / name).mkdir(parents=True)
    (shared / "in" / "a.txt").write_text("from the host")
    (shared / "out").chmod(0o777)
    host.daemon.settings["allowed_mounts"] = [str(shared)]
    mounts = [
        {"host": str(shared / "in"), "container": "/data/in", "access": "ro"},
        {"host": str(shared / "out"), "container": "/opt/results/deep", "access": "rw"},
    ]
    host.daemon.runtimes = [host.runtime("probe", mounts=mounts)]
    host.start()
    session = host.session()
    assert session.run("result = open('/data/in/a.txt').read()") == "from the host"
    _, number, _ = session.fails("open('/data/in/b.txt', 'w')")
    # Which of the two reasons is told first is the kernel's choice.
    assert number in (13, 30)
    session.run("open('/opt/results/deep/b.txt', 'w').write('from the sandbox')")
    assert (shared / "out" / "b.txt").read_text() == "from the sandbox"
    assert session.run("import os; result = os.path.isdir('/usr/lib')")


def test_many_at_once_leak_nothing(host: Host) -> None:
    host.daemon.settings["max_sandboxes"] = 12
    host.daemon.settings["queue_timeout_s"] = 120
    host.start()
    assert host.daemon.process is not None
    descriptors = Path(f"/proc/{host.daemon.process.pid}/fd")
    at_rest = len(list(descriptors.iterdir()))

    def work(number: int) -> str:
        with Session(host.daemon.socket, 150) as session:
            session.lease("probe")
            assert session.run(f"result = {number}") == number
            return session.sandbox

    with ThreadPoolExecutor(12) as pool:
        sandboxes = list(pool.map(work, range(24)))
    assert len(set(sandboxes)) == 24
    host.gone()
    eventually(lambda: len(list(descriptors.iterdir())) <= at_rest + 4, "descriptors are given back")
    assert not host.daemon.events("internal_error")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to see another user's processes")
def test_nothing_of_the_server_is_inherited(host: Host) -> None:
    host.start()
    session = host.session()
    fds = session.run("""
import os
places = {fd: f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")}
result = {fd: os.readlink(place) for fd, place in places.items() if os.path.lexists(place)}
""")
    others = {name: target for name, target in fds.items() if int(name) > 2 and not target.startswith("socket:")}
    # The listing itself has one open.
    assert all(target.startswith("/proc/") for target in others.values()), others
