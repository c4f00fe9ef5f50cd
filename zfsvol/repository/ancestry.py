# SPDX-License-Identifier: LGPL-2.1-only
"""Which content of a disk was made from which, through all zvols of a family; the way from one to the other. Pure but
for `read`.

A zvol begins as a copy of its origin, a ZFS snapshot of another zvol. So every content has one history: its own zvol
back to the beginning, the origin's zvol from the origin back to the beginning, and so on. Two histories that meet stay
together from there on. Where they meet is a ZFS snapshot that exists, because a clone of it does.
"""

import time

from zfsvol import naming
from zfsvol.repository import vdi as vdis
from zfsvol.repository.sr import SR
from zfsvol.repository.vdi import VDI, Base
from zfsvol.zfs import datasets
from zfsvol.zfs.pool import Missing


class Moment:
    """The content of a zvol at one moment: a ZFS snapshot of it, or a bookmark, which remembers when that was.

    `name`: the full name, as zfs send takes it. `guid`: a bookmark has that of its snapshot; no other content has it.
    `txg`: the transaction group, which orders the moments of one zvol.
    """

    def __init__(self, name: str, guid: int, txg: int) -> None:
        self.name = name
        self.guid = guid
        self.txg = txg
        self.zvol = name.partition("@")[0].partition("#")[0]

    @property
    def has_data(self) -> bool:
        """Whether it is a snapshot."""
        return "@" in self.name


# What is read of each dataset; the last ones make a VDI of a zvol.
_MARKS = (naming.VDI_NAME, naming.VDI_REMOVED, naming.VDI_SNAPSHOT, naming.VDI_METADATA)
_COLUMNS = ("name", "type", "guid", "createtxg", "origin", "volsize", "readonly", *_MARKS)


class Ancestry:
    """All moments of an SR's zvols."""

    def __init__(self, root: naming.Root, rows: "list[list[str]]", when: float = 0) -> None:
        """The rows have the values of the columns; "-" stands for an unset one. `when`: as time.time()."""
        self.when = when
        self._root = root
        found = [{name: value for name, value in zip(_COLUMNS, row) if value != "-"} for row in rows]
        self._zvols = {values["name"]: values for values in found if values["type"] == "volume"}
        self._moments = {
            values["name"]: Moment(values["name"], int(values["guid"]), int(values["createtxg"]))
            for values in found
            if values["type"] in ("snapshot", "bookmark")
        }

    def vdi(self, key: str) -> "VDI | None":
        """The VDI with this key, as far as it matters here; None if there is none."""
        prefix = self._root.dataset + "/"
        names = [name for name in (key, naming.revert_name(key)) if prefix + name in self._zvols]
        return vdis.found(self._root, key, {name: self._zvols[prefix + name] for name in names})

    @property
    def guids(self) -> "set[int]":
        """The guids of all contents that ZFS knows of."""
        return {moment.guid for moment in self._moments.values()}

    def snapshot(self, name: str) -> Moment:
        """A ZFS snapshot by its full name. Raises Missing."""
        if name not in self._moments:
            raise Missing(f"{name}: dataset does not exist")
        return self._moments[name]

    def bookmark(self, base: Base) -> "Moment | None":
        """The bookmark of a snapshot whose data was destroyed; None if it is lost."""
        for name, moment in self._moments.items():
            if moment.guid == base.guid and name.endswith("#" + base.bookmark):
                return moment
        return None

    def has_clone(self, moment: Moment) -> bool:
        """Whether a zvol of the SR was made from it."""
        return any(values.get("origin") == moment.name for values in self._zvols.values())

    def history(self, moment: Moment) -> "list[Moment]":
        """The moment, then the origin of its zvol, then the origin of that one's zvol, and so on.

        It ends where a zvol has no origin in the SR.
        """
        found = [moment]
        while True:
            origin = self._zvols[found[-1].zvol].get("origin", "")
            if origin not in self._moments:
                return found
            found.append(self._moments[origin])

    def family(self, moment: Moment) -> int:
        """The guid of the zvol that was the first of the family."""
        return int(self._zvols[self.history(moment)[-1].zvol]["guid"])

    def older(self, moment: Moment) -> "list[Moment]":
        """All moments that the content of this one was made from, the newest first."""
        reached = {step.zvol: step for step in self.history(moment)}
        order = {zvol: index for index, zvol in enumerate(reached)}
        found = [
            other
            for other in self._moments.values()
            if other.zvol in reached and other.guid != moment.guid and other.txg <= reached[other.zvol].txg
        ]
        return sorted(found, key=lambda other: (order[other.zvol], -other.txg))

    def snapshot_after(self, moment: Moment) -> "Moment | None":
        """The oldest ZFS snapshot of the moment's zvol that is not older; None if there is none."""
        later = [other for other in self._moments.values() if other.zvol == moment.zvol and other.txg >= moment.txg]
        return min((other for other in later if other.has_data), key=lambda other: other.txg, default=None)


def read(sr: SR) -> Ancestry:
    """Reads all zvols, snapshots and bookmarks of the SR. Raises Missing."""
    when = time.time()
    rows = datasets.listing(sr.zfs, sr.dataset, types="volume,snapshot,bookmark", columns=_COLUMNS)
    return Ancestry(sr, rows, when)


def ways(ancestry: Ancestry, first: Moment, second: Moment) -> "list[tuple[Moment, Moment]] | None":
    """What leads from one content to the other: none to two pairs (older, newer), of which the newer was made from the
    older. None if the contents are not related.

    If neither was made from the other, both ways from the newest content that both were made from.
    """
    passed = {step.zvol: step for step in ancestry.history(first)}
    for step in ancestry.history(second):
        if step.zvol in passed:
            common = min(step, passed[step.zvol], key=lambda moment: moment.txg)
            return [(common, end) for end in (first, second) if end.guid != common.guid]
    return None
