# SPDX-License-Identifier: LGPL-2.1-only
"""The families of an SR's disks: which zvol was made from which, and how much space each uses. Pure except `read`.

Every VDI, snapshot or not, is a zvol. A VDI made from another is a ZFS clone of a ZFS snapshot of it. That snapshot is
named by the uuid of the VDI it was made for, and exists as long as it has a clone. A removed VDI that others were made
from is renamed. So an SR's root holds nothing but:

  <uuid>              a VDI; it has the property zfsvol:name
  <zvol>@<uuid>       a ZFS snapshot with at least one clone; `zfs hold` may keep it longer
  <zvol>@mirror-<operation>-<n>   while a disk is copied to another SR: what is copied; the job's snapshots
  <zvol>@<other>      a snapshot of another program or person
  .gone-<uuid>.<n>    a removed VDI with at least one such snapshot; it has the property zfsvol:removed
  .revert-<uuid>      during Volume.revert, data_destroy and compose: the zvol that becomes the VDI; if there is no
                      other, it is the VDI
  <zvol>#cbt-<uuid>   the moment of a snapshot whose data was destroyed; the VDI's property zfsvol:cbt-metadata names it
"""

import re

from zfsvol import naming
from zfsvol.naming import Root
from zfsvol.repository import vdi
from zfsvol.repository.sr import SR
from zfsvol.zfs import datasets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# Bytes. A clone, or a zvol after a rollback, that was not written to has less than this of its own: metadata.
EMPTY_CLONE = 64 << 10

_GIB = 1 << 30
_MIB = 1 << 20

# The names of other programs' snapshots: autosnap_2026-11-26_12:00:00_daily, syncoid_host_2026-…, zrepl_2026….
_SERIES = r"^([^\d@]*?[_-])?.*\d.*$"


class Family:
    """All datasets below an SR's root, by their names without the root's, with their properties."""

    def __init__(self, root: Root, found: "dict[str, dict[str, str]]", mirrors: "Callable[[], set[str]]" = set) -> None:
        """`mirrors`: the operations of the mirror jobs that live."""
        self.root = root
        self.zvols = {name: values for name, values in found.items() if values["type"] == "volume"}
        self.snapshots = {name: values for name, values in found.items() if values["type"] == "snapshot"}
        self.bookmarks = [name for name, values in found.items() if values["type"] == "bookmark"]
        self.mirrors = mirrors() if any(naming.mirrored(name.rpartition("@")[2]) for name in self.snapshots) else set()
        known = ("volume", "snapshot", "bookmark")
        self.others = [name for name, values in found.items() if values["type"] not in known]

    def parent(self, name: str) -> "str | None":
        """The zvol that this one was made from; None if it is the first of its family or comes from outside the SR."""
        return _parent(self.root, self.zvols, name)

    def children(self) -> "dict[str | None, list[str]]":
        """The zvols by their parents, the oldest first; the first of each family by None."""
        return _children(self.root, self.zvols)

    def dataset(self, name: str) -> str:
        """The full name of a dataset."""
        return f"{self.root.dataset}/{name}"


def _parent(root: Root, zvols: "dict[str, dict[str, str]]", name: str) -> "str | None":
    prefix = root.dataset + "/"
    origin = zvols[name].get("origin", "").partition("@")[0]
    parent = origin[len(prefix) :]
    return parent if origin.startswith(prefix) and parent in zvols else None


def _children(root: Root, zvols: "dict[str, dict[str, str]]") -> "dict[str | None, list[str]]":
    found: "dict[str | None, list[str]]" = {}
    for name in sorted(zvols, key=lambda name: (int(zvols[name]["createtxg"]), name)):
        found.setdefault(_parent(root, zvols, name), []).append(name)
    return found


def charges(root: Root, zvols: "dict[str, dict[str, str]]") -> "dict[str, int]":
    """The bytes of the pool that each VDI uses, by its key. They add up to the space that all zvols use.

    A VDI is charged for its own zvol. The space of a removed VDI is charged to the oldest VDI made from it.
    """
    children = _children(root, zvols)
    keys = {name: vdi.key_of(name, zvols) for name in zvols}
    found = {key: int(zvols[name]["used"]) for name, key in keys.items() if key is not None}
    for name, values in zvols.items():
        candidates = [name] if vdi.is_removed(values) else []
        while candidates:
            candidate = candidates.pop()
            key = keys[candidate]
            if key is not None:
                found[key] += int(values["used"])
                break
            candidates += reversed(children.get(candidate, []))
    return found


def read(sr: SR) -> Family:
    """Reads all that is below the root. Raises Missing."""
    prefix = sr.dataset + "/"
    found = datasets.tree(sr.zfs, sr.dataset)
    below = {name[len(prefix) :]: values for name, values in found.items() if name.startswith(prefix)}

    def mirrors() -> "set[str]":
        from zfsvol.repository import mirror  # most SRs have none at most times

        return mirror.alive(sr)

    return Family(sr, below, mirrors)


def graves(sr: SR) -> "tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]":
    """The zvols of removed VDIs, and their snapshots, by full name, with the properties read here. Raises Missing."""
    columns = ("name", "type", "used", "written", "clones", "userrefs")
    rows = datasets.listing(sr.zfs, sr.dataset, types="volume,snapshot", columns=columns)
    found = {row[0]: dict(zip(columns, row)) for row in rows if naming.is_grave(row[0][len(sr.dataset) + 1 :])}
    zvols = {name: values for name, values in found.items() if values["type"] == "volume"}
    return zvols, {name: values for name, values in found.items() if values["type"] == "snapshot"}


def kept_by_others(zvols: "dict[str, dict[str, str]]", snapshots: "dict[str, dict[str, str]]") -> "list[str]":
    """Those of the removed zvols that only other programs or people keep. Names may be full or short."""
    needed = {name.partition("@")[0] for name, values in snapshots.items() if is_needed(values) and is_ours(name)}
    foreign = {name.partition("@")[0] for name, values in snapshots.items() if is_of_others(name, values)}
    return sorted(name for name in zvols if name in foreign and name not in needed)


def kept_sentence(zvols: "dict[str, dict[str, str]]", snapshots: "dict[str, dict[str, str]]") -> str:
    """How much space of the removed zvols others' snapshots keep, and which snapshots, in words; "" if none."""
    kept = kept_by_others(zvols, snapshots)
    if not kept:
        return ""
    theirs = [
        name for name, values in snapshots.items() if name.partition("@")[0] in kept and is_of_others(name, values)
    ]
    series = sorted(
        {re.sub(_SERIES, r"\1*", name.rpartition("@")[2]) if not is_ours(name) else "holds" for name in theirs}
    )
    size = sum(int(zvols[name]["used"]) for name in kept)
    shown = ", ".join(series[:5]) + (" …" if len(series) > 5 else "")
    return f"{human(size)} of deleted disks ({len(kept)}) are kept by snapshots that are not the driver's: {shown}"


def human(size: int) -> str:
    """A size in bytes, for people to read."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB // 10 else f"{size / _MIB:.1f} MiB"


def is_ours(snapshot: str) -> bool:
    """Whether the driver made a ZFS snapshot: it names each by the uuid of the VDI that it was made for."""
    return naming.is_uuid(snapshot.rpartition("@")[2])


def is_of_others(snapshot: str, values: "dict[str, str]") -> bool:
    """Whether other programs or people keep a ZFS snapshot with these properties: they made it, or they hold it."""
    return not is_ours(snapshot) or values.get("userrefs", "0") not in ("0", "-")


def is_kept(snapshot: str, values: "dict[str, str]") -> bool:
    """Whether a ZFS snapshot with these properties has a clone, or others keep it."""
    return is_needed(values) or is_of_others(snapshot, values)


def is_needed(values: "dict[str, str]") -> bool:
    """Whether a ZFS snapshot with these properties has a clone."""
    return values.get("clones", "") not in ("", "-")
