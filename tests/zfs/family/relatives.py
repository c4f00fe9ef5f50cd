# SPDX-License-Identifier: LGPL-2.1-only
"""Makes disks from each other, and checks what they hold and what is left of them."""

import functools
import os
import re
import subprocess
import sys
from typing import Any, NamedTuple

from tests import client, zvol
from tests.client import call_inside
from tests.model import checksum, noise
from tests.zfs.conftest import MIB, run
from zfsvol.repository import family, repair
from zfsvol.repository.sr import SR

SIZE = 2 * MIB
BLOCK = 16384
INVALID, IN_USE, FULL, NO_VDI, NO_SR = (f"SR_BACKEND_FAILURE_{code}" for code in (1, 24, 44, 46, 47))


def with_nodes(sr: str) -> str:
    """From now on all zvols of the SR have device nodes."""
    run("zfs", "set", "volmode=dev", sr)
    return sr


def destroy_everything(sr: str) -> None:
    """Destroys every VDI; nothing at all may be left."""
    try:
        require_well(sr)
        for key in listed(sr):
            call_inside("Volume.destroy", sr=sr, key=key)
        left = names(sr)
        assert left == set()
    except BaseException:
        for name in run("zfs", "list", "-H", "-o", "name", "-d", "1", "-r", sr).split()[1:]:
            run("zfs", "destroy", "-R", name, check=False)
        call_inside("SR.attach", configuration={"sr_uuid": sr[3:]})
        raise


def create(sr: str, size: int = SIZE, name: str = "disk", description: str = "", *, sharable: bool = False) -> str:
    made = call_inside("Volume.create", sr=sr, name=name, description=description, size=size, sharable=sharable)
    return str(made["key"])


def snapshot(sr: str, key: str) -> str:
    return str(call_inside("Volume.snapshot", sr=sr, key=key)["key"])


def clone(sr: str, key: str) -> str:
    return str(call_inside("Volume.clone", sr=sr, key=key)["key"])


def destroy(sr: str, *keys: str) -> None:
    for key in keys:
        call_inside("Volume.destroy", sr=sr, key=key)


def revert(sr: str, key: str, to: str) -> None:
    call_inside("Volume.revert", sr=sr, snapshot=to, key=key)


def stat(sr: str, key: str) -> "dict[str, Any]":
    read = call_inside("Volume.stat", sr=sr, key=key)
    assert isinstance(read, dict)
    return read


def set_key(sr: str, key: str, k: str, v: str) -> None:
    call_inside("Volume.set", sr=sr, key=key, k=k, v=v)


def listed(sr: str) -> "dict[str, dict[str, Any]]":
    """The records that SR.ls returns, by key."""
    return {record["key"]: record for record in call_inside("SR.ls", sr=sr)}


def lasting(record: "dict[str, Any]") -> "dict[str, Any]":
    """A record without its physical_utilisation."""
    return {name: value for name, value in record.items() if name != "physical_utilisation"}


def records(sr: str) -> "dict[str, dict[str, Any]]":
    return {key: lasting(record) for key, record in listed(sr).items()}


def write(sr: str, key: str, seed: int, length: int = MIB) -> None:
    zvol.write(f"{sr}/{key}", 0, noise(seed, length))


@functools.lru_cache(maxsize=None)
def checksum_of(seed: int, size: int) -> str:
    """The checksum of a VDI that `write` has written to once, with this seed."""
    return checksum(noise(seed, MIB) + bytes(size - MIB))


def require_content(sr: str, seeds: "dict[str, int]", size: int = SIZE) -> None:
    """The VDIs have this size, and hold only what `write` has written with these seeds."""
    found = zvol.checksums(dict.fromkeys((f"{sr}/{key}" for key in seeds), size))
    assert found == {f"{sr}/{key}": checksum_of(seed, size) for key, seed in seeds.items()}


def content(sr: str, key: str) -> bytes:
    """All bytes of a VDI; there must be as many as its record says."""
    with zvol.opened(f"{sr}/{key}") as descriptor, open(descriptor, "rb", closefd=False) as file:
        found = file.read()
    assert len(found) == stat(sr, key)["virtual_size"]
    return found


def names(sr: str) -> "set[str]":
    """The names, relative to the SR's root, of all datasets and snapshots below it."""
    found = run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr).split()
    return {name[len(sr) + 1 :] for name in found if name.startswith(sr + "/")}


def buried(sr: str) -> "set[str]":
    """The uuids of removed VDIs whose zvols are still there."""
    return {name[len(".gone-") :].split(".")[0] for name in names(sr) if re.match(r"\.gone-[^@]+\Z", name)}


def graves(sr: str) -> "list[str]":
    """The zvols of removed VDIs."""
    found = run("zfs", "list", "-H", "-o", "name", "-t", "volume", "-r", sr).split()
    return sorted(name for name in found if name.startswith(f"{sr}/.gone-"))


def prop(name: str, dataset: str) -> str:
    return run("zfs", "get", "-Hp", "-o", "value", name, dataset).strip()


def used(sr: str) -> int:
    return int(prop("used", sr))


def findings(sr: str) -> "list[str]":
    return [finding.text for finding in repair.inspect(family.read(SR(sr)))]


def require_well(sr: str) -> None:
    """Nothing is half done, and nothing is there that nobody needs."""
    assert findings(sr) == []


def picture(sr: str) -> "tuple[set[str], str]":
    """The names of all that is in the SR, and all properties set on it."""
    settings = run("zfs", "get", "-Hp", "-r", "-s", "local", "-o", "name,property,value", "all", sr)
    return names(sr), settings


class Members(NamedTuple):
    """A small family. The disk was written to again after the others were made from it."""

    disk: str
    snapshot: str
    clone: str  # of the disk
    clone_of_snapshot: str

    @classmethod
    def two(cls, sr: str) -> "Members":
        """The disk holds 2, the snapshot 1; no clones."""
        disk = create(sr)
        write(sr, disk, 1)
        taken = snapshot(sr, disk)
        write(sr, disk, 2)
        return cls(disk, taken, "", "")

    @classmethod
    def made(cls, sr: str) -> "Members":
        """The disk holds 2, the clone of the snapshot 3, all else 1."""
        disk = create(sr)
        write(sr, disk, 1)
        taken = snapshot(sr, disk)
        made = cls(disk, taken, clone(sr, disk), clone(sr, taken))
        write(sr, disk, 2)
        write(sr, made.clone_of_snapshot, 3)
        return made

    def require(self, sr: str, *gone: str) -> None:
        """All but those in `gone` are there, and hold what they held when they were made."""
        seeds = {self.disk: 2, self.snapshot: 1, self.clone: 1, self.clone_of_snapshot: 3}
        expected = {key: seed for key, seed in seeds.items() if key and key not in gone}
        assert set(listed(sr)) == set(expected)
        require_content(sr, expected)


VERBS_ON_ONE: "dict[str, dict[str, Any]]" = {
    "Volume.stat": {},
    "Volume.snapshot": {},
    "Volume.clone": {},
    "Volume.resize": {"new_size": 2 * SIZE},
    "Volume.set_name": {"new_name": "new"},
    "Volume.set_description": {"new_description": "new"},
    "Volume.set": {"k": "k", "v": "v"},
    "Volume.unset": {"k": "k"},
    "Volume.destroy": {},
}


def check(dataset: str, *options: str, **environment: str) -> "tuple[int, str, str]":
    """Status, stdout and stderr of `python3 -m zfsvol check`."""
    python = os.environ.get("ZFSVOL_PYTHON", sys.executable)
    done = subprocess.run(
        [python, "-m", "zfsvol", "check", dataset, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**client.environment(), **environment},
        timeout=120,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()
