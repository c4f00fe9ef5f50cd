# SPDX-License-Identifier: LGPL-2.1-only
"""The parts of the demonstration that run in the guest: each xe command, and what the driver answers to it.

There is no xapi here: the verbs are called as xapi's storage service calls them when it carries out the command.
"""

import base64
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
import hashlib
import os
import subprocess
import sys
import threading
import time
from typing import Any

from tests import blktap, zvol
from tests.client import VerbError, call, new_uuid

GIB = 1 << 30
MIB = 1 << 20


def title(text: str) -> None:
    """A new part."""
    print(f"\n=== {text}", flush=True)


def command(text: str) -> None:
    """What the administrator types."""
    print(f"\n# {text}", flush=True)


def shell(text: str) -> None:
    """A command that really is one."""
    command(text)
    subprocess.run(text, shell=True, check=True)


def human(size: int) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.1f} MiB"


def create_sr(name: str, **configuration: str) -> str:
    """xe sr-create: SR.create, then SR.attach with what it answered."""
    keys = " ".join(f'device-config:{key}="{value}"' for key, value in configuration.items())
    command(f'xe sr-create type=zfs-vol name-label="{name}" {keys}')
    answer = call("SR.create", uuid=new_uuid(), configuration=configuration, name=name, description="")
    sr = str(call("SR.attach", configuration=answer))
    show_sr(sr)
    return sr


def show_sr(sr: str) -> None:
    """xe sr-param-list, the lines that matter."""
    stat = call("SR.stat", sr=sr)
    print(f"  {stat['name']}: {human(stat['free_space'])} of {human(stat['total_space'])} free, {stat['health'][1]}")


def show_disks(sr: str) -> None:
    """xe vdi-list."""
    command(f"xe vdi-list sr-uuid={sr[-36:]}")
    for volume in call("SR.ls", sr=sr):
        size, used = human(volume["virtual_size"]), human(volume["physical_utilisation"])
        print(f"  {volume['key']}  {volume['name']:<28} {size:>10}, takes {used}")


def create_disk(sr: str, name: str, size: int) -> str:
    """xe vdi-create."""
    command(f'xe vdi-create sr-uuid={sr[-36:]} name-label="{name}" virtual-size={size}')
    made: "dict[str, Any]" = call("Volume.create", sr=sr, name=name, description="", size=size, sharable=False)
    print(f"  {made['key']}")
    return str(made["key"])


def refused(text: str, verb: str, **arguments: Any) -> None:
    """A command that the driver refuses, with its words."""
    command(text)
    try:
        call(verb, **arguments)
    except VerbError as error:
        print(f"  {error.code}: {error.sentence}")
        return
    raise AssertionError(f"{text} was not refused")


def life() -> None:
    """SRs, disks, a mirror that loses a disk."""
    by_id = "/dev/disk/by-id/lab-"
    single, half, pool, spare = (os.environ["VM_DISKS"].split()[number] for number in (0, 1, 3, 4))
    title("An SR in each of the three ways")
    create_sr("on one disk", device=single)
    # The other half of the mirror can be made to fail: it is a device-mapper target.
    bad = os.environ["VM_DISKS"].split()[2]
    sectors = subprocess.run(
        ["blockdev", "--getsz", bad],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        check=True,
    ).stdout.strip()
    subprocess.run(["dmsetup", "create", "second-disk", "--table", f"0 {sectors} linear {bad} 0"], check=True)
    mirror = create_sr("mirrored", vdev=f"mirror {half} /dev/mapper/second-disk")
    shell(f"zpool create -m none tank {pool} && zfs create tank/xen")
    create_sr("beside other data", zpool="tank/xen", compression="zstd")

    title("Disks, made in an instant whatever their size")
    root = create_disk(mirror, "root disk of “web”", 10 * GIB)
    create_disk(mirror, "archive", 20480 * GIB)
    command(f"xe vdi-resize uuid={root} disk-size={15 * GIB}")
    call("Volume.resize", sr=mirror, key=root, new_size=15 * GIB)
    command(f'xe vdi-param-set uuid={root} name-label="root disk of “mail”"')
    call("Volume.set_name", sr=mirror, key=root, new_name="root disk of “mail”")
    show_disks(mirror)
    refused(f"xe vdi-resize uuid={root} disk-size={GIB}", "Volume.resize", sr=mirror, key=root, new_size=GIB)
    refused(
        f"xe sr-create type=zfs-vol name-label=again device-config:device={single}",
        "SR.create",
        uuid=new_uuid(),
        configuration={"device": single},
        name="again",
        description="",
    )

    title("A mirror loses a disk")
    print("*** every read and write of second-disk fails from now on ***")
    table = f"dmsetup suspend --noflush second-disk; dmsetup load second-disk --table '0 {sectors} error'"
    subprocess.run(f"{table}; dmsetup resume second-disk", shell=True, check=True)
    shell(f"zpool scrub -w {mirror}")
    command(f"xe sr-scan uuid={mirror[3:]}")
    show_sr(mirror)
    create_disk(mirror, "made meanwhile", 4 * GIB)
    bad_name = call("SR.stat", sr=mirror)["health"][1].split("; ")[2].split()[0]
    shell(f"zpool replace {mirror} {bad_name} {spare.replace('/dev/', by_id)} && zpool wait -t resilver {mirror}")
    command(f"xe sr-scan uuid={mirror[3:]}")
    show_sr(mirror)


@contextmanager
def attached(sr: str, key: str) -> "Iterator[str]":
    """dom0 has the disk, for what it does with disks itself; its zvol."""
    given = {"uri": f"zvol://{sr}/{key}", "domain": "u0_vbd_0_xvda"}
    for verb in ("attach", "activate"):
        call("Datapath." + verb, **given)
    try:
        yield f"{sr}/{key}"
    finally:
        for verb in ("deactivate", "detach"):
            call("Datapath." + verb, **given)


@contextmanager
def written_all_the_time(name: str) -> "Iterator[None]":
    """A VM writes to its disk without a pause, beyond the first part, in which the demonstration has its versions."""
    stop = threading.Event()

    def write(descriptor: int) -> None:
        offset = VERSION
        while not stop.is_set():
            os.pwrite(descriptor, os.urandom(MIB), offset)
            os.fsync(descriptor)
            offset = VERSION + (offset + MIB) % VERSION

    with zvol.opened(name, writable=True) as descriptor:
        writer = threading.Thread(target=write, args=(descriptor,))
        writer.start()
        try:
            yield
        finally:
            stop.set()
            writer.join()


EXPORTED = "/tmp/export"  # noqa: S108 - the guest's own
REQUEST = 16 * MIB  # what an NBD server takes at once
VERSION = 64 * MIB  # bytes at the start of a disk, by which versions of it are told apart


def fill(name: str) -> None:
    """A new version of what is at the start of the disk."""
    zvol.write(name, 0, os.urandom(VERSION))


def fingerprint(sr: str, key: str) -> str:
    """Which version the disk has."""
    with attached(sr, key) as name, zvol.opened(name) as descriptor:
        return hashlib.sha256(os.read(descriptor, VERSION)).hexdigest()[:12]


def tree(sr: str) -> None:
    """The families of the SR's disks."""
    shell(f"python3 -m zfsvol check {sr}")


def make(what: str, sr: str, key: str, name: str) -> str:
    """xe vdi-snapshot or vdi-clone, with a name for it."""
    command(f'xe vdi-{what} uuid={key} new-name-label="{name}"')
    made = str(call("Volume." + what, sr=sr, key=key)["key"])
    call("Volume.set_name", sr=sr, key=made, new_name=name)
    print(f"  {made}")
    return made


def delete(sr: str, key: str, name: str) -> None:
    """xe vdi-destroy."""
    command(f"xe vdi-destroy uuid={key}   # {name}")
    call("Volume.destroy", sr=sr, key=key)


def families() -> None:
    """Snapshots and clones, of each other, made and deleted in any order."""
    sr = next(sr for sr in srs() if call("SR.stat", sr=sr)["name"] == "on one disk")
    title("Snapshots of a disk in use, clones of clones")
    disk = create_disk(sr, "web", GIB)
    with attached(sr, disk) as name:
        fill(name)
        with written_all_the_time(name):
            monday = make("snapshot", sr, disk, "web on Monday")
            fill(name)
            tuesday = make("snapshot", sr, disk, "web on Tuesday")
            fill(name)
            clone = make("clone", sr, disk, "web for tests")
            refused(f"xe vdi-destroy uuid={disk}   # in use", "Volume.destroy", sr=sr, key=disk)
    clone_of_clone = make("clone", sr, clone, "web for other tests")
    tree(sr)

    title("The parent is deleted first, its clone stays")
    version = fingerprint(sr, clone)
    delete(sr, clone, "web for tests")
    assert fingerprint(sr, clone_of_clone) == version
    tree(sr)

    title("Back to Monday; Tuesday stays")
    versions = {name: fingerprint(sr, key) for name, key in (("web", disk), ("Monday", monday), ("Tuesday", tuesday))}
    print("  what they hold: {}".format(", ".join(f"{name} {version}" for name, version in versions.items())))
    command(f"xe snapshot-revert snapshot-uuid={monday}")
    call("Volume.revert", sr=sr, snapshot=monday, key=disk)
    print(f"  web {fingerprint(sr, disk)}, Tuesday {fingerprint(sr, tuesday)}")
    assert fingerprint(sr, disk) == versions["Monday"]
    assert fingerprint(sr, tuesday) == versions["Tuesday"]
    tree(sr)

    title("All of them are deleted, and nothing is left")
    show_sr(sr)
    for key, name in ((disk, "web"), (monday, "Monday"), (clone_of_clone, "web for other tests"), (tuesday, "Tuesday")):
        delete(sr, key, name)
    tree(sr)
    shell(f"zpool wait -t free {sr}; zfs list -t all -r {sr}")
    show_sr(sr)


def datapath() -> None:
    """A VM's disk: attached, written, snapshotted under load, exported, detached."""
    blktap.install()
    sr = next(sr for sr in srs() if call("SR.stat", sr=sr)["name"] == "on one disk")
    title("A VM starts on a disk of the SR")
    print(f"  {blktap.which()}")
    disk = create_disk(sr, "database", 256 * MIB)
    uri, domain = f"zvol://{sr}/{disk}", "7"
    command(f"xe vm-start   # domain {domain}, VDI {disk}: Datapath.attach, Datapath.activate")
    began = time.monotonic()
    given = dict(call("Datapath.attach", uri=uri, domain=domain)["implementations"])
    call("Datapath.activate", uri=uri, domain=domain)
    print(
        f"  it has its disk after {time.monotonic() - began:.2f} s: {given['XenDisk']['backend_type']},",
        given["Nbd"]["uri"],
    )
    refused(f"xe vdi-destroy uuid={disk}", "Volume.destroy", sr=sr, key=disk)

    title("A live snapshot while the VM writes")
    exits = ExitStack()
    connection = exits.enter_context(blktap.connect(given["Nbd"]["uri"]))
    before = os.urandom(VERSION)
    for start in range(0, VERSION, REQUEST):
        connection.write(start, before[start : start + REQUEST])
    stop = threading.Event()
    written = [0]

    def write() -> None:
        while not stop.is_set():
            connection.write(VERSION + written[0] % VERSION, os.urandom(MIB))
            written[0] += MIB

    writer = threading.Thread(target=write)
    writer.start()
    snapshot = make("snapshot", sr, disk, "database, live")
    during = written[0]
    stop.set()
    writer.join()
    for start in range(0, VERSION, REQUEST):
        connection.write(start, os.urandom(REQUEST))
    print(f"  the VM wrote {human(during)} meanwhile, and has overwritten what the snapshot has since then")

    title("The snapshot is exported while the VM runs")
    command(f"xe vdi-export uuid={snapshot} filename={EXPORTED} format=raw   # dom0 attaches it, for reading")
    with attached(sr, snapshot) as name:
        subprocess.run(["dd", f"if={zvol.node(name)}", f"of={EXPORTED}", "bs=1M", "status=none"], check=True)
    with open(EXPORTED, "rb") as file:
        assert file.read(VERSION) == before
        print(f"  {human(os.path.getsize(EXPORTED))} exported; what the VM had written before the snapshot is in it")

    title("The VM is shut down, and nothing is left")
    exits.close()
    command(f"xe vm-shutdown   # domain {domain}: Datapath.deactivate, Datapath.detach")
    for verb in ("Datapath.deactivate", "Datapath.detach"):
        call(verb, uri=uri, domain=domain)
    left = [*zvol.nodes().values(), *blktap.leftovers()]
    print(f"  processes, sockets and device nodes that are left: {', '.join(left) or 'none'}")
    assert left == []
    for key, name in ((disk, "database"), (snapshot, "database, live")):
        delete(sr, key, name)


CHUNK = 64 << 10  # what one bit of a change list stands for


def changed_chunks(sr: str, first: str, second: str) -> "list[int]":
    """xe vdi-list-changed-blocks: the offsets of the chunks that changed."""
    command(f"xe vdi-list-changed-blocks vdi-from-uuid={first} vdi-to-uuid={second}")
    answer = call("Volume.list_changed_blocks", sr=sr, key=first, key2=second, offset=0, length=-1)
    bitmap = base64.b64decode(answer["bitmap"])
    found = [8 * index + bit for index, byte in enumerate(bitmap) for bit in range(8) if byte & 128 >> bit]
    print(f"  {len(found)} of {len(bitmap) * 8} chunks of 64 KiB")
    return [CHUNK * bit for bit in found]


def backup() -> None:
    """A full backup, then only what changed; no snapshot keeps space in between."""
    sr = next(sr for sr in srs() if call("SR.stat", sr=sr)["name"] == "on one disk")
    title("A full backup of a disk")
    disk = create_disk(sr, "files", 256 * MIB)
    command(f"xe vdi-enable-cbt uuid={disk}")
    call("Volume.enable_cbt", sr=sr, key=disk)
    with attached(sr, disk) as name:
        fill(name)
    first = make("snapshot", sr, disk, "files, first backup")
    with attached(sr, first) as name, zvol.opened(name) as descriptor, open(descriptor, "rb", closefd=False) as file:
        copy = bytearray(file.read())
    print(f"  {human(len(copy))} copied")
    command(f"xe vdi-data-destroy uuid={first}")
    call("Volume.data_destroy", sr=sr, key=first)
    print(f"  it takes {human(call('Volume.stat', sr=sr, key=first)['physical_utilisation'])} from now on")

    title("The VM writes, frees and zeroes; the second backup reads what changed")
    with attached(sr, disk) as name:
        zvol.write(name, 5 * MIB, os.urandom(3 * CHUNK))
        zvol.write(name, 200 * MIB, os.urandom(CHUNK))
        zvol.write(name, 30 * MIB, bytes(CHUNK))
        subprocess.run(["blkdiscard", "-o", str(20 * MIB), "-l", str(2 * CHUNK), zvol.node(name)], check=True)
    second = make("snapshot", sr, disk, "files, second backup")
    chunks = changed_chunks(sr, first, second)
    with attached(sr, second) as name, zvol.opened(name) as descriptor:
        for offset in chunks:
            copy[offset : offset + CHUNK] = os.pread(descriptor, CHUNK, offset)
        current = os.pread(descriptor, len(copy), 0)
    assert len(chunks) == 7
    assert copy == current
    print("  copied; the backup equals the snapshot")
    for key, name in ((first, "first backup"), (second, "second backup"), (disk, "files")):
        delete(sr, key, name)


def srs() -> "list[str]":
    """The attached SRs, the mirror first."""
    return sorted(call("Plugin.ls"), key=lambda sr: call("SR.stat", sr=sr)["name"], reverse=True)


def busy() -> None:
    """Makes disks until the power goes; each line is one that had been made."""
    sr = next(sr for sr in srs() if call("SR.stat", sr=sr)["name"] == "mirrored")
    number = 0
    while True:
        number += 1
        call("Volume.create", sr=sr, name=f"disk {number}", description="", size=GIB, sharable=False)
        print(f"  disk {number} is made", flush=True)


def after_power_cut() -> None:
    """The host has booted: xapi plugs its PBDs. Here SR.probe finds what there is."""
    title("The host is back")
    command("xe sr-probe-ext type=zfs-vol")
    for found in call("SR.probe", configuration={}):
        print(f"  {found['sr']['uuid']} {found['sr']['name']}: device-config {found['configuration']}")
        call("SR.attach", configuration=found["configuration"])
    for sr in srs():
        print()
        show_sr(sr)
        show_disks(sr)
    mirror = next(sr for sr in srs() if call("SR.stat", sr=sr)["name"] == "mirrored")
    shell(f"zpool scrub -w {mirror} && zpool status {mirror} | grep -E 'scan|errors'")


if __name__ == "__main__":
    parts = (life, families, datapath, backup, busy, after_power_cut)
    {part.__name__.replace("_", "-"): part for part in parts}[sys.argv[1]]()
