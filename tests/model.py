# SPDX-License-Identifier: LGPL-2.1-only
"""The expected content of an SR: each VDI with its bytes, name, description, keys, size and flags. Pure.

Tests compare the driver with it. It knows nothing of families: every VDI has its own bytes.
"""

import copy
import hashlib
import random
from typing import Any, Dict, Optional, Set, Tuple

GRANULE = 2 << 20
BLOCK = 16 << 10
BIT = 64 << 10

Keys = Dict[str, str]


class Refused(Exception):
    """The verb must fail with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = f"SR_BACKEND_FAILURE_{code}"


MAKING = ("Volume.create", "Volume.snapshot", "Volume.clone")

# In place of the checksum of a snapshot whose data was destroyed.
DESTROYED = "destroyed"

IN_USE, MISSING, INVALID, SIZE, NO_CHANGES = 24, 46, 1, 79, 460


class VDI:
    """One disk or snapshot.

    `versions`: for each block that was ever written, which write it was, as a number of its own, and whether the block
    holds data since. `family`: any text that all VDIs made from each other share.
    """

    def __init__(self, name: str, description: str, size: int, *, sharable: bool) -> None:
        self.name = name
        self.description = description
        self.content = bytes(-(-size // GRANULE) * GRANULE)
        self.sharable = sharable
        self.is_snapshot = False
        self.keys: Keys = {}
        self.is_tracked = False
        self.has_data = True
        self.versions: Dict[int, Tuple[int, bool]] = {}
        self.family = ""

    def summary(self) -> "dict[str, Any]":
        """What SR.ls and the zvol's content must show."""
        return {
            "name": self.name,
            "description": self.description,
            "virtual_size": len(self.content),
            "sharable": self.sharable,
            "read_write": not self.is_snapshot,
            "cbt_enabled": self.is_tracked,
            "keys": self.keys,
            "content": checksum(self.content) if self.has_data else DESTROYED,
        }


def checksum(content: bytes) -> str:
    """The checksum of a VDI's bytes."""
    return hashlib.sha256(content).hexdigest()


def noise(seed: int, length: int) -> bytes:
    """Incompressible bytes, different for each seed."""
    return random.Random(seed).getrandbits(8 * length).to_bytes(length, "little")


class Model:
    """The SR. Its methods are the Volume verbs; `made` is the uuid that the driver gave to the new VDI."""

    def __init__(self) -> None:
        self.vdis: Dict[str, VDI] = {}
        self.writes = 0
        self.opened: Set[str] = set()

    def carry_out(self, verb: str, answer: Any, **arguments: Any) -> None:
        """Carries out a verb, given the driver's answer. Raises Refused."""
        if verb in MAKING:
            arguments["made"] = answer["key"] if isinstance(answer, dict) else ""
        getattr(self, verb.partition(".")[2])(**arguments)

    def find(self, key: str) -> VDI:
        """Raises Refused."""
        if key not in self.vdis:
            raise Refused(MISSING)
        return self.vdis[key]

    def require_idle(self, key: str) -> None:
        """Raises Refused."""
        if key in self.opened:
            raise Refused(IN_USE)

    def create(self, made: str, name: str, description: str, size: int, *, sharable: bool) -> None:
        self.vdis[made] = VDI(name, description, size, sharable=sharable)
        self.vdis[made].family = made

    def _with_data(self, key: str) -> VDI:
        vdi = self.find(key)
        if not vdi.has_data:
            raise Refused(INVALID)
        return vdi

    def snapshot(self, key: str, made: str) -> None:
        source = self._with_data(key)
        vdi = self._copy(source, made)
        vdi.is_snapshot = True
        vdi.is_tracked = source.is_tracked
        vdi.keys.update(is_a_snapshot="true", snapshot_of=key)

    def clone(self, key: str, made: str) -> None:
        source = self._with_data(key)
        lost = source.keys.get("snapshot_of") if source.keys.get("is_a_snapshot") == "true" else None
        self._copy(source, made)
        if lost is not None and lost not in self.vdis:
            for vdi in self.vdis.values():
                if vdi.keys.get("snapshot_of") == lost:
                    vdi.keys["snapshot_of"] = made

    def _copy(self, source: VDI, made: str) -> VDI:
        vdi = copy.copy(source)
        vdi.is_snapshot = vdi.is_tracked = False
        vdi.keys = {name: value for name, value in source.keys.items() if name == "vdi-type"}
        self.vdis[made] = vdi
        return vdi

    def revert(self, snapshot: str, key: str) -> None:
        source, target = self.find(snapshot), self.find(key)
        if target.is_snapshot or not source.is_snapshot or not source.has_data:
            raise Refused(INVALID)
        temporary = self._temporary(key)
        for concerned in (key, temporary):
            self.require_idle(concerned)
        self.vdis.pop(temporary, None)
        target.keys.pop("clone-on-boot", None)
        target.content, target.versions, target.family = source.content, source.versions, source.family

    def destroy(self, key: str) -> None:
        if key in self.vdis:
            doomed = (self._temporary(key), key)
            for concerned in doomed:
                self.require_idle(concerned)
            for concerned in doomed:
                self.vdis.pop(concerned, None)

    def _temporary(self, key: str) -> str:
        named = self.vdis[key].keys.get("clone-on-boot", "")
        return named if named != key else ""

    def resize(self, key: str, new_size: int) -> None:
        vdi = self.find(key)
        if vdi.is_snapshot:
            raise Refused(INVALID)
        size = -(-new_size // GRANULE) * GRANULE
        if size < len(vdi.content):
            raise Refused(SIZE)
        vdi.content += bytes(size - len(vdi.content))

    def set_name(self, key: str, new_name: str) -> None:
        self.find(key).name = new_name

    def set_description(self, key: str, new_description: str) -> None:
        self.find(key).description = new_description

    def set(self, key: str, k: str, v: str) -> None:
        self.find(key).keys[k] = v

    def unset(self, key: str, k: str) -> None:
        self.find(key).keys.pop(k, None)

    def enable_cbt(self, key: str) -> None:
        self._trackable(key).is_tracked = True

    def disable_cbt(self, key: str) -> None:
        self._trackable(key).is_tracked = False

    def _trackable(self, key: str) -> VDI:
        vdi = self.find(key)
        if vdi.is_snapshot or vdi.keys.get("vdi-type", "") not in ("user", "system", "") or "clone-on-boot" in vdi.keys:
            raise Refused(INVALID)
        return vdi

    def data_destroy(self, key: str) -> None:
        vdi = self.find(key)
        if not vdi.has_data:
            return
        if not vdi.is_snapshot or not vdi.is_tracked:
            raise Refused(INVALID)
        self.require_idle(key)
        vdi.has_data = False

    def changes(self, key: str, key2: str) -> "Tuple[Set[int], Set[int]]":
        """The blocks of 64 KiB of `key2` that a change list must have, and those that it may have."""
        first, second = self.find(key), self.find(key2)
        if key == key2 or not second.has_data or first.family != second.family:
            raise Refused(NO_CHANGES)
        size = len(second.content)
        must = {at // BIT for at in range(0, size, BLOCK) if _block(first, at) != _block(second, at)}
        touched = [block for block in {*first.versions, *second.versions} if block * BLOCK < size]
        may = {b * BLOCK // BIT for b in touched if first.versions.get(b) != second.versions.get(b)}
        return must, may

    def write(self, key: str, offset: int, data: bytes) -> None:
        """Not a verb: a VM's write of whole blocks, or its discard of them if `data` is all zeros."""
        vdi = self.vdis[key]
        vdi.content = vdi.content[:offset] + data + vdi.content[offset + len(data) :]
        versions = dict(vdi.versions)
        for block in range(offset // BLOCK, (offset + len(data)) // BLOCK):
            holds_data = any(data)
            if holds_data or versions.get(block, (0, False))[1]:
                self.writes += 1
                versions[block] = (self.writes, holds_data)
        vdi.versions = versions

    def summary(self) -> "dict[str, dict[str, Any]]":
        """All VDIs by key."""
        return {key: vdi.summary() for key, vdi in self.vdis.items()}

    def adopt_keys(self, found: "dict[str, dict[str, Any]]") -> None:
        """Takes over found keys that may have one of two values: see without_lost."""
        for key, vdi in self.vdis.items():
            vdi.keys = found[key]["keys"]


def bits(bitmap: bytes) -> "Set[int]":
    """The numbers of the set bits, the most significant bit of each byte first."""
    return {8 * index + bit for index, byte in enumerate(bitmap) for bit in range(8) if byte & 128 >> bit}


def _block(vdi: VDI, offset: int) -> bytes:
    """A block's content, zeros beyond the disk's end."""
    return vdi.content[offset : offset + BLOCK] or bytes(BLOCK)


def without_lost(summary: "dict[str, dict[str, Any]]") -> "dict[str, dict[str, Any]]":
    """The summary without the keys that name a missing disk.

    Volume.clone makes the snapshots of such a disk snapshots of the clone, before it makes the clone. If it dies in
    between, they are again snapshots of a missing disk, but of another one.
    """
    return {
        key: {**vdi, "keys": {k: v for k, v in vdi["keys"].items() if k != "snapshot_of" or v in summary}}
        for key, vdi in summary.items()
    }


def observed(record: "dict[str, Any]", content: Optional[str]) -> "dict[str, Any]":
    """A record from the driver, and the checksum of the zvol's bytes, in the form of VDI.summary.

    Leaves out the keys whose values the driver chooses: content_id and snapshot_time.
    """
    names = ("name", "description", "virtual_size", "sharable", "read_write", "cbt_enabled")
    keys = {name: value for name, value in record["keys"].items() if name not in ("content_id", "snapshot_time")}
    return {**{name: record[name] for name in names}, "keys": keys, "content": content}
