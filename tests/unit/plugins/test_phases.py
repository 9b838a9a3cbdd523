"""The quiet callback: one line a play, failures with host, task and cause."""

from types import SimpleNamespace
from typing import Any

import pytest
from plugins.callback.phases import CallbackModule

STATS = SimpleNamespace(processed={"segment1": 1})


class Screen:
    """Takes what is displayed."""

    def __init__(self) -> None:
        self.text = ""

    def display(self, message: str, **_: Any) -> None:
        self.text += f"{message}\n"


@pytest.fixture
def callback() -> CallbackModule:
    module = CallbackModule()
    module._display = Screen()
    return module


def play(name: str, **variables: Any) -> Any:
    return SimpleNamespace(get_name=lambda: name, get_vars=lambda: variables)


def result(action: str = "ansible.builtin.apt", **details: Any) -> Any:
    return SimpleNamespace(
        _host=SimpleNamespace(get_name=lambda: "segment1"),
        _task=SimpleNamespace(action=action, _uuid="1", get_name=lambda: "role : Do it"),
        _result=details,
        is_changed=lambda: details.get("changed", False),
    )


def test_a_play_is_one_line_with_its_time_and_changes(callback: CallbackModule) -> None:
    callback.v2_playbook_on_play_start(play("Provision"))
    callback.v2_runner_on_ok(result(changed=True))
    callback.v2_runner_on_ok(result(changed=False))
    callback.v2_playbook_on_play_start(play("Ask"))
    callback.v2_playbook_on_stats(STATS)
    assert callback._display.text == "Provision: 0 s, 1 changes\nAsk: 0 s\n"


def test_a_silent_play_has_no_line(callback: CallbackModule) -> None:
    callback.v2_playbook_on_play_start(play("Look", phases_silent=True))
    callback.v2_playbook_on_stats(STATS)
    assert callback._display.text == ""


def test_a_group_may_be_empty(callback: CallbackModule) -> None:
    callback.v2_playbook_on_play_start(play("Provision Kubernetes nodes"))
    callback.v2_playbook_on_no_hosts_matched()
    callback.v2_playbook_on_stats(STATS)
    assert callback._display.text == ""


def test_a_run_without_any_host_is_told(callback: CallbackModule) -> None:
    callback.v2_playbook_on_play_start(play("Provision"))
    callback.v2_playbook_on_no_hosts_matched()
    callback.v2_playbook_on_stats(SimpleNamespace(processed={}))
    assert callback._display.text == "no host of the inventory is meant\n"


def test_debug_speaks_for_its_play(callback: CallbackModule) -> None:
    callback.v2_playbook_on_play_start(play("Ask"))
    callback.v2_runner_on_ok(result("ansible.builtin.debug", msg=["one", "two"]))
    callback.v2_playbook_on_stats(STATS)
    assert callback._display.text == "one\ntwo\n"


def test_a_failure_names_host_task_and_cause_once(callback: CallbackModule) -> None:
    callback.v2_runner_on_failed(result(msg="it broke", stderr="why\nit broke", stdout=""))
    assert callback._display.text == "\nsegment1 failed: role : Do it\n  it broke\n  why\n  it broke\n"


def test_only_failed_items_are_shown(callback: CallbackModule) -> None:
    items = [{"msg": "fine"}, {"failed": True, "msg": "broken"}]
    callback.v2_runner_on_failed(result(msg="One or more items failed", results=items))
    assert "broken" in callback._display.text
    assert "fine" not in callback._display.text


def test_a_secret_is_kept_back(callback: CallbackModule) -> None:
    callback.v2_runner_on_failed(result(_ansible_no_log=True, msg="password is hunter2"))
    assert "hunter2" not in callback._display.text
