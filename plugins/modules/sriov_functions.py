#!/usr/bin/python
"""Tell what a host's network interfaces have of SR-IOV, and make virtual functions."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sriov_functions
short_description: Probe SR-IOV and make virtual functions of network interfaces
description:
  - Tells in which of four states a host is. C(unsupported_kernel) is one whose kernel knows nothing of SR-IOV,
    C(no_device) one in which an interface that is asked for can't have virtual functions, C(device_no_vfs) one in
    which it could and has none, C(ready) one in which all have some.
  - Gives interfaces the number of virtual functions that is wanted. The number does not outlive a restart of the host.
options:
  interfaces:
    description: How many virtual functions each interface is to have, by its name. Empty looks at all and changes none.
    type: dict
    default: {}
  required:
    description: Fail unless the host is ready in the end.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author:
  - Caisson
"""

EXAMPLES = r"""
- name: Make virtual functions
  sriov_functions:
    interfaces: {enp1s0: 3}
    required: true
  register: sriov
"""

RETURN = r"""
state:
  description: The state at the end, C(ready) with the number of virtual functions, as C(ready(3)).
  returned: always
  type: str
devices:
  description: PCI address of each interface of I(interfaces) that has virtual functions, by its name.
  returned: always
  type: dict
functions:
  description: PCI addresses of the virtual functions of each interface of I(interfaces), by its name.
  returned: always
  type: dict
nics:
  description: All network interfaces that are devices, one line each.
  returned: always
  type: list
  elements: str
"""

import gzip
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

ROOT = Path("/")


class RefusedError(Exception):
    """What is wanted can't be had; the message says why and what to do."""


@dataclass
class Nic:
    """A network interface that is a PCI device, or another device (then without an address)."""

    name: str
    address: str
    driver: str
    device: Path
    total: int
    """Virtual functions that it may have; 0 where it knows nothing of them."""
    number: int
    """Those that it has."""

    def line(self) -> str:
        """Return what to tell of it."""
        able = f"{self.number} of {self.total} virtual functions" if self.total else "no SR-IOV"
        return f"{self.name} ({', '.join(part for part in (self.driver, self.address, able) if part)})"

    def functions(self) -> list[str]:
        """Return the PCI addresses of its virtual functions, in their order."""
        links = [link for link in self.device.glob("virtfn*") if link.name.removeprefix("virtfn").isdigit()]
        links.sort(key=lambda link: int(link.name.removeprefix("virtfn")))
        return [link.resolve().name for link in links]

    def functions_to_come(self, number: int) -> list[str]:
        """Return the addresses that ``number`` virtual functions would have; they follow from what the device says."""
        domain, bus, place = self.address.split(":")
        slot, _, function = place.partition(".")
        own = int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)
        offset, stride = _number(self.device / "sriov_offset"), _number(self.device / "sriov_stride")
        ids = [own + offset + stride * index for index in range(number)]
        return [f"{domain}:{one >> 8:02x}:{one >> 3 & 31:02x}.{one & 7}" for one in ids]

    def in_use(self) -> list[str]:
        """Return the virtual functions that a driver has and whose interface is in another network namespace."""
        found = []
        for link in self.device.glob("virtfn*"):
            driver = link / "driver"
            # vfio has no interfaces at all: whoever has the device has it all
            if driver.is_symlink() and not any((link / "net").glob("*")):
                found.append(link.resolve().name)
        return sorted(found)


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def nics(root: Path = ROOT) -> list[Nic]:
    """Return the network interfaces that are devices, virtual functions excepted."""
    found = []
    for interface in sorted((root / "sys/class/net").glob("*")):
        device = interface / "device"
        if not device.exists() or (device / "physfn").exists():
            continue
        device = device.resolve()
        driver = device / "driver"
        found.append(
            Nic(
                name=interface.name,
                address=device.name if re.fullmatch(r"[0-9a-f]{4,}(:[0-9a-f]{2}){2}\.[0-7]", device.name) else "",
                driver=driver.readlink().name if driver.is_symlink() else "",
                device=device,
                total=_number(device / "sriov_totalvfs"),
                number=_number(device / "sriov_numvfs"),
            )
        )
    return found


def kernel_supports(root: Path = ROOT) -> bool:
    """Tell whether the kernel knows SR-IOV: a device shows it, or the kernel's configuration or its symbols do."""
    if next((root / "sys/bus/pci/devices").glob("*/sriov_totalvfs"), None):
        return True
    kernel = root / "proc/sys/kernel/osrelease"
    release = kernel.read_text(encoding="ascii").strip() if kernel.is_file() else ""
    for path in (root / "proc/config.gz", root / "boot" / f"config-{release}"):
        if path.is_file():
            raw = path.read_bytes()
            return b"\nCONFIG_PCI_IOV=y" in (gzip.decompress(raw) if path.suffix == ".gz" else raw)
    symbols = root / "proc/kallsyms"
    if not symbols.is_file():
        return False
    with symbols.open(encoding="ascii", errors="replace") as lines:
        return any(line.split()[2:3] == ["pci_enable_sriov"] for line in lines)


def state(supported: bool, wanted: list[Nic]) -> str:
    """Return which of the four states interfaces are in."""
    if not supported:
        return "unsupported_kernel"
    able = [nic for nic in wanted if nic.total]
    if not able or len(able) < len(wanted):
        return "no_device"
    if any(not nic.number for nic in able):
        return "device_no_vfs"
    return f"ready({sum(nic.number for nic in able)})"


def check_number(nic: Nic, number: int) -> None:
    """Refuse numbers of virtual functions that an interface can't have. Raises RefusedError."""
    if number > nic.total:
        raise RefusedError(
            f"{nic.name} has {nic.total} virtual functions at most (sriov_totalvfs), {number} are asked for: "
            "ask for fewer"
        )
    if nic.number not in (0, number) and (used := nic.in_use()):
        raise RefusedError(
            f"{nic.name} has {nic.number} virtual functions and is to have {number}, which takes all of them away "
            f"first, but {', '.join(used)} are in use: move the pods away that use them"
        )


def write_number(nic: Nic, number: int) -> None:
    """Give an interface virtual functions. It goes from one number to another by 0 only. Raises RefusedError."""
    path = nic.device / "sriov_numvfs"
    try:
        if nic.number and number:
            path.write_text("0", encoding="ascii")
        path.write_text(str(number), encoding="ascii")
    except OSError as error:
        raise RefusedError(
            f"{nic.name}: the kernel refuses {number} virtual functions: {os.strerror(error.errno or 0)}"
        ) from None
    nic.number = _number(path)
    if nic.number != number:
        raise RefusedError(f"{nic.name} has {nic.number} virtual functions, {number} were asked for")


def wanted_nics(found: list[Nic], interfaces: dict[str, int]) -> list[Nic]:
    """Return the interfaces that are asked for, all where none is; one that is not there can do nothing."""
    by_name = {nic.name: nic for nic in found}
    if not interfaces:
        return [nic for nic in found if nic.total]
    missing = Path("/nonexistent")
    return [by_name.get(name, Nic(name, "", "", missing, total=0, number=0)) for name in interfaces]


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "interfaces": {"type": "dict", "default": {}},
            "required": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    interfaces = {name: int(number) for name, number in module.params["interfaces"].items()}
    found, supported = nics(ROOT), kernel_supports(ROOT)
    wanted = wanted_nics(found, interfaces)
    lines = [nic.line() for nic in found]
    changed, functions = False, {}
    try:
        for nic in wanted:
            number = interfaces.get(nic.name, nic.number)
            if supported and nic.total:
                check_number(nic, number)
        for nic in wanted:
            number = interfaces.get(nic.name, nic.number)
            if not supported or not nic.total:
                continue
            if nic.number != number:
                changed = True
                if not module.check_mode:
                    write_number(nic, number)
            here = nic.functions()
            functions[nic.name] = here if len(here) == number else nic.functions_to_come(number)
            nic.number = number
    except RefusedError as error:
        module.fail_json(msg=str(error), nics=lines, state=state(supported, wanted))
    now = state(supported, wanted)
    if module.params["required"] and not now.startswith("ready"):
        asked = ", ".join(interfaces) or "any interface"
        has = "; ".join(lines) or "none that is a device"
        module.fail_json(
            msg=f"SR-IOV is required of {asked}, and this host is {now}. Its network interfaces: {has}",
            nics=lines,
            state=now,
        )
    devices = {nic.name: nic.address for nic in wanted if nic.name in functions}
    module.exit_json(changed=changed, state=now, nics=lines, functions=functions, devices=devices)


if __name__ == "__main__":
    main()
