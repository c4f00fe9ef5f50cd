# SPDX-License-Identifier: LGPL-2.1-only
"""Names of SRs, VDIs and their properties in ZFS, and of the client's keys. Pure.

SR.attach returns the name of the SR's root dataset: `sr-<uuid>` (a pool of its own) or `<dataset>/sr-<uuid>`. A VDI is
the zvol `<root>/<VDI uuid>`. So the arguments of a verb alone say where to look, and a pool moved to another host is a
complete SR.
"""

import re

from zfsvol.errors import InvalidArgument

PREFIX = "sr-"

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_DATASET = re.compile(r"[A-Za-z][A-Za-z0-9_.: -]*(/(?!\.\.?(/|\Z))[A-Za-z0-9_.: -]+)*\Z")

SR_UUID = "zfsvol:sr-uuid"
SR_NAME = "zfsvol:sr-name"
SR_DESCRIPTION = "zfsvol:sr-description"
SR_PROVISIONING = "zfsvol:sr-provisioning"
SR_VOLBLOCKSIZE = "zfsvol:sr-volblocksize"
SR_DATAPATH = "zfsvol:sr-datapath"
# When the SR's pool is to be scrubbed and trimmed, see repository.schedule.
SR_SCRUB = "zfsvol:sr-scrub"
SR_TRIM = "zfsvol:sr-trim"
# The guid of the pool that the SR was made in. In a copy of the SR it is not the guid of the copy's pool.
SR_POOL_GUID = "zfsvol:sr-pool-guid"

# Every VDI has a name, which may be empty. A zvol without this property is no VDI, or only half made.
VDI_NAME = "zfsvol:name"
VDI_DESCRIPTION = "zfsvol:description"
VDI_SHARABLE = "zfsvol:sharable"
# Set by Volume.snapshot: the zvol keeps the content of the ZFS snapshot that it was made from.
VDI_SNAPSHOT = "zfsvol:snapshot"
# "on" while the client may ask what changed in it. Nothing is logged for that: ZFS knows.
VDI_CBT = "zfsvol:cbt"
# Of a snapshot whose data was destroyed: what is left of it, see repository.vdi.Base.
VDI_METADATA = "zfsvol:cbt-metadata"
# The VDI whose zvol this was before Volume.compose gave it the name of another: its leaf's.
VDI_COMPOSED = "zfsvol:composed"
# The time when the VDI was removed. Its zvol stays as long as other zvols need data of it.
VDI_REMOVED = "zfsvol:removed"

# The client's keys that the driver uses.
TEMPORARY = "clone-on-boot"
IS_A_SNAPSHOT = "is_a_snapshot"
SNAPSHOT_OF = "snapshot_of"
SNAPSHOT_TIME = "snapshot_time"
TYPE = "vdi-type"
CONTENT = "content_id"

# xapi's format of dates, always in UTC.
DATE = "%Y%m%dT%H:%M:%SZ"

_SCHEME = "zvol://"  # the name of the datapath plugin's directory
# Prefixes beside the VDIs, not datasets of their own: a move to another dataset needs space, which an SR at its quota
# lacks.
_GRAVE = ".gone-"
_REVERT = ".revert-"
# Bookmarks of other programs may have any other name, that of one of the driver's snapshots included.
_BOOKMARK = "cbt-"

# Of a ZFS snapshot that a mirror job copies from; its operation follows.
_MIRROR = "mirror-"

# The new uuid of a copy of an SR, or of a disk in it, while the copy gets a new identity.
BECOMES = "zfsvol:becomes"

# In characters. The longest name below a root is that of a bookmark of a removed VDI.
_LONGEST_NAME = 255
LONGEST_ROOT = _LONGEST_NAME - len(f"/{_GRAVE}") - len(f"#{_BOOKMARK}") - 2 * 36 - len(".12345678")


class Root:
    """The root dataset of an SR: only its name."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.pool = dataset.partition("/")[0]
        self.uuid = dataset.rpartition("/")[2][len(PREFIX) :]

    @property
    def owns_pool(self) -> bool:
        """Whether the SR has its own pool, which the driver made and may export and destroy."""
        return self.dataset == self.pool

    def volume(self, uuid: str) -> str:
        """The zvol of a VDI."""
        return f"{self.dataset}/{uuid}"

    def grave(self, uuid: str, token: str) -> str:
        """The zvol of a removed VDI. A VDI that was reverted may have several, with different tokens (8 characters)."""
        return f"{self.dataset}/{_GRAVE}{uuid}.{token}"

    def uri(self, uuid: str) -> str:
        """The URI of the VDI for the datapath plugin."""
        return _SCHEME + self.volume(uuid).replace(" ", "%20")


def root_for(given: "dict[str, str]", uuid: str) -> Root:
    """The root of the SR `uuid` by its device-config. Raises InvalidArgument."""
    require_uuid(uuid, "The SR's uuid")
    parent = given.get("zpool")
    if parent is None:
        return Root(PREFIX + uuid)
    require_dataset_name(parent)
    return Root(f"{parent}/{PREFIX}{uuid}")


def is_root(dataset: str) -> bool:
    """Whether the dataset has the name of an SR's root."""
    last = dataset.rpartition("/")[2]
    return last.startswith(PREFIX) and is_uuid(last[len(PREFIX) :])


def parse_sr(sr: str) -> Root:
    """The root by the string that SR.attach returned. Raises InvalidArgument."""
    if not is_root(sr):
        raise InvalidArgument(f"'{sr}' is no SR of this driver.")
    require_dataset_name(sr)
    return Root(sr)


def parse_uri(uri: str) -> "tuple[Root, str]":
    """The root and the VDI of `Root.uri`. Raises InvalidArgument."""
    dataset, _, key = uri[len(_SCHEME) :].replace("%20", " ").rpartition("/")
    if not uri.startswith(_SCHEME) or not is_root(dataset) or not is_uuid(key):
        raise InvalidArgument(f"'{uri}' is no disk of this driver.")
    return parse_sr(dataset), key


def revert_name(uuid: str) -> str:
    """The name of the zvol that is about to replace the VDI's zvol, in Volume.revert, data_destroy and compose."""
    return _REVERT + uuid


def reverted(name: str) -> "str | None":
    """The VDI whose zvol a zvol of this name is to replace; None for all other names."""
    uuid = name[len(_REVERT) :]
    return uuid if name.startswith(_REVERT) and is_uuid(uuid) else None


def is_grave(name: str) -> bool:
    """Whether a zvol below a root has the name of a removed VDI."""
    return name.startswith(_GRAVE)


def bookmark(uuid: str) -> str:
    """The name, within its zvol, of the bookmark of a snapshot whose data is destroyed."""
    return _BOOKMARK + uuid


def is_bookmark(name: str) -> bool:
    """Whether a bookmark with this name within its zvol is the driver's."""
    return name.startswith(_BOOKMARK) and is_uuid(name[len(_BOOKMARK) :])


def mirror_snapshot(operation: str, number: int) -> str:
    """The name, within its zvol, of a ZFS snapshot that a mirror job copies from."""
    return f"{_MIRROR}{operation}-{number}"


def mirrored(name: str) -> "str | None":
    """The operation (a uuid) of the mirror job whose ZFS snapshot has this name within its zvol; None if none's."""
    operation = name[len(_MIRROR) :].rpartition("-")[0]
    return operation if name.startswith(_MIRROR) and is_uuid(operation) else None


def is_uuid(name: str) -> bool:
    """Whether it is a uuid as xapi writes it."""
    return _UUID.match(name) is not None


def require_dataset_name(name: str) -> None:
    """Raises InvalidArgument unless a pool or a file system can have this name."""
    if not _DATASET.match(name):
        raise InvalidArgument(f"'{name}' is not the name of a pool or of a dataset in one.")


def require_uuid(uuid: str, argument: str) -> str:
    """Returns `uuid` if it is one. Raises InvalidArgument; `argument` names it in the message."""
    if not is_uuid(uuid):
        raise InvalidArgument(f"{argument} '{uuid}' is not a uuid.")
    return uuid
