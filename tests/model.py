# SPDX-License-Identifier: LGPL-2.1-only
"""What an SR should hold: each VDI with its bytes, name, description, keys, size and flags. Pure.

The reference that the driver is held against. It knows nothing of families: every VDI has bytes of its own.
"""

import copy
import hashlib
import random
from typing import Any, Dict, Optional, Set

GRANULE = 2 << 20

Keys = Dict[str, str]


class Refused(Exception):
    """A verb that must fail, with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = f"SR_BACKEND_FAILURE_{code}"


MAKING = ("Volume.create", "Volume.snapshot", "Volume.clone")

IN_USE, MISSING, INVALID, SIZE = 24, 46, 1, 79


class VDI:
    """One disk or snapshot."""

    def __init__(self, name: str, description: str, size: int, *, sharable: bool) -> None:
        self.name = name
        self.description = description
        self.content = bytes(-(-size // GRANULE) * GRANULE)
        self.sharable = sharable
        self.is_snapshot = False
        self.keys: Keys = {}

    def summary(self) -> "dict[str, Any]":
        """What SR.ls and a look into the zvol must tell."""
        return {
            "name": self.name,
            "description": self.description,
            "virtual_size": len(self.content),
            "sharable": self.sharable,
            "read_write": not self.is_snapshot,
            "keys": self.keys,
            "content": checksum(self.content),
        }


def checksum(content: bytes) -> str:
    """Of all bytes of a VDI."""
    return hashlib.sha256(content).hexdigest()


def noise(seed: int, length: int) -> bytes:
    """Bytes that do not compress and that no other seed gives."""
    return random.Random(seed).getrandbits(8 * length).to_bytes(length, "little")


class Model:
    """The SR. Its methods are the Volume verbs; `made` is the uuid that the driver has given to what it made."""

    def __init__(self) -> None:
        self.vdis: Dict[str, VDI] = {}
        self.opened: Set[str] = set()

    def carry_out(self, verb: str, answer: Any, **arguments: Any) -> None:
        """A verb, with what the driver answered. Raises Refused."""
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

    def snapshot(self, key: str, made: str) -> None:
        source = self.find(key)
        vdi = self._copy(source, made)
        vdi.is_snapshot = True
        vdi.keys.update(is_a_snapshot="true", snapshot_of=key)

    def clone(self, key: str, made: str) -> None:
        source = self.find(key)
        lost = source.keys.get("snapshot_of") if source.keys.get("is_a_snapshot") == "true" else None
        self._copy(source, made)
        if lost is not None and lost not in self.vdis:
            for vdi in self.vdis.values():
                if vdi.keys.get("snapshot_of") == lost:
                    vdi.keys["snapshot_of"] = made

    def _copy(self, source: VDI, made: str) -> VDI:
        vdi = copy.copy(source)
        vdi.is_snapshot = False
        vdi.keys = {name: value for name, value in source.keys.items() if name == "vdi-type"}
        self.vdis[made] = vdi
        return vdi

    def revert(self, snapshot: str, key: str) -> None:
        source, target = self.find(snapshot), self.find(key)
        if target.is_snapshot or not source.is_snapshot:
            raise Refused(INVALID)
        temporary = self._temporary(key)
        for concerned in (key, temporary):
            self.require_idle(concerned)
        self.vdis.pop(temporary, None)
        target.keys.pop("clone-on-boot", None)
        target.content = source.content

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

    def write(self, key: str, offset: int, data: bytes) -> None:
        """Not a verb: what a VM does."""
        content = self.vdis[key].content
        self.vdis[key].content = content[:offset] + data + content[offset + len(data) :]

    def summary(self) -> "dict[str, dict[str, Any]]":
        """All VDIs by key."""
        return {key: vdi.summary() for key, vdi in self.vdis.items()}

    def adopt_keys(self, found: "dict[str, dict[str, Any]]") -> None:
        """Takes over the keys of what was found, where they may be one or the other: see without_lost."""
        for key, vdi in self.vdis.items():
            vdi.keys = found[key]["keys"]


def without_lost(summary: "dict[str, dict[str, Any]]") -> "dict[str, dict[str, Any]]":
    """The same without the keys that name a disk which is not there.

    Volume.clone gives the snapshots of such a disk to the clone that it is about to make: when it dies in between, they
    are snapshots of a disk that is not there, as they were before, but of another one.
    """
    return {
        key: {**vdi, "keys": {k: v for k, v in vdi["keys"].items() if k != "snapshot_of" or v in summary}}
        for key, vdi in summary.items()
    }


def observed(record: "dict[str, Any]", content: Optional[str]) -> "dict[str, Any]":
    """A record that the driver answered with, and the checksum of the zvol's bytes, in the form of VDI.summary.

    The keys whose values the driver chooses are left out: content_id and snapshot_time.
    """
    names = ("name", "description", "virtual_size", "sharable", "read_write")
    keys = {name: value for name, value in record["keys"].items() if name not in ("content_id", "snapshot_time")}
    return {**{name: record[name] for name in names}, "keys": keys, "content": content}
