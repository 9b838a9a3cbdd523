"""A runtime whose user is one that no image knows."""

from __future__ import annotations

from tests.support.segment_host import SegmentHost

WHO = """
import getpass, os, subprocess
who = subprocess.run(["whoami"], capture_output=True, text=True).stdout.strip()
return f"{os.getuid()}:{os.getgid()} {getpass.getuser()} {who} {os.path.expanduser('~')}"
"""


def test_a_user_that_no_image_knows(segment: SegmentHost) -> None:
    with segment.session("template1") as session:
        session.run("DROP ROLE IF EXISTS named, analyst")
        session.run("CREATE ROLE analyst; CREATE ROLE named IN ROLE analyst; GRANT USAGE ON SCHEMA public TO named")
        try:
            session.run(f"CREATE FUNCTION who() RETURNS text LANGUAGE plcontainer AS $b$ # container: wide\n{WHO}\n$b$")
            session.run("GRANT EXECUTE ON FUNCTION who() TO named; SET ROLE named")
            assert session.run("SELECT who()") == "1000660000:0 sandbox sandbox /tmp"
        finally:
            session.run("RESET ROLE")
            session.run("DROP FUNCTION IF EXISTS who(); DROP OWNED BY named; DROP ROLE named; DROP ROLE analyst")
