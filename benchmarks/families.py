# SPDX-License-Identifier: LGPL-2.1-only
"""A disk with its snapshots, which each measurement finds in the same state."""

from benchmarks.pools import Failed, Pools, run
from tests import client
from zfsvol import naming, properties
from zfsvol.zfs import programs
from zfsvol.zfs.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Stage = Callable[[Pools], dict[str, Any]]
    Bare = Callable[[Pools], list[str]]


class Family:
    """A disk and the VDIs that are snapshots of it. Each stage finds as many of them as the one before did."""

    AWAY = "renamed"  # what the bare `zfs rename` calls the disk

    def __init__(self, pools: Pools) -> None:
        self.pools = pools
        self.size = 0
        self.disk = ""
        self.snapshots: "list[str]" = []  # the oldest first
        self.ancestors: "list[str]" = []  # what the disk was made from, and snapshots of these
        self.is_removed: "bool | None" = None  # None: what the last measurement has changed is to be undone

    def call(self, verb: str, **arguments: str) -> "Any":
        """A verb of the driver, in this process."""
        return client.call_inside(verb, sr=self.pools.sr, **arguments)

    def zfs(self, *words: str) -> None:
        """A command of the administrator; words that begin with a slash are datasets of the SR."""
        run("zfs", *(self.pools.sr + word if word[0] == "/" else word for word in words))

    def grow(self, size: int) -> None:
        """Makes it a family of this size."""
        self.size = size
        self.stage(removed=False)

    def descend(self) -> None:
        """Goes on with a clone of the newest snapshot, which gets as many snapshots."""
        self.stage(removed=False)
        self.ancestors += [self.disk, *self.snapshots]
        self.disk = self.call("Volume.clone", key=self.snapshots[-1])["key"]
        self.snapshots = []
        self.grow(self.size)

    def clear(self) -> None:
        """Takes it away, with all that was made from it."""
        self.stage(removed=False)
        self.zfs("destroy", "-R", "/" + [*self.ancestors, self.disk][0])

    # What each measurement begins with

    def stage(self, *, removed: bool, changes: bool = True) -> None:
        """Undoes what the last measurement has done. `removed`: with the disk in the graveyard.

        `changes`: the next one will do something that is to be undone.
        """
        if self.is_removed != removed:
            self._restore(removed=removed)
        self.is_removed = None if changes else removed

    def _restore(self, *, removed: bool) -> None:
        present = self.pools.present()
        grave = self._grave(present)
        if removed and grave and present.issuperset(self.snapshots):
            # The name in the graveyard stays the same, which recorded commands have.
            self._remove_others(present)
            return
        if grave:
            if self.disk in present:  # it was reverted
                self.zfs("destroy", "/" + self.disk)
            self.zfs("rename", "/" + grave, "/" + self.disk)
            self.zfs("inherit", naming.VDI_REMOVED, "/" + self.disk)
        elif self.AWAY in present:
            self.zfs("rename", "/" + self.AWAY, "/" + self.disk)
        elif self.disk not in present:
            self.disk = self.pools.add(client.new_uuid())
        self._remove_others(present)
        self.snapshots = [key for key in self.snapshots if key in present]
        while len(self.snapshots) < self.size:
            self.snapshots.append(self.call("Volume.snapshot", key=self.disk)["key"])
        if removed:
            self.call("Volume.destroy", key=self.disk)

    def _grave(self, present: "set[str]") -> str:
        graves = [name for name in present if name.startswith(f".gone-{self.disk}.") and "@" not in name]
        if len(graves) > 1:
            raise Failed("{} was removed more than once: {}".format(self.disk, ", ".join(graves)))
        return graves[0] if graves else ""

    def _remove_others(self, present: "set[str]") -> None:
        # A snapshot goes after what was made from it. Not by the driver, which leaves alone the bare clones: no VDIs.
        for name in sorted(self._others(present), key=lambda name: "@" in name):
            self.zfs("destroy", "/" + name)

    def _others(self, present: "set[str]") -> "set[str]":
        """What the last measurement has made, by the names it has when the disk is where it belongs."""
        own = {*self.pools.volumes, *self.ancestors, self.disk, *self.snapshots}
        found = set()
        for name in present:
            zvol, _, snapshot = name.partition("@")
            if zvol.startswith(".gone") or zvol == self.AWAY:
                zvol = self.disk
            if snapshot and zvol == self.disk and snapshot not in self.snapshots:
                found.add(f"{zvol}@{snapshot}")
            elif zvol not in own:
                found.add(zvol)
        return found

    def middle(self) -> str:
        """The snapshot in the middle of the family."""
        return self.snapshots[len(self.snapshots) // 2]

    # Stages of verbs, and of the bare commands beside them

    def of_disk(self, _pools: Pools) -> "dict[str, Any]":
        """The disk, which is there."""
        self.stage(removed=False)
        return {"sr": self.pools.sr, "key": self.disk}

    def of_disk_read(self, _pools: Pools) -> "dict[str, Any]":
        """The same for a verb that only reads."""
        self.stage(removed=False, changes=False)
        return {"sr": self.pools.sr, "key": self.disk}

    def of_snapshot(self, _pools: Pools) -> "dict[str, Any]":
        """A snapshot of the disk, which is there."""
        self.stage(removed=False)
        return {"sr": self.pools.sr, "key": self.middle()}

    def of_orphan(self, _pools: Pools) -> "dict[str, Any]":
        """A snapshot of the disk, which is removed."""
        self.stage(removed=True)
        return {"sr": self.pools.sr, "key": self.middle()}

    def of_orphans(self, pools: Pools) -> "dict[str, Any]":
        """The same, with all snapshots saying whose they are: a clone of one makes them its own."""
        arguments = self.of_orphan(pools)
        snapshots = [self.pools.volume(key) for key in self.snapshots]
        programs.set_on_vdis(
            Pool(self.pools.sr.partition("/")[0]), snapshots, properties.encode_key(naming.SNAPSHOT_OF, self.disk)
        )
        return arguments

    def to_the_oldest(self, _pools: Pools) -> "dict[str, Any]":
        """The disk and its oldest snapshot."""
        self.stage(removed=False)
        return {"sr": self.pools.sr, "snapshot": self.snapshots[0], "key": self.disk}

    def of_sr(self, _pools: Pools) -> "dict[str, Any]":
        """All there is."""
        self.stage(removed=False, changes=False)
        return {"sr": self.pools.sr}

    def bare_snapshot(self, _pools: Pools) -> "list[str]":
        """A ZFS snapshot of the disk."""
        self.stage(removed=False)
        return ["zfs", "snapshot", f"{self.pools.volume(self.disk)}@{client.new_uuid()}"]

    def bare_clone(self, _pools: Pools) -> "list[str]":
        """A ZFS clone of a snapshot in the middle."""
        self.stage(removed=False)
        snapshot = f"{self.pools.volume(self.disk)}@{self.middle()}"
        return ["zfs", "clone", snapshot, self.pools.volume(client.new_uuid())]

    def bare_rollback(self, _pools: Pools) -> "list[str]":
        """To the newest snapshot: to an older one, ZFS would destroy those in between."""
        self.stage(removed=False)
        return ["zfs", "rollback", f"{self.pools.volume(self.disk)}@{self.snapshots[-1]}"]

    def bare_destroy(self, _pools: Pools) -> "list[str]":
        """Of a ZFS snapshot in the middle, nothing being made from it any more."""
        self.stage(removed=False)
        self.zfs("destroy", "/" + self.middle())
        return ["zfs", "destroy", f"{self.pools.volume(self.disk)}@{self.middle()}"]

    def bare_rename(self, _pools: Pools) -> "list[str]":
        """Of the disk."""
        self.stage(removed=False)
        return ["zfs", "rename", self.pools.volume(self.disk), self.pools.volume(self.AWAY)]

    def bare_set(self, _pools: Pools) -> "list[str]":
        """Of one property on all snapshots."""
        self.stage(removed=True)
        return ["zfs", "set", "benchmark:of=" + client.new_uuid(), *map(self.pools.volume, self.snapshots)]

    def bare_get(self, _pools: Pools) -> "list[str]":
        """Of all that ZFS knows of the disk."""
        self.stage(removed=False, changes=False)
        return ["zfs", "get", "-Hp", "all", self.pools.volume(self.disk)]

    def bare_list(self, _pools: Pools) -> "list[str]":
        """Of all zvols."""
        self.stage(removed=False, changes=False)
        return ["zfs", "list", "-Hp", "-r", self.pools.sr]

    def by_size(self) -> "list[tuple[str, str, Stage, Bare]]":
        """What may cost more in a larger family: verb, remark, stage, the bare command beside it."""
        return [
            ("Volume.snapshot", "", self.of_disk, self.bare_snapshot),
            ("Volume.clone", "disk", self.of_disk, self.bare_clone),
            ("Volume.clone", "snapshot", self.of_snapshot, self.bare_clone),
            ("Volume.stat", "", self.of_disk_read, self.bare_get),
            ("SR.ls", "", self.of_sr, self.bare_list),
            ("Volume.revert", "to the oldest", self.to_the_oldest, self.bare_rollback),
            ("Volume.destroy", "snapshot", self.of_snapshot, self.bare_destroy),
            ("Volume.destroy", "disk", self.of_disk, self.bare_rename),
            ("Volume.destroy", "snapshot, disk is removed", self.of_orphan, self.bare_destroy),
            ("Volume.clone", "snapshot, disk is removed", self.of_orphans, self.bare_set),
        ]

    def by_depth(self) -> "list[tuple[str, str, Stage, Bare]]":
        """What may cost more of a disk that is far from the first one of its family."""
        return [
            ("Volume.snapshot", "", self.of_disk, self.bare_snapshot),
            ("Volume.clone", "disk", self.of_disk, self.bare_clone),
            ("Volume.stat", "", self.of_disk_read, self.bare_get),
            ("Volume.revert", "", self.to_the_oldest, self.bare_rollback),
            ("Volume.destroy", "snapshot", self.of_snapshot, self.bare_destroy),
        ]
