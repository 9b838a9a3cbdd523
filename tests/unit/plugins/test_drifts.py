"""What check.yml says: a line for each thing that differs, told once."""

from __future__ import annotations

from plugins.callback.drifts import Drifts

TEXT_FILE = {"changed": True, "path": "/etc/docker/daemon.json"}


def test_what_a_role_found_is_not_told_again_by_the_task_that_mends_it() -> None:
    drifts = Drifts()
    drifts.add("one", "docker_engine", "Compare", "host_state", {"differences": ["/etc/docker/daemon.json: no file"]})
    drifts.add("one", "docker_engine", "Write Docker's configuration", "text_file", TEXT_FILE)
    assert drifts.of("one") == ["one: docker_engine: /etc/docker/daemon.json: no file"]


def test_what_only_a_task_finds_is_told() -> None:
    drifts = Drifts()
    drifts.add("one", "docker_engine", "Write Docker's configuration", "text_file", TEXT_FILE)
    assert drifts.all() == ["one: docker_engine: /etc/docker/daemon.json: write Docker's configuration"]


def test_what_another_role_found_hides_nothing() -> None:
    drifts = Drifts()
    drifts.add("one", "other", "Compare", "host_state", {"differences": ["/etc/docker/daemon.json: no file"]})
    drifts.add("one", "docker_engine", "Write Docker's configuration", "text_file", TEXT_FILE)
    assert len(drifts.of("one")) == 2


def test_each_item_and_what_debug_says() -> None:
    drifts = Drifts()
    items = [{"changed": True, "dest": "/a"}, {"changed": False, "dest": "/b"}, {"changed": True, "dest": "/c"}]
    drifts.add("one", "role", "Copy a package", "ansible.builtin.copy", {"changed": True, "results": items})
    drifts.add("one", "role", "Say", "ansible.builtin.debug", {"changed": True, "msg": "an image is missing"})
    assert drifts.all() == [
        "one: role: /a: copy a package",
        "one: role: /c: copy a package",
        "one: role: an image is missing",
    ]


def test_nothing_differs() -> None:
    drifts = Drifts()
    drifts.add("one", "role", "Compare", "host_state", {"differences": [], "changed": False})
    assert drifts.all() == []


def test_hosts_are_told_apart_and_failures_too() -> None:
    drifts = Drifts()
    drifts.fail("two", "-", "cannot be reached: no route")
    drifts.add("one", "role", "Do it", "command", {"changed": True})
    assert drifts.all() == ["one: role: Do it", "two: -: cannot be reached: no route"]
