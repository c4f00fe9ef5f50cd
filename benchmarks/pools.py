# SPDX-License-Identifier: LGPL-2.1-only
"""The pools to measure in: an SR with volumes, and a spare disk for SRs that are made and removed."""

import ctypes
import os
from pathlib import Path
import subprocess
import sys

from tests import client
from zfsvol import naming

GIB = 1 << 30
MIB = 1 << 20
DISK = 20 * GIB  # sparse: only metadata is written to it
VOLUME = 10 * GIB


def run(*argv: str, check: bool = True) -> str:
    """Runs a command; returns its stdout."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if check and done.returncode:
        sys.exit("{}: {}".format(" ".join(argv), done.stderr.decode()))
    return done.stdout.decode()


class Failed(SystemExit):
    """Ends the program with a sentence that says what went wrong."""


class Core:
    """libzfs_core, which makes many volumes fast: it does what `zfs create` does, without a process for each."""

    ZVOL = 3
    UNIQUE_NAME = 1

    def __init__(self) -> None:
        self.nvpair = ctypes.CDLL("libnvpair.so.3")
        self.core = ctypes.CDLL("libzfs_core.so.3")
        self.core.libzfs_core_init()

    def create(self, dataset: str, numbers: "dict[str, int]", texts: "dict[str, str]") -> None:
        """Makes a zvol with these properties."""
        values = ctypes.c_void_p()
        self.nvpair.nvlist_alloc(ctypes.byref(values), self.UNIQUE_NAME, 0)
        for name, number in numbers.items():
            self.nvpair.nvlist_add_uint64(values, name.encode(), ctypes.c_uint64(number))
        for name, text in texts.items():
            self.nvpair.nvlist_add_string(values, name.encode(), text.encode())
        error = self.core.lzc_create(dataset.encode(), self.ZVOL, values, None, 0)
        self.nvpair.nvlist_free(values)
        if error:
            raise Failed(f"zfs create {dataset}: {os.strerror(error)}")


class Pools:
    """An SR with volumes, and a spare disk for SRs that are made and removed. `close` removes everything."""

    def __init__(self, directory: Path, disks: "list[str]") -> None:
        self.directory = directory
        self.given = disks
        self.before = self.imported()
        self.loops: "list[str]" = []
        self.core = Core()
        self.number = 0
        self.sr = ""
        self.volumes: "list[str]" = []
        self.spare_uuid = client.new_uuid()
        self.spare_disk = ""
        self.spare_configuration: "dict[str, str]" = {}
        self.model: "tuple[dict[str, int], dict[str, str]]" = ({}, {})

    def open(self) -> None:
        """Makes the SR and its first volume, by the driver's verbs."""
        configuration = client.call(
            "SR.create", uuid=client.new_uuid(), configuration={"device": self.disk()}, name="sr", description=""
        )
        self.sr = client.call("SR.attach", configuration=configuration)
        self.spare_disk = self.disk()
        key = client.call("Volume.create", sr=self.sr, name="disk", description="", size=VOLUME, sharable=False)["key"]
        client.call("Volume.set", sr=self.sr, key=key, k="vdi-type", v="user")  # as xapi always does
        self.volumes = [key]
        self.model = self.properties_of(key)

    def close(self) -> None:
        """Destroys the pools and detaches the loop devices."""
        for pool in self.imported() - self.before:
            run("zpool", "destroy", "-f", pool, check=False)
        for loop in self.loops:
            run("losetup", "--detach", loop, check=False)

    @staticmethod
    def imported() -> "set[str]":
        """The pools that are imported."""
        return set(run("zpool", "list", "-H", "-o", "name").split("\n")) - {""}

    def disk(self) -> str:
        """An empty disk: one of the given ones, else a loop device on a sparse file."""
        if self.given:
            return self.given.pop(0)
        path = self.directory / f"disk{len(self.loops)}"
        with path.open("wb") as file:
            file.truncate(DISK)
        self.loops.append(run("losetup", "--find", "--show", str(path)).strip())
        return self.loops[-1]

    def properties_of(self, key: str) -> "tuple[dict[str, int], dict[str, str]]":
        """What was set on a volume when it was made: numbers, and texts."""
        argv = ["zfs", "get", "-Hp", "-o", "property,value", "-s", "local", "all", self.volume(key)]
        texts = dict(line.split("\t", 1) for line in run(*argv).splitlines())
        block = run("zfs", "get", "-Hp", "-o", "value", "volblocksize", self.volume(key)).strip()
        return {"volsize": int(texts.pop("volsize")), "volblocksize": int(block)}, texts

    def volume(self, key: str) -> str:
        """The dataset of a volume."""
        return f"{self.sr}/{key}"

    def add(self, key: str) -> str:
        """Adds a volume with the properties that the driver gave the first one; returns its key."""
        self.core.create(self.volume(key), *self.model)
        return key

    def present(self) -> "set[str]":
        """The names, relative to the root, of all that is below it: zvols, their snapshots, the graveyard."""
        names = run("zfs", "list", "-H", "-t", "filesystem,volume,snapshot", "-o", "name", "-r", self.sr).split()
        return {name[len(self.sr) + 1 :] for name in names} - {""}

    def have(self, number: int) -> None:
        """Adds volumes until there are `number`, and destroys everything else in the SR."""
        if len(self.volumes) < number:
            while len(self.volumes) < number:
                self.volumes.append(self.add(client.new_uuid()))
            if self.properties_of(self.volumes[-1]) != self.model:
                raise Failed(f"{self.volumes[-1]} is not as the driver would have made it")
        while True:
            # The graveyard comes first, and takes along all that was made from its zvols.
            others = sorted(self.present().difference(self.volumes))
            if not others:
                return
            run("zfs", "destroy", "-R", self.volume(others[0]))

    # The spare disk, and the SR on it

    def spare_device(self) -> "dict[str, str]":
        """The device-config of SRs on the spare disk.

        Without autotrim: in OpenZFS 2.1 every export and destroy of a pool with autotrim waits for five seconds.
        """
        return {"device": self.spare_disk, "autotrim": "off"}

    def no_spare(self) -> None:
        """Removes all that is on the spare disk."""
        for pool in self.imported() - self.before - {self.sr}:
            run("zpool", "destroy", "-f", pool)
        run("zpool", "labelclear", "-f", self.spare_disk, check=False)
        run("wipefs", "--all", self.spare_disk, check=False)  # the partitions, where ZFS makes some

    def spare(self, *, imported: bool) -> str:
        """Makes sure that the spare disk has its SR, with its pool imported or not; returns its name."""
        name = naming.PREFIX + self.spare_uuid
        if name not in self.imported():
            run("zpool", "import", "-N", "-d", "/dev", "-o", "cachefile=none", name, check=False)
        if name not in self.imported():
            self.no_spare()
            self.spare_configuration = client.call(
                "SR.create", uuid=self.spare_uuid, configuration=self.spare_device(), name="spare", description=""
            )
        if not imported:
            run("zpool", "export", name)
        return name
