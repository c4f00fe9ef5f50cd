# SPDX-License-Identifier: LGPL-2.1-only
"""The record of an attached VDI: the domains that attached and activated it, and what serves them. A boot removes it.

The file `<SR's directory>/<vdi>.json` is written atomically before each step that it records. Only the holder of the
VDI's lock writes it. A domain attaches the VDI, then activates it and so gets a lease, for reading or for writing. A
VDI has many readers or one writer; a sharable VDI may have many of both.

The name of a domain says what it is: a guest's id, `u0_…` (or `0`) for dom0, anything else for storage migration.
"""

import json
import os

from zfsvol import naming
from zfsvol.errors import StorageError
from zfsvol.host import files, lock
from zfsvol.repository.sr import LET_GO, SR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

READ = "ro"
WRITE = "rw"

# How a domain accesses the VDI: by the zvol's own device node, or by a tapdisk that has it open.
NODE = "node"
TAPDISK = "tapdisk"

_SUFFIX = ".json"


class Record:
    """The record of a VDI."""

    def __init__(self, sr: SR, key: str, content: "dict[str, Any]") -> None:
        self.sr = sr
        self.key = key
        # The zvol's settings when the first domain attached it.
        self.readonly: bool = content.get("readonly", False)
        self.sharable: bool = content.get("sharable", False)
        self.datapath: str = content.get("datapath", TAPDISK)
        self.node: "str | None" = content.get("node")
        self.attached: "dict[str, str]" = content.get("attached", {})  # domain: TAPDISK, or the node that it was given
        self.active: "dict[str, str]" = content.get("active", {})  # domain: READ or WRITE; all are attached
        self.tapdisk: "dict[str, Any] | None" = content.get("tapdisk")  # see host.tapdisk

    @property
    def path(self) -> str:
        """The path of the record."""
        return _path(self.sr, self.key)

    @property
    def let_go(self) -> str:
        """The path of the file that says that a storage migration was detached without having attached: see `moved`."""
        return os.path.join(self.sr.directory, LET_GO, self.key)

    @property
    def zvol(self) -> str:
        """The VDI's zvol."""
        return self.sr.volume(self.key)

    def save(self) -> None:
        """Writes the record atomically."""
        names = ("readonly", "sharable", "datapath", "node", "attached", "active", "tapdisk")
        files.write(self.path, json.dumps({name: getattr(self, name) for name in names}))

    def forget(self) -> None:
        """Removes the record. Idempotent."""
        files.remove(self.path)

    def way(self, domain: str) -> str:
        """How a domain that has attached the VDI accesses it: NODE or TAPDISK."""
        return TAPDISK if self.attached[domain] == TAPDISK else NODE

    def users(self, way: str) -> "list[str]":
        """The domains that have activated the VDI and access it in this way."""
        return [domain for domain in self.active if self.way(domain) == way]

    def obstacles(self, domain: str, mode: str) -> "list[str]":
        """The domains whose leases exclude a lease of this mode for this domain."""
        if self.sharable:
            return []
        return [other for other, others_mode in self.active.items() if other != domain and WRITE in (mode, others_mode)]

    def summary(self) -> str:
        """The whole record in words, for a bug report."""
        words = [
            f"{called(domain)} has {given}, {self.active.get(domain, 'not active')}"
            for domain, given in sorted(self.attached.items())
        ]
        if self.tapdisk is not None:
            words.append("tapdisk {} at minor {}".format(self.tapdisk.get("pid"), self.tapdisk.get("minor")))
        return "; ".join(words)

    def holders(self, domains: "list[str]") -> str:
        """The domains and their modes, in words for the administrator."""
        modes = {READ: "for reading", WRITE: "for writing"}
        return ", ".join(f"{called(domain)} {modes[self.active[domain]]}" for domain in sorted(domains))


def is_dom0(domain: str) -> bool:
    """Whether it is dom0 itself: a copy, an export, an import, a backup."""
    return domain == "0" or domain.startswith(("u0_", "u0-"))


def is_guest(domain: str) -> bool:
    """Whether it is a guest's id."""
    return domain.isdigit() and domain != "0"


def is_migration(domain: str) -> bool:
    """Whether it is a storage migration's name for itself."""
    return bool(domain) and not is_dom0(domain) and not is_guest(domain)


def called(domain: str) -> str:
    """The domain, in words."""
    if is_guest(domain):
        return f"the VM with domain id {domain}"
    return f"dom0 ({domain})" if is_dom0(domain) else f"a storage migration ({domain})"


def _path(sr: SR, key: str) -> str:
    return os.path.join(sr.directory, key + _SUFFIX)


def exists(sr: SR, key: str) -> bool:
    """Whether the VDI has a record."""
    return os.path.exists(_path(sr, key))


def read(sr: SR, key: str) -> Record:
    """The VDI's record; an empty one if nobody has attached it. Raises StorageError if it is damaged."""
    path = _path(sr, key)
    try:
        content = files.text(path)
    except FileNotFoundError:
        return Record(sr, key, {})
    try:
        return Record(sr, key, json.loads(content))
    except (ValueError, AttributeError) as error:
        raise StorageError(
            f"{path}, the record of the users of the VDI {key}, is damaged: {error}. If no VM and no other program "
            "uses the disk, remove the file."
        ) from None


def all_of(sr: SR) -> "list[str]":
    """The VDIs of the SR that have a record."""
    names = {name.partition(".")[0] for name in files.names(sr.directory)}
    return sorted(name for name in names if naming.is_uuid(name))


class Locked:
    """The record of a VDI for a `with` that holds the VDI's lock; commands inherit the lock."""

    def __init__(self, sr: SR, key: str, limit: float = lock.VDI_LIMIT) -> None:
        """`limit`: seconds to wait for the lock."""
        self._sr = sr
        self._key = key
        self._held = sr.vdi_locked(key, limit)

    def __enter__(self) -> Record:
        """Raises LockTimeout, StorageError (the record is damaged)."""
        self._held.__enter__()
        try:
            return read(self._sr, self._key)
        except StorageError:
            self._held.__exit__()
            raise

    def __exit__(self, *_exception: object) -> None:
        self._held.__exit__()
