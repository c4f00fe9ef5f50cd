# SPDX-License-Identifier: LGPL-2.1-only
"""The layout of a pool: the words of `vdev=`, and the block size that suits a layout. Pure.

Only known keywords and paths of devices reach zpool.
"""

import re

from zfsvol.errors import DeviceInvalid, InvalidArgument

_GROUP = re.compile(r"(mirror|raidz[123]?|draid[123]?(:\d+[dcs])*)\Z")
_CLASSES = ("log", "cache", "special", "dedup", "spare")
_DEVICE = re.compile(r"/dev/[A-Za-z0-9_.:@+/=-]+\Z")

_KIBIBYTE = 1024
DEFAULT_VOLBLOCKSIZE = 16 * _KIBIBYTE
_LARGEST_DEFAULT = 128 * _KIBIBYTE

# Data in blocks of the default size may use this much more space than the same data in the largest blocks.
_TOLERATED = 1.10


class Layout:
    """`words` for zpool, the `devices` among them, and the vdevs.

    `groups`: (class, kind, number of disks); the class of data vdevs, and the kind of single disks, is "".
    """

    def __init__(self, words: "list[str]", devices: "list[str]", groups: "list[tuple[str, str, int]]") -> None:
        self.words = words
        self.devices = devices
        self.groups = groups

    @property
    def data(self) -> "list[tuple[str, int]]":
        """The data vdevs as (kind, number of disks)."""
        return [(kind, disks) for role, kind, disks in self.groups if not role]

    def renamed(self, names: "dict[str, str]") -> "Layout":
        """The same layout with other names for devices."""
        words = [names.get(word, word) for word in self.words]
        return Layout(words, [names[device] for device in self.devices], self.groups)


def parse_devices(text: str) -> Layout:
    """`device=`: paths separated by commas; several make a stripe. Raises DeviceInvalid."""
    return _parse([word.strip() for word in text.split(",")], "device")


def parse_vdevs(text: str) -> Layout:
    """`vdev=`: the words of a `zpool create` command line. Raises InvalidArgument and DeviceInvalid."""
    return _parse(text.split(), "vdev")


def parse_addition(text: str) -> Layout:
    """The words of a `zpool add` command line: as `parse_vdevs`, but devices for data are not needed."""
    return _parse(text.split(), "vdev", needs_data=False)


def _parse(words: "list[str]", key: str, *, needs_data: bool = True) -> Layout:
    devices: "list[str]" = []
    groups: "list[tuple[str, str, int]]" = []
    group = ""  # the kind of the vdev being read; "" while each disk is a vdev of its own
    role = ""
    members = 0

    def close() -> None:
        if group and members < _fewest(group):
            raise InvalidArgument(f"{key}: '{group}' needs at least {_fewest(group)} devices, {members} given.")
        if group:
            groups.append((role, group, members))

    for word in words:
        if key == "vdev" and (_GROUP.match(word) or word in _CLASSES):
            close()
            if word in _CLASSES:
                role, group = word, ""
            else:
                group = "raidz1" if word == "raidz" else word
            members = 0
        elif _DEVICE.match(word) and "/../" not in word:
            if word in devices:
                raise InvalidArgument(f"{key}: {word} is named twice.")
            devices.append(word)
            members += 1
            if not group:
                groups.append((role, "", 1))
        else:
            raise DeviceInvalid(
                "{}: '{}' is not the path of a device (such as /dev/sdb){}.".format(
                    key, word, " nor a word like mirror, raidz2, log or spare" if key == "vdev" else ""
                )
            )
    close()
    found = Layout(words, devices, groups)
    if needs_data and not found.data:
        raise InvalidArgument(f"{key}: no device to hold data is named.")
    if not devices:
        raise InvalidArgument(f"{key}: no device is named.")
    return found


def _parity(kind: str) -> int:
    """Disks that hold redundancy in a raidz or draid vdev; 0 for other kinds."""
    match = re.match(r"(?:raidz|draid)(\d?)", kind)
    return int(match.group(1) or 1) if match else 0


def parity(kind: str, disks: int) -> int:
    """How many disks of such a vdev may fail."""
    return disks - 1 if kind == "mirror" else _parity(kind)


def _fewest(kind: str) -> int:
    return _parity(kind) + 1 if _parity(kind) else 2


def _allocated(kind: str, disks: int, block: int, sector: int) -> int:
    """The bytes that one block uses on a vdev: OpenZFS's vdev_raidz_asize() and vdev_draid_asize()."""
    parity = _parity(kind)
    sectors = -(-block // sector)
    if kind.startswith("draid"):
        given = {letter: int(number) for number, letter in re.findall(r":(\d+)([dcs])", kind)}
        data = max(1, given.get("d", min(8, disks - parity - given.get("s", 0))))
        return -(-sectors // data) * (data + parity) * sector
    if parity:
        total = sectors + parity * -(-sectors // max(1, disks - parity))
        return -(-total // (parity + 1)) * (parity + 1) * sector
    return block


def default_volblocksize(data: "list[tuple[str, int]]", ashift: int) -> int:
    """The smallest block size of 16 KiB or more, in bytes, that wastes little of the pool's space on padding.

    On a disk or a mirror that is 16 KiB. raidz pads each block to whole groups of parity + 1 sectors, draid to whole
    stripes. So small blocks use far more space than the pool's free space suggests, which ZFS computes for 128 KiB
    blocks.
    """
    block = DEFAULT_VOLBLOCKSIZE
    while block < _LARGEST_DEFAULT and any(
        _allocated(kind, disks, block, 1 << ashift) * (_LARGEST_DEFAULT // block)
        > _TOLERATED * _allocated(kind, disks, _LARGEST_DEFAULT, 1 << ashift)
        for kind, disks in data
    ):
        block *= 2
    return block
