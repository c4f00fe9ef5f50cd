# SPDX-License-Identifier: LGPL-2.1-only
"""Who uses a VDI, and what serves it to them: a record for each VDI that is attached, until the host boots.

`/var/run/nonpersistent/zfs-vol/<sr>/<vdi>.json`, written whole before each step that it tells of. Only the holder of
the VDI's lock reads or writes it. A domain first attaches the VDI, then activates it: that is the lease, for reading or
for writing, by many readers or one writer (a sharable VDI: many of both).

What a domain is, its name tells: a guest's id, `u0_…` (or `0`) in dom0, anything else for storage migration.
"""

import json
import os

from zfsvol import files
from zfsvol.errors import StorageError
from zfsvol.naming import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DIRECTORY = "/var/run/nonpersistent/zfs-vol"

READ = "ro"
WRITE = "rw"

# What a domain is given: the zvol's own device node, or a tapdisk that has it open.
NODE = "node"
TAPDISK = "tapdisk"


class Lease:
    """The record of a VDI."""

    def __init__(self, root: Root, key: str, record: "dict[str, Any]") -> None:
        self.root = root
        self.key = key
        # What the first to attach has found: is it a snapshot, may several write, which datapath does the SR have.
        self.readonly: bool = record.get("readonly", False)
        self.sharable: bool = record.get("sharable", False)
        self.datapath: str = record.get("datapath", TAPDISK)
        self.node: "str | None" = record.get("node")
        self.attached: "dict[str, str]" = record.get("attached", {})  # domain: TAPDISK, or the node that it was given
        self.active: "dict[str, str]" = record.get("active", {})  # domain: READ or WRITE; all are attached
        self.tapdisk: "dict[str, Any] | None" = record.get("tapdisk")  # see tapdisk

    @property
    def path(self) -> str:
        """Where the record is."""
        return _path(self.root, self.key)

    @property
    def zvol(self) -> str:
        """The VDI's zvol."""
        return self.root.volume(self.key)

    def save(self) -> None:
        """Writes the record; a crash leaves it as it was or as it is."""
        names = ("readonly", "sharable", "datapath", "node", "attached", "active", "tapdisk")
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        temporary = files.unfinished(self.path)
        with open(temporary, "w") as file:
            json.dump(dict({name: getattr(self, name) for name in names}, dataset=self.root.dataset), file)
        os.rename(temporary, self.path)

    def forget(self) -> None:
        """Removes the record. Idempotent."""
        files.remove(self.path)

    def way(self, domain: str) -> str:
        """How a domain that has attached the VDI is given it: NODE or TAPDISK."""
        return TAPDISK if self.attached[domain] == TAPDISK else NODE

    def users(self, way: str) -> "list[str]":
        """The domains that have activated the VDI and are given it in this way."""
        return [domain for domain in self.active if self.way(domain) == way]

    def obstacles(self, domain: str, mode: str) -> "list[str]":
        """The domains whose leases forbid one for this domain."""
        if self.sharable:
            return []
        return [other for other, others_mode in self.active.items() if other != domain and WRITE in (mode, others_mode)]

    def summary(self) -> str:
        """All of it, for a bug report."""
        words = [
            f"{called(domain)} has {given}, {self.active.get(domain, 'not active')}"
            for domain, given in sorted(self.attached.items())
        ]
        if self.tapdisk is not None:
            words.append("tapdisk {} at minor {}".format(self.tapdisk.get("pid"), self.tapdisk.get("minor")))
        return "; ".join(words)

    def holders(self, domains: "list[str]") -> str:
        """In words for the administrator: who has the VDI, and how."""
        modes = {READ: "for reading", WRITE: "for writing"}
        return ", ".join(f"{called(domain)} {modes[self.active[domain]]}" for domain in sorted(domains))


def is_dom0(domain: str) -> bool:
    """Whether the VDI is for dom0 itself: a copy, an export, an import, a backup."""
    return domain == "0" or domain.startswith(("u0_", "u0-"))


def is_guest(domain: str) -> bool:
    """Whether it is a guest's id."""
    return domain.isdigit() and domain != "0"


def called(domain: str) -> str:
    """A domain, in words."""
    if is_guest(domain):
        return f"the VM with domain id {domain}"
    return f"dom0 ({domain})" if is_dom0(domain) else f"a storage migration ({domain})"


def directory(root: Root) -> str:
    """Where the records of the SR's VDIs are."""
    return os.path.join(DIRECTORY, root.uuid)


def _path(root: Root, key: str) -> str:
    return os.path.join(directory(root), key + ".json")


def exists(root: Root, key: str) -> bool:
    """Whether anybody has attached the VDI."""
    return os.path.exists(_path(root, key))


def read(root: Root, key: str) -> Lease:
    """The VDI's record; an empty one where nobody has attached it. Raises StorageError for one that is damaged."""
    path = _path(root, key)
    try:
        with open(path) as file:
            return Lease(root, key, json.load(file))
    except FileNotFoundError:
        return Lease(root, key, {})
    except (ValueError, AttributeError) as error:
        raise StorageError(
            f"{path}, which tells who uses the VDI {key}, is damaged: {error}. If no VM and no other program uses the "
            "disk, remove the file."
        ) from None


def all_of(root: Root) -> "list[str]":
    """The VDIs of the SR that somebody has attached."""
    try:
        names = os.listdir(directory(root))
    except FileNotFoundError:
        return []
    return sorted({name.partition(".")[0] for name in names})
