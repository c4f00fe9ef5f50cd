# SPDX-License-Identifier: LGPL-2.1-only
"""Names: of SRs, VDIs and their properties in ZFS, and of the client's keys. Pure.

The string that SR.attach answers with is the name of the SR's root dataset, `sr-<uuid>` (a pool of its own) or
`<dataset>/sr-<uuid>`; a VDI is the zvol `<root>/<VDI uuid>`. So every verb knows from its arguments alone where to
look, and a pool carried to another host is a complete SR.
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
# The guid of the pool that the SR was made in: in a copy of the SR it is another pool's.
SR_POOL_GUID = "zfsvol:sr-pool-guid"

# Every VDI has a name, which may be empty: a zvol without this property is none, or is only half made.
VDI_NAME = "zfsvol:name"
VDI_DESCRIPTION = "zfsvol:description"
VDI_SHARABLE = "zfsvol:sharable"
# Set by Volume.snapshot: the zvol has the content of the ZFS snapshot that it was made from, for good.
VDI_SNAPSHOT = "zfsvol:snapshot"
# When the VDI was removed. Its zvol stays as long as others need what it shares with them.
VDI_REMOVED = "zfsvol:removed"

# The client's keys that mean something to the driver.
TEMPORARY = "clone-on-boot"
IS_A_SNAPSHOT = "is_a_snapshot"
SNAPSHOT_OF = "snapshot_of"
SNAPSHOT_TIME = "snapshot_time"
TYPE = "vdi-type"
CONTENT = "content_id"

# As xapi writes dates, always in UTC.
DATE = "%Y%m%dT%H:%M:%SZ"

_SCHEME = "zvol://"  # the name of the datapath plugin's directory
# Beside the VDIs, and not in a dataset of their own: to move a zvol into another one takes room, which an SR that has
# reached its quota has not.
_GRAVE = ".gone-"
_REVERT = ".revert-"


# The uuid that a copy of an SR, or a disk of it, is about to get: while it gets an identity of its own.
BECOMES = "zfsvol:becomes"

# Characters that a dataset's name may have. The longest name below a root is that of a snapshot of a removed VDI.
_LONGEST_NAME = 255
LONGEST_ROOT = _LONGEST_NAME - len(f"/{_GRAVE}") - len("@") - 2 * 36 - len(".12345678")


class Root:
    """The root dataset of an SR, by its name alone."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.pool = dataset.partition("/")[0]
        self.uuid = dataset.rpartition("/")[2][len(PREFIX) :]

    @property
    def owns_pool(self) -> bool:
        """Whether the SR is a pool of its own, which the driver made and may export and destroy."""
        return self.dataset == self.pool

    def volume(self, uuid: str) -> str:
        """The zvol of a VDI."""
        return f"{self.dataset}/{uuid}"

    def grave(self, uuid: str, token: str) -> str:
        """The zvol of a removed VDI. A VDI that was reverted has several, told apart by `token` (8 characters)."""
        return f"{self.dataset}/{_GRAVE}{uuid}.{token}"

    def uri(self, uuid: str) -> str:
        """What the datapath plugin is given to find the VDI."""
        return _SCHEME + self.volume(uuid).replace(" ", "%20")


def root_for(given: "dict[str, str]", uuid: str) -> Root:
    """The root of the SR `uuid` as its device-config places it. Raises InvalidArgument."""
    require_uuid(uuid, "The SR's uuid")
    parent = given.get("zpool")
    if parent is None:
        return Root(PREFIX + uuid)
    require_dataset_name(parent)
    return Root(f"{parent}/{PREFIX}{uuid}")


def is_root(dataset: str) -> bool:
    """Whether the dataset is called as the root of an SR is."""
    last = dataset.rpartition("/")[2]
    return last.startswith(PREFIX) and is_uuid(last[len(PREFIX) :])


def parse_sr(sr: str) -> Root:
    """The root that SR.attach answered with. Raises InvalidArgument."""
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
    """The zvol that Volume.revert makes, which takes the place of the VDI's zvol."""
    return _REVERT + uuid


def reverted(name: str) -> "str | None":
    """The VDI whose place a zvol of this name is to take; None for all other zvols."""
    uuid = name[len(_REVERT) :]
    return uuid if name.startswith(_REVERT) and is_uuid(uuid) else None


def is_grave(name: str) -> bool:
    """Whether a zvol below a root is called as that of a removed VDI is."""
    return name.startswith(_GRAVE)


def is_uuid(name: str) -> bool:
    """Whether it is a uuid as xapi writes it."""
    return _UUID.match(name) is not None


def require_dataset_name(name: str) -> None:
    """Raises InvalidArgument where `name` is not one that a pool or a file system can have."""
    if not _DATASET.match(name):
        raise InvalidArgument(f"'{name}' is not the name of a pool or of a dataset in one.")


def require_uuid(uuid: str, argument: str) -> str:
    """`uuid` itself. Raises InvalidArgument; `argument` names it in the sentence."""
    if not is_uuid(uuid):
        raise InvalidArgument(f"{argument} '{uuid}' is not a uuid.")
    return uuid
