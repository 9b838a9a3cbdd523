"""The name of the user that functions run as."""

from __future__ import annotations

from tests.support.segment_host import SegmentHost, Session

PYTHON = """
import getpass, os, pwd, subprocess
who = subprocess.run(["whoami"], capture_output=True, text=True).stdout.strip()
return " ".join([getpass.getuser(), pwd.getpwuid(os.getuid()).pw_name, who, os.path.expanduser("~")])
"""


def test_python_knows_its_user(segment: SegmentHost, session: Session) -> None:
    segment.function(PYTHON, "test_names")
    assert session.run("SELECT test_names()") == "sandbox sandbox sandbox /tmp"


def test_r_knows_its_user(session: Session) -> None:
    body = "# container: plc_r_shared\npaste(Sys.info()[['user']], Sys.info()[['effective_user']], path.expand('~'))"
    session.run(f"CREATE OR REPLACE FUNCTION test_names_r() RETURNS text LANGUAGE plcontainer AS $$ {body} $$")
    assert session.run("SELECT test_names_r()") == "sandbox sandbox /tmp"


def test_the_files_are_the_server_s(segment: SegmentHost) -> None:
    listed = segment.run("find", "/run/plcontainer/accounts", "-printf", "%M %u %P\\n").splitlines()
    assert sorted(listed) == [
        "-r--r--r-- protocol_server 10000-10000/group",
        "-r--r--r-- protocol_server 10000-10000/passwd",
        "drwxr-xr-x protocol_server ",
        "drwxr-xr-x protocol_server 10000-10000",
    ]
