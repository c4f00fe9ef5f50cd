# SPDX-License-Identifier: LGPL-2.1-only
"""`device-config`: the keys that an administrator may give to `xe sr-create`. Pure except that it reads key files.

KEYS is the only list of them: Plugin.Query shows its descriptions, SR.create checks against it, and a test compares
the documentation with it.
"""

import os
import re

from zfsvol import naming
from zfsvol.errors import DeviceMissing, InvalidArgument
from zfsvol.naming import require_dataset_name

# Sizes as ZFS accepts them: 500G, 1.5T, 500GB, 2TiB, 1048576, none. Compiled when needed: most verbs that import this
# do not check a device-config.
_SIZE = r"(?i)([0-9]+(\.[0-9]+)?([KMGTPEZ](I?B)?|B)?|none)\Z"
_BLOCK = r"(?i)([0-9]+)(K?)(I?B)?\Z"

_ON_OFF = ("on", "off")
_LEVELS = tuple(str(level) for level in range(1, 20))
_COMPRESSION = (
    *("on", "off", "lz4", "lzjb", "zle", "gzip", "zstd", "zstd-fast"),
    *("gzip-" + level for level in _LEVELS[:9]),
    *("zstd-" + level for level in _LEVELS),
)
_ENCRYPTION = tuple(f"aes-{bits}-{mode}" for bits in (128, 192, 256) for mode in ("gcm", "ccm"))
_CHECKSUM = ("on", "fletcher4", "sha256", "sha512", "skein", "edonr")
_CACHE = ("all", "metadata", "none")

PLACE = "place"  # where the SR lives: exactly one of these
POOL = "pool"  # `zpool create -o`: for a pool that SR.create makes
DATASET = "dataset"  # a ZFS property of the SR's root, which all its zvols inherit
DRIVER = "driver"  # for the driver itself

# The properties that store the schedules.
SCHEDULES = {"scrub": naming.SR_SCRUB, "trim": naming.SR_TRIM}

VOLBLOCKSIZES = tuple(str(1 << shift) for shift in range(12, 18))


class Key:
    """One key: its kind, the values it may have (any if None), its default in a new pool, its description."""

    def __init__(self, kind: str, choices: "tuple[str, ...] | None", default: "str | None", description: str) -> None:
        self.kind = kind
        self.choices = choices
        self.default = default
        self.description = description


KEYS = {
    "device": Key(PLACE, None, None, "Devices for a new pool, separated by commas; several are striped"),
    "vdev": Key(PLACE, None, None, "Layout of a new pool in zpool's words: mirror /dev/sda /dev/sdb log /dev/sdc"),
    "zpool": Key(PLACE, None, None, "Existing pool or dataset to put the SR into; SR.destroy keeps it"),
    "ashift": Key(POOL, tuple(str(shift) for shift in range(9, 17)), "12", "log2 of the pool's sector size"),
    "autotrim": Key(POOL, _ON_OFF, "on", "Report freed space to the disks at once"),
    "failmode": Key(POOL, ("wait", "continue", "panic"), None, "What to do when the pool loses too many disks"),
    "multihost": Key(POOL, _ON_OFF, None, "Guard against import by two hosts; for disks shared by hosts"),
    "compression": Key(DATASET, _COMPRESSION, "on", "Compression of the disks' blocks"),
    "checksum": Key(DATASET, _CHECKSUM, None, "Checksum of the disks' blocks"),
    "copies": Key(DATASET, ("1", "2", "3"), None, "Copies of each block, beyond the pool's redundancy"),
    "dedup": Key(DATASET, (*_ON_OFF, "verify", "sha256", "sha512", "skein"), None, "Store equal blocks once"),
    "logbias": Key(DATASET, ("latency", "throughput"), None, "How synchronous writes use the log devices"),
    "primarycache": Key(DATASET, _CACHE, None, "What the host's memory caches of the disks"),
    "secondarycache": Key(DATASET, _CACHE, None, "What the pool's cache devices hold of the disks"),
    "sync": Key(
        DATASET, ("standard", "always", "disabled"), None, "Which writes are on disk when the guest is told they are"
    ),
    "quota": Key(DATASET, None, None, "Most space that the SR may use, as 500G or 2T"),
    "reservation": Key(DATASET, None, None, "Space of the pool reserved for the SR, as 500G or 2T"),
    "encryption": Key(DATASET, _ENCRYPTION, None, "Cipher of an encrypted SR; needs encryption-key-file"),
    "encryption-key-file": Key(DRIVER, None, None, "Path of the file with the key, needed at every attach"),
    "volblocksize": Key(DRIVER, VOLBLOCKSIZES, None, "Block size of new disks, 4K to 128K; default by the layout"),
    "datapath": Key(
        DRIVER, ("tapdisk", "blkback"), "tapdisk", "blkback: VMs' flushes and discards reach ZFS, disks grow online"
    ),
    "provisioning": Key(DRIVER, ("thin", "thick"), "thin", "thick: the pool reserves each disk's whole size"),
    "scrub": Key(DRIVER, None, "monthly", "When all data is read and checked: monthly, weekly 02:30, daily, off"),
    "trim": Key(DRIVER, None, None, "When free space is reported to the disks; default: weekly without autotrim"),
    "force-create": Key(DRIVER, ("true", "false"), "false", "Overwrite what is on the devices (zpool create -f)"),
    "force-import": Key(DRIVER, ("true", "false"), "false", "Import though another host used the pool last (-f)"),
    "sr_uuid": Key(DRIVER, None, None, "Set by the driver: the uuid that the SR was created with"),
    "pool-guid": Key(DRIVER, None, None, "Set by the driver: the guid of the SR's pool, whatever its name is"),
}

PLACES = tuple(name for name, key in KEYS.items() if key.kind == PLACE)


def check(given: "dict[str, str]") -> "dict[str, str]":
    """Checks a device-config for SR.create and returns it with its values in the form that ZFS accepts.

    Raises InvalidArgument and DeviceMissing. Does not access devices or pools.
    """
    values = dict(given)
    for name, value in values.items():
        values[name] = checked(name, value)
    places = [name for name in PLACES if name in values]
    if not places or not all(values[name].strip() for name in places):
        raise DeviceMissing
    if len(places) > 1:
        raise InvalidArgument("device-config has {}: give one of them.".format(" and ".join(sorted(places))))
    if "zpool" in values:
        require_dataset_name(values["zpool"])
        for name in values:
            if KEYS[name].kind == POOL or name == "force-create":
                raise InvalidArgument(
                    "device-config:{} is for a new pool, but the pool {} exists. Set it with 'zpool set', or leave it "
                    "out.".format(name, values["zpool"].split("/")[0])
                )
    if "encryption" in values and "encryption-key-file" not in values:
        raise InvalidArgument("device-config:encryption needs encryption-key-file, the path of the file with the key.")
    return values


def checked(name: str, value: str, where: str = "device-config:") -> str:
    """The value of a key in the form that ZFS, or the driver, stores. `where`: what the messages call the key by.

    Raises InvalidArgument.
    """
    if name not in KEYS:
        raise InvalidArgument(f"{where}{name} is no key of this driver; it knows {', '.join(KEYS)}.")
    if name == "volblocksize":
        value = _in_bytes(value)
    choices = KEYS[name].choices
    if choices is not None and value not in choices:
        raise InvalidArgument(f"{where}{name}={value} is not allowed; choose one of {', '.join(choices)}.")
    if name in ("quota", "reservation") and not re.match(_SIZE, value):
        raise InvalidArgument(f"{where}{name}={value} is no size; write it as 500G or 2T.")
    if name in SCHEDULES:
        from zfsvol.repository import schedule  # only SR.create and `set` of care need it

        try:
            return str(schedule.parse(value, SCHEDULES[name]))
        except ValueError:
            raise InvalidArgument(f"{where}{name}={value} is no schedule. Write {schedule.FORM}.") from None
    return value


def _in_bytes(block: str) -> str:
    found = re.match(_BLOCK, block)
    size = str(int(found.group(1)) * (1024 if found.group(2) else 1)) if found else block
    return size if size in VOLBLOCKSIZES else block


def volblocksize(values: "dict[str, str]", dataset: str) -> int:
    """The block size of new disks, in bytes, from the properties of the SR's root. Raises InvalidArgument."""
    found = _in_bytes(values.get(naming.SR_VOLBLOCKSIZE, ""))
    if found not in VOLBLOCKSIZES:
        raise InvalidArgument(
            f"{naming.SR_VOLBLOCKSIZE} of {dataset} is '{values.get(naming.SR_VOLBLOCKSIZE, '')}', which is no block "
            f"size: 'zfs set {naming.SR_VOLBLOCKSIZE}=16K {dataset}', or another from 4K to 128K."
        )
    return int(found)


def is_thick(values: "dict[str, str]", dataset: str) -> bool:
    """Whether the pool reserves the whole size of new disks, by a dataset's properties. Raises InvalidArgument."""
    found = values.get(naming.SR_PROVISIONING, "thin")
    if found not in ("thin", "thick"):
        raise InvalidArgument(
            f"{naming.SR_PROVISIONING} of {dataset} is '{found}', but must be thin or thick: 'zfs set "
            f"{naming.SR_PROVISIONING}=thin {dataset}'."
        )
    return found == "thick"


def of_kind(values: "dict[str, str]", kind: str, *, defaults: bool) -> "dict[str, str]":
    """The ZFS properties of this kind among the values; with `defaults`, also the defaults of those not given."""
    found = {}
    for name, key in KEYS.items():
        value = values.get(name, key.default if defaults else None)
        if key.kind == kind and value is not None:
            found[name] = value
    return found


def encryption_properties(values: "dict[str, str]") -> "dict[str, str]":
    """encryption, keyformat and keylocation for the key file; empty without one. Raises InvalidArgument.

    The format follows from the file's content by ZFS's rules: 32 raw bytes, 64 hexadecimal digits, else a passphrase.
    """
    path = values.get("encryption-key-file")
    if path is None:
        return {}
    if not os.path.isabs(path) or not os.path.isfile(path):
        raise InvalidArgument(f"device-config:encryption-key-file={path} is not the path of a file.")
    with open(path, "rb") as file:
        key = file.read(1024)
    if len(key) == 32:
        keyformat = "raw"
    elif re.match(rb"[0-9A-Fa-f]{64}\n?\Z", key):
        keyformat = "hex"
    elif 8 <= len(key.rstrip(b"\n")) <= 512 and b"\n" not in key.rstrip(b"\n"):
        keyformat = "passphrase"
    else:
        raise InvalidArgument(
            f"The key file {path} holds no key that ZFS accepts: 32 raw bytes, 64 hexadecimal digits, or a passphrase "
            "of 8 to 512 characters in one line."
        )
    return {
        "encryption": values.get("encryption", "aes-256-gcm"),
        "keyformat": keyformat,
        "keylocation": "file://" + path,
    }
