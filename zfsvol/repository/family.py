# SPDX-License-Identifier: LGPL-2.1-only
"""The families of an SR's disks: which zvol was made from which, and what each takes. Pure but for `read`.

Every VDI, snapshot or not, is a zvol. One that was made from another is ZFS's clone of a ZFS snapshot of it; that
snapshot has the uuid of the VDI it was made for, and exists as long as a zvol was made from it. A removed VDI that
others were made from gets a name that says so. So this is all that there is below an SR's root:

  <uuid>              a VDI; it has the property zfsvol:name
  <zvol>@<uuid>       what at least one zvol was made from; `zfs hold` may keep it longer
  <zvol>@<other>      a snapshot of another program or person
  .gone-<uuid>.<n>    a removed VDI with at least one such snapshot; it has the property zfsvol:removed
  .revert-<uuid>      while Volume.revert is at work: what becomes the VDI; it is the VDI where there is no other
"""

import re

from zfsvol import naming
from zfsvol.naming import Root
from zfsvol.repository import vdi
from zfsvol.repository.sr import SR
from zfsvol.zfs import datasets

# A zvol made from another, or rolled back, that nobody has written to has less than this of its own, in bytes: the
# blocks that describe it.
EMPTY_CLONE = 64 << 10

_GIB = 1 << 30
_MIB = 1 << 20

# What programs' snapshots have in common: autosnap_2026-11-26_12:00:00_daily, syncoid_host_2026-…, zrepl_2026….
_SERIES = re.compile(r"^([^\d@]*?[_-])?.*\d.*$")


class Family:
    """All datasets below an SR's root, by their names without it, with some of their properties."""

    def __init__(self, root: Root, found: "dict[str, dict[str, str]]") -> None:
        self.root = root
        self.zvols = {name: values for name, values in found.items() if values["type"] == "volume"}
        self.snapshots = {name: values for name, values in found.items() if values["type"] == "snapshot"}
        self.others = [name for name, values in found.items() if values["type"] not in ("volume", "snapshot")]

    def parent(self, name: str) -> "str | None":
        """The zvol that this one was made from; None for a first of its family, or one from outside the SR."""
        return _parent(self.root, self.zvols, name)

    def children(self) -> "dict[str | None, list[str]]":
        """The zvols by that which they were made from, the oldest first; the first of each family by None."""
        return _children(self.root, self.zvols)

    def dataset(self, name: str) -> str:
        """The whole name."""
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
    """What each VDI takes of the pool, in bytes, by its key: all of them add up to what all zvols take.

    That is what its own zvol takes; and what the zvol of a removed VDI still takes counts for the oldest VDI of those
    that were made from it.
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
    """All that is below the root. Raises zfs's Missing."""
    prefix = sr.dataset + "/"
    found = datasets.tree(sr.zfs, sr.dataset)
    return Family(sr, {name[len(prefix) :]: values for name, values in found.items() if name.startswith(prefix)})


def kept_by_others(zvols: "dict[str, dict[str, str]]", snapshots: "dict[str, dict[str, str]]") -> "list[str]":
    """The removed zvols among some that only other programs or people keep. Names are whole or short."""
    needed = {name.partition("@")[0] for name, values in snapshots.items() if is_needed(values) and is_ours(name)}
    foreign = {name.partition("@")[0] for name, values in snapshots.items() if is_of_others(name, values)}
    return sorted(name for name in zvols if name in foreign and name not in needed)


def kept_sentence(zvols: "dict[str, dict[str, str]]", snapshots: "dict[str, dict[str, str]]") -> str:
    """How much of deleted disks is kept by whose snapshots; "" for nothing. For removed zvols."""
    kept = kept_by_others(zvols, snapshots)
    if not kept:
        return ""
    theirs = [
        name for name, values in snapshots.items() if name.partition("@")[0] in kept and is_of_others(name, values)
    ]
    series = sorted({_SERIES.sub(r"\1*", name.rpartition("@")[2]) if not is_ours(name) else "holds" for name in theirs})
    size = sum(int(zvols[name]["used"]) for name in kept)
    shown = ", ".join(series[:5]) + (" …" if len(series) > 5 else "")
    return f"{human(size)} of deleted disks ({len(kept)}) are kept by snapshots that are not the driver's: {shown}"


def human(size: int) -> str:
    """Bytes for people."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB // 10 else f"{size / _MIB:.1f} MiB"


def is_ours(snapshot: str) -> bool:
    """Whether the driver has made a ZFS snapshot: it names each by the uuid of the VDI that it was made for."""
    return naming.is_uuid(snapshot.rpartition("@")[2])


def is_of_others(snapshot: str, values: "dict[str, str]") -> bool:
    """Whether other programs or people keep a ZFS snapshot with these properties: it is theirs, or they hold it."""
    return not is_ours(snapshot) or values.get("userrefs", "0") not in ("0", "-")


def is_needed(values: "dict[str, str]") -> bool:
    """Whether something was made from a ZFS snapshot with these properties."""
    return values.get("clones", "") not in ("", "-")
