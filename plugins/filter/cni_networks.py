"""What the role cni_plugins makes of its list of networks: what speaks against it, and the files that CNI reads.

Pure functions: addresses are compared over all hosts of a run before any host is touched.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

CNI_VERSION = "1.0.0"
"""What the plugins of all supported releases speak."""

_BRIDGE_ONLY = ("portmap", "firewall", "bandwidth", "gateway", "masquerade", "default_route")
_MIN_BURST_BITS = 8 * 128 * 1024
_BURST_S = 0.1
_INTERFACE_LENGTH = 15

Network = Mapping[str, Any]
Ranges = Mapping[str, Mapping[str, Any]]
Block = tuple[int, int, int]
"""IP version, first and last address."""


def _interface(network: Network) -> str:
    return str(network.get("interface") or f"cni-{network['name']}")


def _option(network: Network, name: str) -> bool:
    """Return an option of a bridge; they are on unless they are off."""
    return network["type"] == "bridge" and bool(network.get(name, name in ("gateway", "portmap", "firewall")))


def _family(address: str) -> int:
    return ipaddress.ip_network(address, strict=False).version


def host_range(network: Network, ranges: Ranges) -> dict[str, str]:
    """Return what a host has of a network: subnet, and first and last address and the gateway where they are said.

    Raises ValueError with the reason when it is no part of the network.
    """
    own = ranges.get(network["name"], {})
    if unknown := own.keys() - {"subnet", "start", "end", "gateway"}:
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
    whole = ipaddress.ip_network(network["subnet"])
    subnet = ipaddress.ip_network(own.get("subnet", network["subnet"]))
    if subnet.version != whole.version or not subnet.subnet_of(whole):  # type: ignore[arg-type]
        raise ValueError(f"{subnet} is outside of {whole}")
    found = {"subnet": str(subnet)}
    for key in ("start", "end", "gateway"):
        if key in own:
            if ipaddress.ip_address(own[key]) not in subnet:
                raise ValueError(f"{key} {own[key]} is outside of {subnet}")
            found[key] = str(own[key])
    first, last = _ends(found)
    if first > last:
        raise ValueError(f"start {found['start']} lies behind end {found['end']}")
    return found


def _ends(own: Mapping[str, str]) -> tuple[int, int]:
    """Return the first and the last address that pods of a host may get."""
    subnet = ipaddress.ip_network(own["subnet"])
    first, last = int(subnet.network_address) + 1, int(subnet.broadcast_address) - (1 if subnet.version == 4 else 0)
    return (
        int(ipaddress.ip_address(own["start"])) if "start" in own else first,
        int(ipaddress.ip_address(own["end"])) if "end" in own else last,
    )


def _usable(own: Mapping[str, str], number: int) -> list[str]:
    """Return the first addresses that pods of a host may get, ``number`` at most. A gateway's is none of them."""
    subnet = ipaddress.ip_network(own["subnet"])
    address = ipaddress.IPv4Address if subnet.version == 4 else ipaddress.IPv6Address
    gateway = int(ipaddress.ip_address(own["gateway"])) if "gateway" in own else int(subnet.network_address) + 1
    first, last = _ends(own)
    found = (str(address(one)) for one in range(first, last + 1) if one != gateway)
    return list(itertools.islice(found, number))


def _problems_of(network: Network) -> Iterator[str]:
    name = str(network.get("name", ""))
    kind = network.get("type")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
        yield "a name is lower-case letters, digits and -, 40 at most"
    if kind not in ("bridge", "macvlan", "host-device", "sriov"):
        yield f"type {kind} is none of bridge, macvlan, host-device, sriov"
        return
    if len(_interface({**network, "name": name})) > _INTERFACE_LENGTH:
        yield f"interface {_interface(network)} has more than {_INTERFACE_LENGTH} characters: name a shorter one"
    if kind != "bridge":
        if not network.get("interface"):
            yield f"a network of type {kind} needs an interface of the host"
        if given := [option for option in _BRIDGE_ONLY if network.get(option)]:
            yield f"{', '.join(given)}: only networks of type bridge have that"
    if kind in ("host-device", "sriov") and network.get("every_pod"):
        yield f"a device of type {kind} serves one pod at a time, so not every pod can have it"
    if (kind == "sriov") != bool(network.get("vfs")):
        yield "vfs is the number of virtual functions of a network of type sriov, and only of such"
    if network.get("subnet"):
        try:
            ipaddress.ip_network(network["subnet"])
        except ValueError as error:
            yield f"subnet: {error}"
    elif kind == "bridge":
        yield "a network of type bridge needs a subnet"


def _problems_of_list(networks: Sequence[Network]) -> Iterator[str]:
    names = [str(network.get("name", "")) for network in networks]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"network {name} is there twice"
    for network, name in zip(networks, names, strict=True):
        for problem in _problems_of(network):
            yield f"network {name}: {problem}"
    if not any(network.get("every_pod") for network in networks):
        yield "no network has every_pod: true, so pods would have none"
    used = [network.get("interface") for network in networks if network.get("type") == "sriov"]
    for interface in sorted({str(one) for one in used if one and used.count(one) > 1}):
        yield f"interface {interface}: one network of type sriov for each interface"


def _blocks(host: str, networks: Sequence[Network], ranges: Ranges, problems: list[str]) -> dict[str, Block]:
    found: dict[str, Block] = {}
    unknown = sorted(ranges.keys() - {network["name"] for network in networks if network.get("subnet")})
    problems += [f"{host}: a range for {name}, and there is no such network with a subnet" for name in unknown]
    for network in networks:
        if not network.get("subnet"):
            continue
        try:
            own = host_range(network, ranges)
        except ValueError as error:
            problems.append(f"{host}: range of {network['name']}: {error}")
            continue
        first, last = _ends(own)
        if network["type"] == "sriov" and len(_usable(own, network["vfs"])) < network["vfs"]:
            problems.append(f"{host}: range of {network['name']} has fewer addresses than virtual functions")
        found[f"{network['name']} of {host}"] = (_family(own["subnet"]), first, last)
    return found


def cni_problems(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what speaks against the networks of hosts, one line each.

    ``hosts`` has ``networks`` and ``ranges`` of each host by its name.
    """
    problems: list[str] = []
    blocks: dict[str, Block] = {}
    for host, given in hosts.items():
        networks = [dict(network) for network in given["networks"]]
        wrong = list(_problems_of_list(networks))
        problems += [line for line in wrong if line not in problems]
        if not wrong:
            blocks |= _blocks(host, networks, given["ranges"], problems)
    reaching: tuple[str, Block] | None = None
    for other, block in sorted(blocks.items(), key=lambda item: item[1]):
        if reaching and reaching[1][0] == block[0] and block[1] <= reaching[1][2]:
            problems.append(
                f"the ranges of {reaching[0]} and of {other} overlap: "
                "give each host ranges of its own (cni_plugins_ranges)"
            )
        if not reaching or (block[0], block[2]) > (reaching[1][0], reaching[1][2]):
            reaching = (other, block)
    return problems


def cni_hosts(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Sequence[str], usual: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return what cni_problems compares: networks and ranges of a run's hosts, and of all others that have ranges."""
    found = {}
    for host in hostvars:
        given = hostvars[host]
        if host in hosts or given.get("cni_plugins_ranges"):
            found[host] = {key: given.get(f"cni_plugins_{key}", value) for key, value in usual.items()}
    return found


def _ipam(network: Network, own: Mapping[str, str], data: str) -> dict[str, Any]:
    keys = {"start": "rangeStart", "end": "rangeEnd"}
    found: dict[str, Any] = {
        "type": "host-local",
        "dataDir": data,
        "ranges": [[{keys.get(key, key): value for key, value in own.items()}]],
    }
    routes = [dict(route) for route in network.get("routes") or []]
    if network["type"] == "bridge" and network.get("default_route"):
        routes.insert(0, {"dst": "0.0.0.0/0" if _family(own["subnet"]) == 4 else "::/0"})
    if routes:
        found["routes"] = routes
    return found


def _rate(megabits: float) -> tuple[int, int]:
    """Return a rate in bits a second and the burst (bits) that goes with it."""
    rate = int(megabits * 1_000_000)
    return rate, max(int(rate * _BURST_S), _MIN_BURST_BITS)


def _bandwidth(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plugin that limits pods: with rates all of them alike, without only those that ask for it."""
    found: dict[str, Any] = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    for direction in ("ingress", "egress"):
        if wanted.get(f"{direction}_mbit"):
            found[f"{direction}Rate"], found[f"{direction}Burst"] = _rate(float(wanted[f"{direction}_mbit"]))
    return found


def _main_plugin(network: Network) -> dict[str, Any]:
    interface, kind = _interface(network), network["type"]
    if kind == "bridge":
        plugin = {
            "type": "bridge",
            "bridge": interface,
            "isGateway": _option(network, "gateway"),
            "ipMasq": bool(network.get("masquerade")),
            # a pod reaches itself through a port that is mapped to it
            "hairpinMode": _option(network, "portmap"),
        }
    elif kind == "macvlan":
        plugin = {"type": "macvlan", "master": interface, "mode": network.get("mode") or "bridge"}
    else:
        plugin = {"type": "host-device", "device": interface}
    if network.get("mtu") and kind != "host-device":
        plugin["mtu"] = int(network["mtu"])
    return plugin


def _plugins(network: Network, own: Mapping[str, str], data: str) -> list[dict[str, Any]]:
    plugin = _main_plugin(network)
    if own:
        plugin["ipam"] = _ipam(network, own, data)
    chain = [{**plugin, **(network.get("settings") or {})}]
    if _option(network, "firewall"):
        chain.append({"type": "firewall", "backend": "iptables"})
    if _option(network, "portmap"):
        chain.append({"type": "portmap", "capabilities": {"portMappings": True}, "snat": True})
    if network["type"] == "bridge" and network.get("bandwidth") is not None:
        chain.append(_bandwidth(network["bandwidth"]))
    return chain


def _virtual_functions(network: Network, own: Mapping[str, str], addresses: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a network for each virtual function; where there are none, one that shares the interface instead."""
    for index in range(int(network["vfs"])):
        part = {**own}
        if own:
            # each has a store of its own of addresses that are in use, so each has its own address
            part["start"] = part["end"] = _usable(own, int(network["vfs"]))[index]
        if addresses:
            one = {**network, "type": "host-device"}
            device: dict[str, Any] = {"device": None, "pciBusID": addresses[index]}
        else:
            one, device = {**network, "type": "macvlan"}, {}
        settings = {**device, **(network.get("settings") or {})}
        yield {**one, "name": f"{network['name']}-vf{index}", "settings": settings, "own": part}


def _lists(
    networks: Sequence[Network], ranges: Ranges, functions: Mapping[str, list[str]], data: str
) -> Iterator[tuple[Network, dict[str, Any]]]:
    for network in networks:
        own = host_range(network, ranges) if network.get("subnet") else {}
        several = network["type"] == "sriov"
        for one in _virtual_functions(network, own, functions.get(_interface(network), [])) if several else [network]:
            plugins = _plugins(one, one.get("own", own), data)
            plugins[0] = {key: value for key, value in plugins[0].items() if value is not None}
            yield network, {"cniVersion": CNI_VERSION, "name": one["name"], "plugins": plugins}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def cni_files(
    networks: Sequence[Network],
    ranges: Ranges,
    functions: Mapping[str, list[str]] | None = None,
    *,
    directory: str,
    multus_directory: str,
    bin_directory: str,
    state_directory: str,
    kubeconfig: str = "",
    multus_settings: Mapping[str, Any] | None = None,
    between_nodes: str = "",
) -> list[dict[str, str]]:
    """Return the files, ``path`` and ``text`` each: the networks that pods ask for by name, then what containerd reads.

    ``functions`` has the PCI addresses of the virtual functions of an interface, by its name. ``between_nodes`` is the
    network that something else carries from node to node: that masquerades what leaves it, and nothing on the way.
    """
    networks = [
        {**network, "masquerade": network.get("masquerade") and network["name"] != between_nodes}
        for network in networks
    ]
    lists = list(_lists(networks, ranges, functions or {}, f"{state_directory}/networks"))
    delegates = [found for network, found in lists if network.get("every_pod")]
    capabilities = {
        name: True for one in delegates for plugin in one["plugins"] for name in plugin.get("capabilities", {})
    }
    multus: dict[str, Any] = {
        "cniVersion": CNI_VERSION,
        "name": "multus",
        "type": "multus",
        "binDir": bin_directory,
        "cniDir": f"{state_directory}/multus",
        "confDir": multus_directory,
        "logLevel": "error",
        "logToStderr": True,
        "delegates": delegates,
    }
    if capabilities:
        multus["capabilities"] = capabilities
    if kubeconfig:
        multus["kubeconfig"] = kubeconfig
    multus |= multus_settings or {}
    files = [
        {"path": f"{multus_directory}/{found['name']}.conflist", "text": _json(found)}
        for network, found in lists
        if not network.get("every_pod")
    ]
    # containerd takes the first by name and no other (max_conf_num = 1)
    return [*files, {"path": f"{directory}/00-multus.conf", "text": _json(multus)}]


def cni_functions(networks: Sequence[Network]) -> dict[str, int]:
    """Return how many virtual functions each interface needs, by its name."""
    return {_interface(network): int(network["vfs"]) for network in networks if network["type"] == "sriov"}


def cni_udev_rules(functions: Mapping[str, list[str]], devices: Mapping[str, str]) -> str:
    """Return udev's rules that make virtual functions again when an interface appears, at the start of the host."""
    lines = ["# Virtual functions of network interfaces, as the role cni_plugins made them."]
    for name in sorted(functions):
        device = f'ACTION=="add", SUBSYSTEM=="net", KERNELS=="{devices[name]}"'
        lines.append(f'{device}, ATTR{{device/sriov_numvfs}}="{len(functions[name])}"')
    return "\n".join(lines) + "\n"


class FilterModule:
    """Filters of the role cni_plugins."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {
            "cni_files": cni_files,
            "cni_functions": cni_functions,
            "cni_hosts": cni_hosts,
            "cni_problems": cni_problems,
            "cni_udev_rules": cni_udev_rules,
        }
