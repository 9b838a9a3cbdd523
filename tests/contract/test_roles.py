"""What every role promises in the same way: options, names, documentation, and that no fact is written twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import role_options

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
TASK_WORDS = {"block", "rescue", "always"}
# There is no image for another release, and a host that is a container cannot reserve huge pages of another size. The
# playbook says what is between nodes, which molecule/kubernetes_changed has.
THE_ONLY_ONE = {"plcontainer_runtimes_image_debian", "hugepages_postgresql_size", "cni_plugins_between_nodes"}
# What molecule/kubernetes_changed leaves as it is, and why.
LEFT_IN_KUBERNETES = {
    "kubernetes_control_plane_members": "the playbook says who they are",
    "kubernetes_endpoint_servers": "the playbook says who they are",
    "kubernetes_node_control_plane": "the playbook says which",
    "flannel_control_plane": "the playbook says which",
    "flannel_subnets": "the playbook says which",
    "kubernetes_control_plane_store": "several control planes need etcd; inventories/lab has kine",
    "kubernetes_control_plane_endpoint": "with a load balancer there is no forwarder, which the scenario tests",
    "kubernetes_node_cgroup_v1": "the machine may have no version 2",
    "kubernetes_node_hugepages_mb": "a host that is a container has none",
    "kubernetes_addons_dns": "options of the name server are tested",
    "containerd_pause_image": "there is no other image of that kind",
    "kubernetes_addons_dns_image": "there is no other image of that kind",
    "kubernetes_addons_metrics_image": "there is no other image of that kind",
    "kubernetes_addons_network_policies_image": "there is no other image of that kind",
}


def files(role: str, *folders: str) -> Iterator[Path]:
    """Return the YAML files and templates of a role, of all its folders unless some are named."""
    for folder in folders or ("defaults", "handlers", "meta", "tasks", "templates", "vars"):
        for path in sorted((ROOT / "roles" / role / folder).rglob("*")):
            if path.is_file() and path.suffix in (".yml", ".j2"):
                yield path


def tasks(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return tasks with those inside of blocks."""
    for item in items:
        yield item
        for word in TASK_WORDS & item.keys():
            yield from tasks(item[word])


def all_tasks(role: str) -> list[tuple[Path, dict[str, Any]]]:
    return [
        (path, task)
        for path in files(role, "tasks", "handlers")
        for task in tasks(yaml.safe_load(path.read_text(encoding="utf-8")) or [])
    ]


def variables(value: Any) -> Iterator[str]:
    """Return the names of variables that a parsed file sets."""
    if isinstance(value, dict):
        yield from value


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_complete(role: str) -> None:
    for name in ("README.md", "meta/argument_specs.yml", "tasks/main.yml"):
        assert (ROOT / "roles" / role / name).is_file(), name


@pytest.mark.parametrize("role", ROLES)
def test_every_option_has_one_value_to_start_from(role: str) -> None:
    options, defaults, settings = role_options.options(role), role_options.defaults(role), role_options.settings()
    assert defaults.keys() <= options.keys()
    for name, option in options.items():
        from_settings = name in settings
        assert from_settings != (name in defaults), f"{name}: in defaults/main.yml or in settings/, in one of them"
        assert option.get("required", False) == from_settings, (
            f"{name}: required when it comes from settings/, else not"
        )
        assert "default" not in option, f"{name}: its default is in defaults/main.yml"


def described(options: dict[str, dict[str, Any]], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, option in options.items():
        yield above + name, option
        yield from described(option.get("options", {}), f"{above}{name}.")


@pytest.mark.parametrize("role", ROLES)
def test_every_option_has_a_type_and_a_description(role: str) -> None:
    for name, option in described(role_options.options(role)):
        assert option.get("type"), name
        assert str(option.get("description", "")).strip().endswith("."), name


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_has_the_options(role: str) -> None:
    text = (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    assert text == role_options.readme(role), "run `make docs`"


@pytest.mark.parametrize("role", ROLES)
def test_names_start_with_the_role(role: str) -> None:
    settings = role_options.settings()
    for name in role_options.options(role):
        assert name.startswith(f"{role}_") or name in settings
    for path in files(role, "vars"):
        for name in variables(yaml.safe_load(path.read_text(encoding="utf-8"))):
            assert name.startswith(f"__{role}_"), f"{path}: {name}"
    for path, task in all_tasks(role):
        for name in [task[key] for key in ("register",) if key in task] + list(task.get("vars", {})):
            assert name.startswith(f"__{role}_"), f"{path}: {name}"


@pytest.mark.parametrize("role", ROLES)
def test_another_role_is_known_by_its_settings_alone(role: str) -> None:
    settings, own = role_options.settings(), role_options.options(role)
    others = {name: other for other in ROLES for name in role_options.options(other) if name not in own}
    for path in files(role):
        text = path.read_text(encoding="utf-8")
        for name in set(re.findall(r"\b[a-z][a-z0-9_]+\b", text)) & (others.keys() | settings.keys()) - own.keys():
            assert name not in settings, f"{path}: {name} is no option of the role: add it to argument_specs"
            assert name not in others, f"{path}: {name} belongs to {others[name]}"
        for name in re.findall(r"\b__[a-z0-9_]+\b", text):
            assert name.startswith(f"__{role}_"), f"{path}: {name}"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_knows_no_groups_of_an_inventory(role: str) -> None:
    inventory = yaml.safe_load((ROOT / "inventories/lab/hosts.yml").read_text(encoding="utf-8"))
    for path in files(role):
        text = path.read_text(encoding="utf-8")
        for word in (r"\bgroups\b\[", r"\bgroups\.", r"\bgroup_names\b", *inventory):
            assert not re.search(word, text), f"{path}: {word}"


@pytest.mark.parametrize("role", ROLES)
def test_tasks_say_what_failure_is(role: str) -> None:
    for path, task in all_tasks(role):
        assert "ignore_errors" not in task, path
        for module in ("ansible.builtin.command", "ansible.builtin.shell"):
            if module in task:
                told = "changed_when" in task or task[module].keys() & {"creates", "removes"}
                assert told, f"{path}: {task['name']}: when is it changed?"


@pytest.mark.parametrize("role", ROLES)
def test_services_restart_in_handlers_only(role: str) -> None:
    for path in files(role, "tasks"):
        for task in tasks(yaml.safe_load(path.read_text(encoding="utf-8")) or []):
            for module in ("ansible.builtin.systemd_service", "ansible.builtin.service"):
                assert task.get(module, {}).get("state") not in ("restarted", "reloaded"), f"{path}: {task['name']}"


@pytest.mark.parametrize("role", ROLES)
def test_no_injected_facts_and_no_test_for_a_system_in_tasks(role: str) -> None:
    for path in files(role):
        assert not re.search(
            r"\bansible_(distribution|os_family|memtotal|default_ipv4)", path.read_text(encoding="utf-8")
        ), path
    for path, task in all_tasks(role):
        condition = json.dumps([task.get("when"), task.get("failed_when"), task.get("changed_when")])
        assert "distribution" not in condition, f"{path}: {task['name']}: that belongs into vars/<system>_<release>.yml"


@pytest.mark.parametrize("role", ROLES)
def test_no_default_is_a_secret(role: str) -> None:
    for name, value in role_options.defaults(role).items():
        if re.search(r"password|secret|token|key$", name):
            assert not value, name


def test_a_setting_belongs_to_something_that_exists() -> None:
    names = [path.name for folder in ("roles", "src", "stacks") for path in (ROOT / folder).iterdir()]
    for name in role_options.settings():
        # longest first: plcontainer_runtimes is no option of plcontainer
        owner = max((other for other in names if name.startswith(f"{other}_")), key=len, default="")
        assert owner, f"{name}: there is no role or component of that name"
        if owner in ROLES and (ROOT / "roles" / owner / "meta").is_dir():
            assert name in role_options.options(owner), f"{name}: the role {owner} has no such option"


def test_a_setting_is_in_one_file() -> None:
    seen: dict[str, str] = {}
    for file in sorted((ROOT / "settings").glob("*.yml")):
        for name in role_options.load(file):
            assert name not in seen, f"{name}: in {seen[name]} and in {file.name}"
            seen[name] = file.name


def configured() -> Iterator[Path]:
    for folder in ("roles", "playbooks", "inventories", "molecule"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in (".yml", ".j2") and "settings" not in path.parts:
                yield path


def test_ports_are_written_once() -> None:
    ports = {str(value) for value in role_options.load(ROOT / "settings/ports.yml").values() if value}
    for path in configured():
        for number in re.findall(r"\b\d{4,5}\b", path.read_text(encoding="utf-8")):
            assert number not in ports, f"{path}: {number} is in settings/ports.yml"


def test_versions_of_postgresql_are_written_once() -> None:
    versions = role_options.load(ROOT / "settings/versions.yml")["segment_host_postgresql_versions"].values()
    for path in configured():
        for version in versions:
            found = re.search(rf"postgresql[-/@]{version}\b", path.read_text(encoding="utf-8"))
            assert not found, f"{path}: {version} is in settings/versions.yml"


def test_the_protocol_server_takes_what_its_role_writes() -> None:
    schema = json.loads((ROOT / "src/protocol_server/schemas/protocol_server.json").read_text(encoding="utf-8"))
    properties = schema["properties"]
    written = role_options.load(ROOT / "roles/protocol_server/vars/main.yml")["__protocol_server_config"]
    assert written.keys() <= properties.keys()
    for key, expression in written.items():
        name = re.fullmatch(r"\{\{ (\w+) \}\}", expression)
        assert name, key
        assert name[1] in role_options.options("protocol_server")
    # what is not in settings/ is the same with and without the role
    for key, value in role_options.defaults("protocol_server").items():
        plain = key.removeprefix("protocol_server_")
        if plain in properties:
            assert value == properties[plain]["default"], key


def test_the_protocol_server_takes_the_runtimes_that_its_role_writes() -> None:
    schema = json.loads((ROOT / "src/protocol_server/schemas/runtimes.json").read_text(encoding="utf-8"))
    known = schema["$defs"]["runtime"]["properties"]
    options = role_options.options("plcontainer_runtimes")["plcontainer_runtimes_list"]["options"]
    assert set(options) - {"pool_min", "pool_max"} <= known.keys()
    given = role_options.load(ROOT / "settings/limits.yml")["plcontainer_runtimes_defaults"].keys()
    assert given <= options.keys()
    for key in options:
        has_default = key == "command" or "default" in known.get(key, {})
        assert key in given or options[key].get("required") or has_default, f"{key} has no value"


def test_both_ends_look_for_the_socket_at_the_same_place() -> None:
    socket = role_options.defaults("protocol_server")["protocol_server_socket"]
    assert f'"{socket}"' in (ROOT / "src/plcontainer/plcontainer.c").read_text(encoding="utf-8")


def test_a_scenario_changes_every_option() -> None:
    changed = role_options.load(ROOT / "molecule/everything_changed/inventory/group_vars/segment_hosts.yml")
    settings = {
        key: value for file in (ROOT / "settings").glob("*.yml") for key, value in role_options.load(file).items()
    }
    playbook = role_options.load(ROOT / "playbooks/site.yml")
    for role in (entry["role"] for play in playbook for entry in play["roles"]):
        usual = settings | role_options.defaults(role)
        for name in role_options.options(role):
            assert name in changed, f"{name}: molecule/everything_changed leaves it as it is"
            assert changed[name] != usual[name] or name in THE_ONLY_ONE, (
                f"{name}: molecule/everything_changed has its default"
            )


def test_a_scenario_changes_every_option_of_kubernetes() -> None:
    folder = ROOT / "molecule/kubernetes_changed/inventory/group_vars"
    changed = role_options.load(folder / "kubernetes_control_planes.yml") | role_options.load(
        folder / "kubernetes_nodes.yml"
    )
    settings = {
        key: value for file in (ROOT / "settings").glob("*.yml") for key, value in role_options.load(file).items()
    }
    roles, elsewhere = (
        {
            entry["role"]
            for name in names
            for play in role_options.load(ROOT / "playbooks" / name)
            for entry in play.get("roles", [])
        }
        for names in (("kubernetes.yml", "kubernetes_control_planes.yml"), ("site.yml",))
    )
    seen = set()
    for role in sorted(roles - elsewhere):
        usual = settings | role_options.defaults(role)
        for name in role_options.options(role):
            seen.add(name)
            if name not in LEFT_IN_KUBERNETES:
                assert name in changed, f"{name}: molecule/kubernetes_changed leaves it as it is"
                assert changed[name] != usual[name], f"{name}: molecule/kubernetes_changed has its default"
    assert seen >= LEFT_IN_KUBERNETES.keys()


def test_the_example_inventory_names_options_that_exist() -> None:
    options = {name: option for role in ROLES for name, option in role_options.options(role).items()}
    folder = ROOT / "inventories/example"
    groups = role_options.load(folder / "hosts.yml")
    hosts = [host for group in groups.values() for host in group["hosts"].values()]
    named = [
        *(role_options.load(folder / f"group_vars/{group}.yml") for group in groups),
        *(host for host in hosts if host),
    ]
    for name in {name for given in named for name in given}:
        assert name in options, name


@pytest.mark.parametrize("inventory", ["inventories/lab", "inventories/example", "molecule/default/inventory"])
def test_every_inventory_has_the_settings(inventory: str) -> None:
    assert (ROOT / inventory / "group_vars/all/settings").resolve() == ROOT / "settings"
