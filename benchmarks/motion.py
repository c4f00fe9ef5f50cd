# SPDX-License-Identifier: LGPL-2.1-only
"""What it costs to move a disk to another SR, beside a bare `zfs send | zfs receive`: see README.md beside this file.

Needs root, OpenZFS and nbdkit, on this host or in the lab:

  lab/vm --mem 3000 --disks 2 --disk-size 8G -- sh -c '/usr/bin/python3 -m benchmarks.motion --disks $VM_DISKS'

It makes two SRs, on loop devices if it is given no disks, and removes them at the end.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import multiprocessing
import os
from pathlib import Path
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from benchmarks.pools import MIB, Pools, run
from benchmarks.service import processor_time
from tests import blktap, client, zvol
from tests.motion import BESIDE, HALTED, MIRROR, Migration, Relay
from tests.zfs.disk import GUEST, Disk, new_disk
from zfsvol.repository import mirror
from zfsvol.repository.sr import SR

BLOCK = 16 << 10
LIMIT = 600  # seconds

# What the blocks hold. It is the same in all of them: ZFS compresses each by itself.
_RANDOM = os.urandom(BLOCK)
DATA = {"random": _RANDOM, "compressible": _RANDOM[: BLOCK // 2] + b"z" * (BLOCK // 2)}

Figures = dict[str, float]


class Case(NamedTuple):
    """A disk to move: one in `share` of its pieces of `piece` bytes is written. `rate`: bytes/s that its VM writes."""

    name: str
    share: int
    data: str = "random"
    piece: int = MIB
    rate: int = 0


TENTH = Case("a tenth full", 10)
SINGLE = Case("a tenth full, single blocks", 10, piece=BLOCK)
HALF = Case("half full", 2)
CASES = (
    TENTH,
    Case("a tenth full, compressible", 10, "compressible"),
    SINGLE,
    HALF,
    Case("half full, compressible", 2, "compressible"),
    Case("a tenth full, VM writes 1 MiB/s", 10, rate=MIB),
    Case("a tenth full, VM writes 4 MiB/s", 10, rate=4 * MIB),
    Case("half full, VM writes 4 MiB/s", 2, rate=4 * MIB),
)


def filled(sr: str, case: Case, size: int) -> Disk:
    """A new disk as the case says."""
    disk = new_disk(sr, size)
    disk.use(GUEST)
    with zvol.opened(disk.zvol, writable=True) as descriptor:
        for offset in range(0, size, case.piece * case.share):
            os.pwrite(descriptor, DATA[case.data] * (case.piece // BLOCK), offset)
        os.fsync(descriptor)
    disk.drop(GUEST)
    run("zpool", "sync", sr)
    return disk


def write_at_random(uri: str, size: int, rate: int) -> None:
    """A VM that writes single blocks anywhere on its disk. Never returns."""
    chance = random.Random(1)
    began, written = time.monotonic(), 0
    with blktap.connect(uri) as connection:
        while True:
            connection.write(chance.randrange(size // BLOCK) * BLOCK, os.urandom(BLOCK))
            written += BLOCK
            time.sleep(max(0.0, written / rate - (time.monotonic() - began)))


@contextmanager
def writer(given: "dict[str, Any]", size: int, rate: int) -> "Iterator[None]":
    """The VM writes within the `with`, in a process of its own."""
    made = multiprocessing.get_context("fork").Process(
        target=write_at_random, args=(given["Nbd"]["uri"], size, rate), daemon=True
    )
    made.start()
    try:
        yield
    finally:
        made.kill()
        made.join()


@contextmanager
def served(disk: Disk) -> "Iterator[tuple[str, str, int]]":
    """The stand-in for tapdisk serves the disk, which is destroyed: as `nbdkit`."""
    path, _, export = disk.use(GUEST)["Nbd"]["uri"][len("nbd:unix:") :].partition(":exportname=")
    yield path, export, server_of(disk)
    disk.drop(GUEST)
    disk.volume("destroy")


def is_listening(path: Path) -> bool:
    """Whether a server has opened the socket. Nobody may connect to find out: it may serve one client."""
    words = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(word[3] == "00010000" and word[-1] == str(path) for word in words)


@contextmanager
def nbdkit(directory: Path, *words: str) -> "Iterator[tuple[str, str, int]]":
    """A server: the path of its socket, the name of what it serves, and its pid."""
    path = directory / "nbdkit"
    child = subprocess.Popen(["nbdkit", "-f", "-U", str(path), *words])
    while not is_listening(path):
        time.sleep(0.01)
    try:
        yield str(path), "disk", child.pid
    finally:
        child.terminate()
        child.wait()
        path.unlink(missing_ok=True)


def sent(disk: Disk, command: str) -> "Figures":
    """A snapshot of the disk, piped into a command by `zfs send`."""
    run("zfs", "snapshot", f"{disk.zvol}@bare")
    before, began = os.times(), time.monotonic()
    subprocess.run(f"zfs send {disk.zvol}@bare | {command}", shell=True, check=True)
    took, after = time.monotonic() - began, os.times()
    run("zfs", "destroy", f"{disk.zvol}@bare")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": took, "cpu": cpu}


def received(disk: Disk, sr: str) -> "Figures":
    """The same, into a zvol in the other SR."""
    target = f"{sr}/{client.new_uuid()}"
    found = sent(disk, f"zfs receive {target} && zpool sync {sr}")
    run("zfs", "destroy", "-r", target)
    return found


def copied(source: Disk, remote: str, domain: str, server: int, pool: str = "") -> "Figures":
    """The job copies the disk until the copy is in step; `server` is the pid of who gets it. The job goes on."""
    before, began = (sum(processor_time(server)), time.process_time()), time.monotonic()
    operation = client.call_inside("Data.mirror", uri=source.uri, domain=domain, remote=remote)
    while True:
        found = client.call_inside("Data.stat", operation=operation)
        if found["failed"] or time.monotonic() - began > LIMIT:
            raise SystemExit(mirror.described(SR(source.sr), source.key))
        if found["complete"]:
            break
    if pool:
        run("zpool", "sync", pool)
    took = time.monotonic() - began
    job, child = processor_time(mirror.job(SR(source.sr), source.key).read()["pid"])
    return {
        "seconds": took,
        "job": job,
        "send": child,
        "server": sum(processor_time(server)) - before[0],
        "relay": time.process_time() - before[1],
    }


def deactivated(disk: Disk) -> float:
    """Seconds that Datapath.deactivate takes."""
    began = time.monotonic()
    client.call("Datapath.deactivate", uri=disk.uri, domain=GUEST)
    return time.monotonic() - began


def server_of(disk: Disk) -> int:
    """The pid of the NBD server of the stand-in for tapdisk."""
    return int(run("pgrep", "-P", str(disk.tapdisk["pid"]), "qemu-nbd"))


def moved(source: Disk, sr: str, directory: Path, case: Case, size: int) -> "Figures":
    """The disk is moved to the other SR as xapi does it, and stays here."""
    destination = new_disk(sr, size)
    domain = GUEST if case.rate else HALTED
    given = source.use(GUEST) if case.rate else {}
    migration = Migration(source, destination, directory, domain)
    server = server_of(destination)
    if case.rate:
        with writer(given, size, case.rate):
            found = copied(source, migration.remote, domain, server)
            migration.leave()
            time.sleep(3)  # xapi moves the VM meanwhile
        found["deactivate"] = deactivated(source)
        found["passes"] = migration.state["passes"]
        source.drop(GUEST)
    else:
        found = copied(source, migration.remote, domain, server, sr)
        found["passes"] = migration.state["passes"]
        migration.leave()
    found["wire"] = migration.relay.moved
    migration.relay.cut()
    os.unlink(migration.relay.path)
    destination.drop(MIRROR)
    destination.volume("destroy")
    return found


def median(rounds: "list[Figures]") -> "Figures":
    """The median of each figure."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def each_case(source_sr: str, sr: str, directory: Path, size: int, repeat: int) -> None:
    """The table of moves."""
    print(
        f"{'':34}{'MiB':>6}{'wire':>6}{'send s':>8}{'move s':>8}{'ratio':>7}{'passes':>8}{'pause s':>9}"
        f"{'CPU: send|receive':>19}{'job':>7}{'send':>7}{'server':>8}{'relay':>7}"
    )
    for case in CASES:
        source = filled(source_sr, case, size)
        held = int(run("zfs", "get", "-Hp", "-o", "value", "logicalreferenced", source.zvol))
        rounds = []
        for _ in range(repeat):
            plain = received(source, sr)
            found = moved(source, sr, directory, case, size)
            found.update(bare=plain["seconds"], bare_cpu=plain["cpu"], ratio=found["seconds"] / plain["seconds"])
            rounds.append(found)
        row = median(rounds)
        pause = f"{row['deactivate']:9.2f}" if case.rate else f"{'':9}"
        print(
            f"{case.name:34}{held / MIB:6.0f}{row['wire'] / held:6.2f}{row['bare']:8.2f}{row['seconds']:8.2f}"
            f"{row['ratio']:7.2f}{row['passes']:8.0f}{pause}{row['bare_cpu']:19.2f}{row['job']:7.2f}{row['send']:7.2f}"
            f"{row['server']:8.2f}{row['relay']:7.2f}",
            flush=True,
        )
        source.volume("destroy")
    idle = []
    for _ in range(5):
        source = new_disk(source_sr, size)
        source.use(GUEST)
        idle.append(deactivated(source))
        source.drop(GUEST)
        source.volume("destroy")
    print(f"Datapath.deactivate of a disk that is not moved: {statistics.median(idle):.2f} s")


def each_server(source_sr: str, sr: str, directory: Path, size: int, repeat: int) -> None:
    """The table of servers: what the job costs without those of the tests."""
    print(f"{'':56}{'seconds':>8}{'ratio':>7}{'CPU: job':>10}{'send':>7}{'server':>8}{'relay':>7}")
    null = ("null", f"size={size}")
    servers: "tuple[tuple[str, tuple[str, ...], bool], ...]" = (
        ("stores nothing", null, False),
        ("stores nothing, relay", null, True),
        ("zvol", (), False),
        ("zvol, relay", (), True),
    )
    for case in (HALF, SINGLE):
        source = filled(source_sr, case, size)
        rounds: "dict[str, list[Figures]]" = {}
        for _ in range(repeat):
            plain = sent(source, "cat > /dev/null")
            rounds.setdefault("zfs send | cat > /dev/null", []).append({**plain, "send": plain["cpu"], "ratio": 1})
            for name, words, is_relayed in servers:
                found = to_server(source, sr, directory, words, is_relayed=is_relayed, size=size)
                found["ratio"] = found["seconds"] / plain["seconds"]
                rounds.setdefault(name, []).append(found)
        for name, figures in rounds.items():
            row = median(figures)
            print(
                f"{case.name + ': ' + name:56}{row['seconds']:8.2f}{row['ratio']:7.2f}{row.get('job', 0):10.2f}"
                f"{row['send']:7.2f}{row.get('server', 0):8.2f}{row.get('relay', 0):7.2f}",
                flush=True,
            )
        source.volume("destroy")


def to_server(
    source: Disk, sr: str, directory: Path, words: "tuple[str, ...]", *, is_relayed: bool, size: int
) -> "Figures":
    """The disk of a halted VM is copied to an nbdkit of these words, or without them to a zvol in the other SR."""
    source.attach(BESIDE)
    with nbdkit(directory, *words) if words else served(new_disk(sr, size)) as (path, export, server):
        relay = Relay(directory / "relay", path) if is_relayed else None
        found = copied(source, f"nbd+unix:///{export}?socket={relay.path if relay else path}", HALTED, server)
        source.drop(BESIDE)
        if relay:
            relay.cut()
            os.unlink(relay.path)
    return found


def new_sr(pools: Pools) -> str:
    """A new SR, attached."""
    configuration = {"device": pools.disk(), "autotrim": "off"}
    made = client.call("SR.create", uuid=client.new_uuid(), configuration=configuration, name="sr", description="")
    return str(client.call("SR.attach", configuration=made))


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=2048, metavar="MIB", help="size of the disks (default 2048)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds for each line (default 3)")
    parser.add_argument("--disks", nargs=2, default=[], metavar="DISK", help="empty disks to use, and to overwrite")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    directory = Path(tempfile.mkdtemp(prefix="zfs-vol-benchmark-"))
    pools = Pools(directory, options.disks)
    blktap.install()
    try:
        srs = new_sr(pools), new_sr(pools)
        each_case(*srs, directory, options.size * MIB, options.repeat)
        print()
        each_server(*srs, directory, options.size * MIB, options.repeat)
    finally:
        blktap.sweep()
        pools.close()
        blktap.uninstall()
        shutil.rmtree(str(directory))


if __name__ == "__main__":
    main()
