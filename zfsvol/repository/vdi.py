# SPDX-License-Identifier: LGPL-2.1-only
"""A VDI, by the properties of its zvol. Pure."""

from zfsvol import naming, properties
from zfsvol.errors import InvalidArgument, InvalidSize

# Sizes are multiples of 2 MiB: VHD export rounds to them, and backup tools read change bitmaps in steps of 2 MiB.
GRANULE = 2 << 20
# The client's integers have 63 bits; ZFS would take more.
LARGEST = (1 << 63) - GRANULE


class Base:
    """What is left of a snapshot whose data was destroyed, enough to ask what changed since.

    `bookmark`: the name, within its zvol, of the ZFS bookmark of the snapshot. `guid`: that of the bookmark and of the
    ZFS snapshot. `family`: the guid of the zvol that was the first of the VDI's family.
    """

    def __init__(self, bookmark: str, guid: int, family: int) -> None:
        self.bookmark = bookmark
        self.guid = guid
        self.family = family

    @classmethod
    def parsed(cls, text: str) -> "Base":
        """The base by its property. A text that the driver did not write means a base that is lost."""
        words = text.split(" ")
        if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
            return cls(words[0], int(words[1]), int(words[2]))
        return cls("", 0, 0)

    def __str__(self) -> str:
        """Its property."""
        return f"{self.bookmark} {self.guid} {self.family}"


class VDI:
    """A VDI: its key, which is its uuid, its zvol, and the zvol's properties as they were read.

    The zvol is `<root>/<key>`. After an interrupted revert it is `<root>/.revert-<key>` until a verb renames it; to
    clients it is the disk meanwhile.
    """

    def __init__(self, root: naming.Root, key: str, name: str, values: "dict[str, str]") -> None:
        self.root = root
        self.key = key
        self.zvol = root.volume(name)
        self.values = values

    @property
    def is_renamed(self) -> bool:
        """Whether its zvol has its final name."""
        return self.zvol == self.root.volume(self.key)

    @property
    def is_snapshot(self) -> bool:
        """Whether Volume.snapshot made it."""
        return naming.VDI_SNAPSHOT in self.values

    @property
    def frozen_at(self) -> "str | None":
        """The ZFS snapshot that has the VDI's content for ever; None if the content may change, or is destroyed."""
        is_frozen = self.is_snapshot and self.values.get("readonly") == "on"
        return self.values.get("origin") if is_frozen else None

    @property
    def base(self) -> "Base | None":
        """What is left of its data if that was destroyed; None if it has its data."""
        text = self.values.get(naming.VDI_METADATA)
        return None if text is None else Base.parsed(text)

    @property
    def is_tracked(self) -> bool:
        """Whether the client has enabled changed block tracking for it."""
        return naming.VDI_CBT in self.values

    def require_data(self, done: str) -> None:
        """Raises InvalidArgument if the VDI's data was destroyed. `done`: what the caller wants to do: "cloned"."""
        if self.base is not None:
            raise InvalidArgument(
                f"The data of the snapshot {self.key} was destroyed, and only the record of what has changed since is "
                f"left: it cannot be {done}."
            )

    @property
    def keys(self) -> "dict[str, str]":
        """The client's keys."""
        return properties.decode_keys(self.values)

    @property
    def size(self) -> int:
        """Its virtual size in bytes."""
        return int(self.values["volsize"])


def is_vdi(name: str, values: "dict[str, str]") -> bool:
    """Whether a zvol below a root has a VDI's name, is completely made and is not removed."""
    return naming.is_uuid(name) and _is_whole(values)


def is_removed(values: "dict[str, str]") -> bool:
    """Whether a zvol with these properties is a removed VDI."""
    return naming.VDI_REMOVED in values


def _is_whole(values: "dict[str, str]") -> bool:
    return naming.VDI_NAME in values and not is_removed(values)


def key_of(name: str, zvols: "dict[str, dict[str, str]]") -> "str | None":
    """The key of the VDI that a zvol below a root is; None if the zvol is no VDI."""
    values = zvols[name]
    if is_vdi(name, values):
        return name
    key = naming.reverted(name)
    if key is not None and _is_whole(values) and not is_vdi(key, zvols.get(key, {})):
        return key
    return None


def found(root: naming.Root, key: str, zvols: "dict[str, dict[str, str]]") -> "VDI | None":
    """The VDI with this key among zvols below a root; None if it is not among them."""
    for name in (key, naming.revert_name(key)):
        if name in zvols and key_of(name, zvols) == key:
            return VDI(root, key, name, zvols[name])
    return None


def rounded(size: int) -> int:
    """`size` rounded up to a size that a VDI can have. Raises InvalidSize."""
    if size <= 0:
        raise InvalidSize(f"{size} bytes; a disk has at least one byte.")
    if size > LARGEST:
        raise InvalidSize(f"{size} bytes; the largest possible disk has {LARGEST}.")
    return -(-size // GRANULE) * GRANULE


def record(vdi: VDI, *, taken: int) -> "dict[str, object]":
    """The interface's `volume` record of a VDI that uses `taken` bytes of the pool."""
    keys = vdi.keys
    # Storage migration treats all VDIs with the same content_id as having a common base, even if it is empty.
    keys[naming.CONTENT] = keys.get(naming.CONTENT) or vdi.key
    return {
        "key": vdi.key,
        "uuid": vdi.key,
        "name": properties.text(vdi.values, naming.VDI_NAME),
        "description": properties.text(vdi.values, naming.VDI_DESCRIPTION),
        "read_write": vdi.values.get("readonly") != "on",
        "sharable": properties.decode(vdi.values, naming.VDI_SHARABLE) is True,
        "virtual_size": vdi.size,
        "cbt_enabled": vdi.is_tracked,
        "physical_utilisation": taken,
        "uri": [vdi.root.uri(vdi.key)],
        "keys": keys,
    }
