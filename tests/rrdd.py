# SPDX-License-Identifier: LGPL-2.1-only
"""A reader of xapi's statistics files, and a stand-in for xcp-rrdd that finds them as the genuine one does.

Written from the description of protocol V2, not from the code that writes. What the genuine daemon refuses, it refuses:
then it raises Refused, or NoUpdate.
"""

import json
import mmap
import os
from pathlib import Path
import struct
from typing import Any, Dict, List, Tuple
import zlib

_MAGIC = b"DATASOURCES"
_TYPES = ("gauge", "absolute", "derive")
_MEMBERS = {"description", "owner", "value_type", "type", "default", "units", "min", "max", "transform"}


class Refused(Exception):
    """The file is broken. The daemon would log that, and not read it for a while."""


class NoUpdate(Exception):
    """The file is as it was. The daemon would not read it for a while."""


class Number:
    """One data source and its value."""

    def __init__(self, name: str, member: "Dict[str, str]", raw: bytes) -> None:
        self.name = name
        self.owner = member.get("owner", "host")
        self.kind = member.get("type", "absolute")
        self.units = member.get("units", "")
        self.description = member.get("description", "")
        self.value_type = member["value_type"]
        self.is_default = member.get("default", "false") == "true"
        self.minimum = float(member.get("min", "-inf"))
        self.maximum = float(member.get("max", "inf"))
        self.value: float = struct.unpack(">q" if self.value_type == "int64" else ">d", raw)[0]


def _check(name: str, member: "Dict[str, Any]") -> None:
    if not isinstance(member, dict) or not all(isinstance(value, str) for value in member.values()):
        raise Refused(f"{name}: a member is no string: {member}")
    owner = member.get("owner", "host").lower().split(" ")
    for is_right, what in (
        (set(member) <= _MEMBERS, "unknown member"),
        (member.get("value_type") in ("float", "int64"), "value_type"),
        (member.get("type", "absolute").lower() in _TYPES, "type"),
        (member.get("default", "false") in ("true", "false"), "default"),
        (member.get("transform", "identity") in ("identity", "inverse"), "transform"),
        (owner == ["host"] or (len(owner) == 2 and owner[0] in ("vm", "sr")), "owner"),
    ):
        if not is_right:
            raise Refused(f"{name}: {what} of {member}")
    for bound in ("min", "max"):
        try:
            float(member.get(bound, "0"))
        except ValueError:
            raise Refused(f"{name}: {bound} of {member}") from None


class Reader:
    """Reads one file, which it maps once, as the daemon does."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise Refused("empty")
            self._map = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        self._last = 0
        self.time = 0.0

    def read(self) -> "List[Number]":
        """The data sources with their present values."""
        content = bytes(self._map)
        if content[:11] != _MAGIC:
            raise Refused("header")
        try:
            data_sum, text_sum, count = struct.unpack_from(">III", content, 11)
            end = 31 + 8 * count
            (length,) = struct.unpack_from(">I", content, end)
            (self.time,) = struct.unpack_from(">d", content, 23)
        except struct.error as error:
            raise Refused(f"length: {error}") from None
        if data_sum == self._last:
            raise NoUpdate
        if zlib.crc32(content[23:end]) != data_sum:
            raise Refused("checksum of the values")
        text = content[end + 4 : end + 4 + length]
        if len(text) != length or zlib.crc32(text) != text_sum:
            raise Refused("checksum of the metadata")
        self._last = data_sum
        members = _members(text)
        if len(members) != count:
            raise Refused(f"{count} values of {len(members)} data sources")
        return [Number(name, member, content[31 + 8 * i : 39 + 8 * i]) for i, (name, member) in enumerate(members)]


def _members(text: bytes) -> "List[Tuple[str, Dict[str, str]]]":
    """Names and descriptions in their order; the same name may come twice."""

    def pairs(found: "List[Tuple[str, Any]]") -> "Any":
        names = [name for name, _ in found]
        return dict(found) if len(set(names)) == len(names) and "datasources" not in names else found

    try:
        parsed = json.loads(text.decode(), object_pairs_hook=list)
        (sources,) = [value for name, value in parsed if name == "datasources"]
        members = [(str(name), pairs(member)) for name, member in sources]
    except (ValueError, TypeError) as error:
        raise Refused(f"metadata: {error}") from None
    for name, member in members:
        _check(name, member)
    return members


class Daemon:
    """Finds the files of a directory when it is asked to read, and keeps what it knows as long as the name is there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: "Dict[str, Reader]" = {}

    def read(self, prefix: str = "zfs-vol-") -> "Dict[Tuple[str, str], Number]":
        """All numbers by owner and name. Raises NoUpdate, Refused; AssertionError if a data source is there twice."""
        names = sorted(name for name in os.listdir(str(self._directory)) if name.startswith(prefix))
        names = [name for name in names if not name.endswith(".tmp")]
        self._known = {name: reader for name, reader in self._known.items() if name in names}
        found: "Dict[Tuple[str, str], Number]" = {}
        for name in names:
            if name not in self._known:
                self._known[name] = Reader(str(self._directory / name))
            for number in self._known[name].read():
                key = (number.owner, number.name)
                assert key not in found, f"{key} is there twice"
                found[key] = number
        return found
