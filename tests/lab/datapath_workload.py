# SPDX-License-Identifier: LGPL-2.1-only
"""Runs in a guest: domains write for ever, one write after another, to disks of an SR that they have attached. Now and
then there is a snapshot or a detach, and disks are copied as by a storage migration. It reports before and after each
step.

    datapath_workload.py SR SEED KEY=DOMAIN...

Each line of stdout is a JSON list: ["begin", verb, arguments], then ["end", answer]. A write is reported as a verb
"write" and is one block, which ZFS writes whole or not at all: through the node with a flush, through a tapdisk without
one. No step is refused.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from typing import Any

from tests import blktap
from tests.client import call_inside
from tests.model import GRANULE, noise
from zfsvol.naming import Root

BLOCK = 16384
MOST_SNAPSHOTS = 4
MOST_WRITES = 20  # in a row


class Disk:
    """A disk, its domain, and what the domain got from attach."""

    def __init__(self, sr: str, key: str, domain: str) -> None:
        self.sr = sr
        self.key = key
        self.domain = domain
        self.given: "dict[str, Any]" = {}
        self.client: "blktap.Client | None" = None

    def verb(self, name: str) -> Any:
        """Runs and reports a Datapath verb."""
        verb = f"Datapath.{name}"
        with_told = {"key": self.key, "domain": self.domain}
        return tell(verb, with_told, lambda: call_inside(verb, uri=Root(self.sr).uri(self.key), domain=self.domain))

    def begin(self) -> None:
        """Attaches and activates it for the domain."""
        self.given = dict(self.verb("attach")["implementations"])
        self.verb("activate")
        if "Nbd" in self.given:
            self.client = blktap.connect(self.given["Nbd"]["uri"])
            self.copy()

    def copy(self) -> None:
        """Starts to copy it elsewhere, until its domain deactivates it. Not reported: it changes nothing."""
        socket = f"{tempfile.mkdtemp()}/nbd"
        subprocess.run(["nbdkit", "--unix", socket, "memory", "64M"], check=True)
        call_inside(
            "Data.mirror", uri=Root(self.sr).uri(self.key), domain=self.domain, remote=f"nbd+unix:///?socket={socket}"
        )

    def end(self, chance: random.Random) -> None:
        """Detaches it from the domain."""
        if chance.random() < 0.5:
            self.verb("deactivate")
        self.verb("detach")
        self.given = {}
        if self.client is not None:
            self.client.close()
            self.client = None

    def write(self, offset: int, data: bytes) -> None:
        """Writes as the domain does."""
        if self.client is not None:
            self.client.write(offset, data)
            return
        descriptor = os.open(self.given["BlockDevice"]["path"], os.O_RDWR)
        try:
            os.pwrite(descriptor, data, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def tell(verb: str, arguments: "dict[str, Any]", action: Any) -> Any:
    """Runs the action, and reports before and after it."""
    print(json.dumps(["begin", verb, arguments]), flush=True)
    answer = action()
    print(json.dumps(["end", answer]), flush=True)
    return answer


def write(disk: Disk, offset: int, seed: int) -> None:
    """Writes a block and reports it."""
    arguments = {"key": disk.key, "offset": offset, "seed": seed, "flushes": disk.client is None}
    tell("write", arguments, lambda: disk.write(offset, noise(seed, BLOCK)))


def step(sr: str, disk: Disk, snapshots: "list[str]", chance: random.Random) -> None:
    """One action of the disk's domain or of the client."""
    what = chance.random()
    if not disk.given:
        disk.begin()
    elif what < 0.7:
        for _ in range(chance.randrange(1, MOST_WRITES)):
            write(disk, chance.randrange(GRANULE // BLOCK) * BLOCK, chance.randrange(1 << 30))
    elif what < 0.8:
        disk.end(chance)
    elif len(snapshots) < MOST_SNAPSHOTS:
        made = tell("Volume.snapshot", {"key": disk.key}, lambda: call_inside("Volume.snapshot", sr=sr, key=disk.key))
        snapshots.append(made["key"])
    else:
        key = snapshots.pop(chance.randrange(len(snapshots)))
        tell("Volume.destroy", {"key": key}, lambda: call_inside("Volume.destroy", sr=sr, key=key))


def main() -> None:
    """Never returns."""
    sr, chance = sys.argv[1], random.Random(int(sys.argv[2]))
    pairs = [word.split("=") for word in sys.argv[3:]]
    blktap.install()
    blktap.domains("0", *(domain for _, domain in pairs if domain.isdigit()))
    disks = [Disk(sr, key, domain) for key, domain in pairs]
    snapshots = [vdi["key"] for vdi in call_inside("SR.ls", sr=sr) if not vdi["read_write"]]
    for disk in disks:
        disk.begin()
    while True:
        step(sr, chance.choice(disks), snapshots, chance)


if __name__ == "__main__":
    main()
