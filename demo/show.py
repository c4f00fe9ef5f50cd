# SPDX-License-Identifier: LGPL-2.1-only
"""The parts of the demonstration that run in the guest: each xe command, and what the driver answers to it.

There is no xapi here: the verbs are called as xapi's storage service calls them when it carries out the command.
"""

import os
import subprocess
import sys
from typing import Any

from tests.client import VerbError, call, new_uuid

GIB = 1 << 30


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
    {"life": life, "busy": busy, "after-power-cut": after_power_cut}[sys.argv[1]]()
