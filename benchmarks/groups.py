# SPDX-License-Identifier: LGPL-2.1-only
"""How many transaction groups the client's sequences wait for, and how long that takes on a disk that others write to.

A change is over when the pool has written the transaction group that it is in. An idle SSD does that in milliseconds;
on a busy disk each group takes a second or more. The sequences are those of xapi, without what it does to other SRs.
"""

from contextlib import contextmanager
import os
import subprocess
import time

from benchmarks.pools import Pools, run
from tests import client
from tests.transactions import last_group, none_by_itself

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable


POOL = "zfs-vol-busy"
SIZE = 1 << 30  # bytes; a larger disk, once written all over, would fill the memory of the lab
DELAY = 5  # milliseconds that dm-delay adds to each write

# Stands for a guest that keeps the disk busy: writes and flushes blocks that do not compress.
_WRITER = """
import os, sys, time
block = os.urandom(1 << 20)
disk = os.open(sys.argv[1], os.O_WRONLY)
number = 0
while True:
    os.pwrite(disk, block, number % 256 * len(block))
    os.fsync(disk)
    number += 1
    time.sleep(0.3)
"""


class Shelf:
    """An SR in the pool POOL, and a disk in it with a snapshot."""

    def __init__(self) -> None:
        self.configuration: "dict[str, str]" = {}
        self.sr = ""
        self.disk = ""
        self.snapshot = ""

    def call(self, verb: str, **arguments: "Any") -> "Any":
        """Runs a verb as the client does."""
        if verb.startswith("Volume."):
            arguments["sr"] = self.sr
        if verb.startswith("Datapath."):
            arguments["uri"] = f"zvol://{self.sr}/{arguments.pop('key')}"
        return client.call(verb, **arguments)

    def attached(self, key: str, domain: str, *verbs: str) -> None:
        """Runs Datapath verbs, each after a Volume.stat."""
        for verb in verbs:
            self.call("Volume.stat", key=key)
            self.call("Datapath." + verb, key=key, domain=domain)

    # The sequences

    def sr_create(self) -> None:
        """SR.create in an existing pool."""
        uuid = client.new_uuid()
        self.configuration = self.call(
            "SR.create", uuid=uuid, configuration={"zpool": POOL}, name="sr", description="text"
        )
        self.plug()
        self.call("SR.stat", sr=self.sr)
        self.scan()

    def plug(self) -> None:
        """PBD.plug."""
        self.sr = self.call("SR.attach", configuration=self.configuration)
        self.call("SR.stat", sr=self.sr)

    def scan(self) -> None:
        """SR.scan."""
        self.call("SR.stat", sr=self.sr)
        self.call("SR.ls", sr=self.sr)

    def unplug(self) -> None:
        """PBD.unplug."""
        self.call("SR.detach", sr=self.sr)

    def sr_destroy(self) -> None:
        """SR.destroy, which comes after PBD.unplug: attaches the SR first."""
        self.plug()
        self.call("SR.destroy", sr=self.sr)

    def vdi_create(self) -> None:
        """VDI.create. The disk stays."""
        self.disk = self.call("Volume.create", name="disk", description="", size=1 << 30, sharable=False)["key"]
        self.call("Volume.set", key=self.disk, k="vdi-type", v="user")

    def vdi_snapshot(self) -> None:
        """VDI.snapshot. The snapshot stays."""
        source = self.call("Volume.stat", key=self.disk)
        made = self.call("Volume.snapshot", key=self.disk)
        self.snapshot = made["key"]
        for k, v in client.keys_of_snapshot(source, made):
            self.call("Volume.set", key=self.snapshot, k=k, v=v)

    def vdi_clone(self) -> None:
        """VDI.clone of the snapshot."""
        self.call("Volume.clone", key=self.snapshot)

    def vdi_resize(self) -> None:
        """The disk grows by a GiB."""
        size = self.call("Volume.stat", key=self.disk)["virtual_size"] + (1 << 30)
        self.call("Volume.resize", key=self.disk, new_size=size)
        self.call("Volume.stat", key=self.disk)

    def vdi_copy(self) -> None:
        """VDI.copy, without the copying itself."""
        source = self.disk
        self.vdi_create()
        made, self.disk = self.disk, source
        self.attached(source, "u0_a", "attach", "activate_readonly")
        self.attached(made, "u0_b", "attach", "activate", "deactivate", "detach")
        self.attached(source, "u0_a", "deactivate", "detach")

    def vm_start(self) -> None:
        """One disk."""
        self.attached(self.disk, "7", "attach", "activate")

    def vm_shutdown(self) -> None:
        """One disk."""
        self.attached(self.disk, "7", "deactivate", "detach")

    def snapshot_revert(self) -> None:
        """The revert of clients without VDI_REVERT: afterwards the clone is the disk."""
        self.vdi_destroy()
        self.disk = self.call("Volume.clone", key=self.snapshot)["key"]

    def vdi_revert(self) -> None:
        """Volume.revert."""
        self.call("Volume.revert", key=self.disk, snapshot=self.snapshot)

    def vdi_destroy(self) -> None:
        """VDI.destroy of the disk, which has a snapshot."""
        self.call("Volume.stat", key=self.disk)
        self.call("Volume.destroy", key=self.disk)

    def snapshot_destroy(self) -> None:
        """VDI.destroy of the snapshot."""
        self.call("Volume.stat", key=self.snapshot)
        self.call("Volume.destroy", key=self.snapshot)


# In this order each finds what it needs.
SEQUENCES: "list[tuple[str, Callable[[Shelf], None]]]" = [
    ("sr-create (zpool=)", Shelf.sr_create),
    ("sr-scan", Shelf.scan),
    ("vdi-create", Shelf.vdi_create),
    ("vdi-snapshot", Shelf.vdi_snapshot),
    ("vdi-clone", Shelf.vdi_clone),
    ("vdi-resize", Shelf.vdi_resize),
    ("vdi-copy", Shelf.vdi_copy),
    ("vm-start", Shelf.vm_start),
    ("vm-shutdown", Shelf.vm_shutdown),
    ("vdi-revert", Shelf.vdi_revert),
    ("snapshot-revert (8.3)", Shelf.snapshot_revert),
    ("vdi-destroy (snapshot)", Shelf.snapshot_destroy),
    ("vdi-destroy", Shelf.vdi_destroy),
    ("pbd-unplug (zpool=)", Shelf.unplug),
    ("pbd-plug (zpool=)", Shelf.plug),
    ("sr-destroy (zpool=)", Shelf.sr_destroy),
]


@contextmanager
def _busy() -> "Iterator[None]":
    """Somebody writes to another zvol of the pool, a MiB at a time, and flushes."""
    run("zfs", "create", "-s", "-V", "256M", "-o", "volmode=dev", f"{POOL}/writer")
    node = f"/dev/zvol/{POOL}/writer"
    while not os.path.exists(node):
        time.sleep(0.1)
    writer = subprocess.Popen(["/usr/bin/python3", "-c", _WRITER, node])
    time.sleep(5)
    yield
    writer.kill()
    writer.wait()
    run("zpool", "sync", POOL)
    run("udevadm", "settle", check=False)
    run("zfs", "destroy", f"{POOL}/writer")


def _pass(unit: str, measure: "Callable[[], float]") -> "list[float]":
    """For each sequence, by how much it raises the value of `measure`."""
    shelf = Shelf()
    found = []
    for name, sequence in SEQUENCES:
        before = measure()
        sequence(shelf)
        found.append(measure() - before)
        print(f"{name:27}{found[-1]:8.2f} {unit}", flush=True)
    return found


def each_count(pools: Pools) -> "list[dict[str, Any]]":
    """The table of sequences: groups waited for, seconds on an idle disk, and on one that others write to."""
    pools.no_spare()
    disk = pools.spare_disk
    run("dmsetup", "create", POOL, "--table", f"0 {SIZE // 512} delay {disk} 0 0 {disk} 0 {DELAY}")
    run("zpool", "create", "-f", "-m", "none", "-o", "cachefile=none", POOL, f"/dev/mapper/{POOL}")
    with none_by_itself():
        groups = _pass("groups", lambda: last_group(POOL))
    idle = _pass("s, idle", time.monotonic)
    with _busy():
        busy = _pass("s, busy", time.monotonic)
    run("zpool", "destroy", POOL)
    run("dmsetup", "remove", "--retry", POOL)
    rows = zip(SEQUENCES, groups, idle, busy)
    return [{"sequence": name, "groups": one, "idle": two, "busy": three} for (name, _), one, two, three in rows]
