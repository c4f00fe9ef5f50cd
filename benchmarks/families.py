# SPDX-License-Identifier: LGPL-2.1-only
"""A disk and its snapshots, put back into the same state before each measurement."""

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
    """A disk and the VDIs that are snapshots of it. Each stage finds the same number of snapshots."""

    AWAY = "renamed"  # what the bare `zfs rename` calls the disk

    def __init__(self, pools: Pools) -> None:
        self.pools = pools
        self.size = 0
        self.disk = ""
        self.snapshots: "list[str]" = []  # the oldest first
        self.ancestors: "list[str]" = []  # the disks that the disk was made from, and their snapshots
        self.is_removed: "bool | None" = None  # None: the changes of the last measurement must be undone

    def call(self, verb: str, **arguments: str) -> "Any":
        """Runs a verb of the driver in this process."""
        return client.call_inside(verb, sr=self.pools.sr, **arguments)

    def zfs(self, *words: str) -> None:
        """Runs a zfs command; words that begin with a slash are datasets of the SR."""
        run("zfs", *(self.pools.sr + word if word[0] == "/" else word for word in words))

    def grow(self, size: int) -> None:
        """Makes it a family of this size."""
        self.size = size
        self.stage(removed=False)

    def descend(self) -> None:
        """Continues with a clone of the newest snapshot, and gives it as many snapshots."""
        self.stage(removed=False)
        self.ancestors += [self.disk, *self.snapshots]
        self.disk = self.call("Volume.clone", key=self.snapshots[-1])["key"]
        self.snapshots = []
        self.grow(self.size)

    def clear(self) -> None:
        """Destroys the family, with all that was made from it."""
        self.stage(removed=False)
        self.zfs("destroy", "-R", "/" + [*self.ancestors, self.disk][0])

    # The state before each measurement

    def stage(self, *, removed: bool, changes: bool = True) -> None:
        """Undoes what the last measurement did. `removed`: with the disk in the graveyard.

        `changes`: the next measurement will make changes that must be undone.
        """
        if self.is_removed != removed:
            self._restore(removed=removed)
        self.is_removed = None if changes else removed

    def _restore(self, *, removed: bool) -> None:
        present = self.pools.present()
        grave = self._grave(present)
        if removed and grave and present.issuperset(self.snapshots):
            # The name in the graveyard must stay the same: recorded commands contain it.
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
        # Clones go before their snapshots. The driver's verbs would leave bare clones alone, as they are no VDIs.
        for name in sorted(self._others(present), key=lambda name: "@" in name):
            self.zfs("destroy", "/" + name)

    def _others(self, present: "set[str]") -> "set[str]":
        """What the last measurement has made, by the names that it has once the disk has its own name again."""
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
        """The disk, which exists."""
        self.stage(removed=False)
        return {"sr": self.pools.sr, "key": self.disk}

    def of_disk_read(self, _pools: Pools) -> "dict[str, Any]":
        """The disk, for a verb that only reads."""
        self.stage(removed=False, changes=False)
        return {"sr": self.pools.sr, "key": self.disk}

    def of_snapshot(self, _pools: Pools) -> "dict[str, Any]":
        """A snapshot of the disk; the disk exists."""
        self.stage(removed=False)
        return {"sr": self.pools.sr, "key": self.middle()}

    def of_orphan(self, _pools: Pools) -> "dict[str, Any]":
        """A snapshot of the disk; the disk is removed."""
        self.stage(removed=True)
        return {"sr": self.pools.sr, "key": self.middle()}

    def of_orphans(self, pools: Pools) -> "dict[str, Any]":
        """The same, with snapshot_of set on all snapshots: a clone of one changes it on all of them."""
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
        """The SR."""
        self.stage(removed=False, changes=False)
        return {"sr": self.pools.sr}

    def bare_snapshot(self, _pools: Pools) -> "list[str]":
        """A ZFS snapshot of the disk."""
        self.stage(removed=False)
        return ["zfs", "snapshot", f"{self.pools.volume(self.disk)}@{client.new_uuid()}"]

    def bare_clone(self, _pools: Pools) -> "list[str]":
        """A ZFS clone of the snapshot in the middle."""
        self.stage(removed=False)
        snapshot = f"{self.pools.volume(self.disk)}@{self.middle()}"
        return ["zfs", "clone", snapshot, self.pools.volume(client.new_uuid())]

    def bare_rollback(self, _pools: Pools) -> "list[str]":
        """A rollback to the newest snapshot: on the way to an older one, ZFS would destroy the newer ones."""
        self.stage(removed=False)
        return ["zfs", "rollback", f"{self.pools.volume(self.disk)}@{self.snapshots[-1]}"]

    def bare_destroy(self, _pools: Pools) -> "list[str]":
        """Destroys the ZFS snapshot in the middle, after the clone that was made from it."""
        self.stage(removed=False)
        self.zfs("destroy", "/" + self.middle())
        return ["zfs", "destroy", f"{self.pools.volume(self.disk)}@{self.middle()}"]

    def bare_rename(self, _pools: Pools) -> "list[str]":
        """Renames the disk."""
        self.stage(removed=False)
        return ["zfs", "rename", self.pools.volume(self.disk), self.pools.volume(self.AWAY)]

    def bare_set(self, _pools: Pools) -> "list[str]":
        """Sets one property on all snapshots."""
        self.stage(removed=True)
        return ["zfs", "set", "benchmark:of=" + client.new_uuid(), *map(self.pools.volume, self.snapshots)]

    def bare_get(self, _pools: Pools) -> "list[str]":
        """Gets all properties of the disk."""
        self.stage(removed=False, changes=False)
        return ["zfs", "get", "-Hp", "all", self.pools.volume(self.disk)]

    def bare_list(self, _pools: Pools) -> "list[str]":
        """Lists all zvols."""
        self.stage(removed=False, changes=False)
        return ["zfs", "list", "-Hp", "-r", self.pools.sr]

    def by_size(self) -> "list[tuple[str, str, Stage, Bare]]":
        """What may cost more in a larger family: verb, remark, stage, the bare command to compare with."""
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
        """What may cost more for a disk that is many generations from the first one of its family."""
        return [
            ("Volume.snapshot", "", self.of_disk, self.bare_snapshot),
            ("Volume.clone", "disk", self.of_disk, self.bare_clone),
            ("Volume.stat", "", self.of_disk_read, self.bare_get),
            ("Volume.revert", "", self.to_the_oldest, self.bare_rollback),
            ("Volume.destroy", "snapshot", self.of_snapshot, self.bare_destroy),
        ]
