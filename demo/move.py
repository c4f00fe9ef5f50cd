# SPDX-License-Identifier: LGPL-2.1-only
"""The part of the demonstration in which a disk moves to another SR while its VM writes it."""

from pathlib import Path
import random
import tempfile
import threading
import time

from demo.show import MIB, command, create_disk, delete, human, shell, srs, title
from tests import blktap, zvol
from tests.client import call
from tests.motion import MIRROR, Migration
from tests.zfs.disk import Disk

SIZE = 128 * MIB
FILLED = 64 * MIB
BLOCK = 16 << 10
# Bytes per second: what the VM writes, and what the line to the other SR carries.
RATE = 2 * MIB
LINE = 24 * MIB
GUEST, NEW_GUEST = "7", "8"
LOG = Path("/var/log/messages")


class Writer:
    """A VM that writes blocks all over its disk, and what the disk holds."""

    def __init__(self, uri: str) -> None:
        self.content = bytearray(SIZE)
        self.written = 0
        self._connection = blktap.connect(uri)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        for offset in range(0, FILLED, MIB):
            self._write(offset, random.randbytes(MIB))
        self._thread.start()

    def _write(self, offset: int, data: bytes) -> None:
        self._connection.write(offset, data)
        self.content[offset : offset + len(data)] = data

    def _run(self) -> None:
        while not self._stop.wait(BLOCK / RATE):
            self._write(random.randrange(SIZE // BLOCK) * BLOCK, random.randbytes(BLOCK))
            self.written += BLOCK

    def pause(self) -> None:
        """It writes no more."""
        self._stop.set()
        self._thread.join()
        self._connection.close()


class Log:
    """What the job of a disk writes to the host's log."""

    def __init__(self, disk: Disk) -> None:
        self._mark = f"{disk.zvol}: "
        self._shown = 0

    def show(self) -> None:
        """Prints what is new."""
        lines = [line.partition(self._mark)[2] for line in LOG.read_text().splitlines() if self._mark in line]
        for line in lines[self._shown :]:
            print(f"  SMlog: {line}")
        self._shown = len(lines)


def content(disk: Disk, domain: str) -> bytes:
    """All that the disk holds, as a VM reads it."""
    disk.use(domain)
    with zvol.opened(disk.zvol) as descriptor, open(descriptor, "rb", closefd=False) as file:
        found = file.read()
    disk.drop(domain)
    return found


def main() -> None:
    """The migration from its start to its end."""
    blktap.install()
    names = {call("SR.stat", sr=sr)["name"]: sr for sr in srs()}
    here, there = names["on one disk"], names["mirrored"]
    title("A disk moves to another SR while its VM writes it")
    source = Disk(here, call("Volume.stat", sr=here, key=create_disk(here, "mail", SIZE)))
    writer = Writer(source.use(GUEST)["Nbd"]["uri"])
    print(f"  the VM has written {human(FILLED)}, and goes on with {human(RATE)}/s all over the disk")
    print(f"  the line to the other SR carries {human(LINE)}/s")
    log = Log(source)
    command(f"xe vdi-pool-migrate uuid={source.key} sr-uuid={there[-36:]}   # Volume.create there, Data.mirror")
    destination = Disk(there, call("Volume.create", sr=there, name="mail", description="", size=SIZE, sharable=False))
    began, before = time.monotonic(), writer.written
    migration = Migration(source, destination, Path(tempfile.mkdtemp()), GUEST, rate=LINE)
    migration.start()
    while True:
        found = migration.stat()
        log.show()
        print(f"  Data.stat: {100 * found['progress']:.0f} %{', complete' if found['complete'] else ''}")
        assert not found["failed"]
        if found["complete"]:
            break
    migration.leave()
    time.sleep(2)  # xapi prepares the VM's own migration
    log.show()
    print(f"  the VM wrote {human(writer.written - before)} in these {time.monotonic() - began:.1f} s")

    title("The VM is paused, what it wrote last is copied, and it goes on with the new disk")
    writer.pause()
    began = time.monotonic()
    call("Datapath.deactivate", uri=source.uri, domain=GUEST)
    print(f"  Datapath.deactivate returned after {time.monotonic() - began:.2f} s")
    log.show()
    destination.drop(MIRROR)
    source.verb("detach", GUEST)
    assert content(source, GUEST) == content(destination, NEW_GUEST) == writer.content
    print(f"  both disks hold what the VM has written; {human(migration.relay.moved)} went from one SR to the other")
    delete(here, source.key, "mail, the old disk")
    left = [*zvol.nodes().values(), *blktap.leftovers()]
    print(f"  processes, sockets and device nodes that are left: {', '.join(left) or 'none'}")
    assert left == []
    shell(f"zfs list -t all -r {here}; zfs list -t all -r {there}")
    delete(there, destination.key, "mail")


if __name__ == "__main__":
    main()
