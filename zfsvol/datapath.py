# SPDX-License-Identifier: LGPL-2.1-only
"""The Datapath verbs: a VDI is attached to a domain, activated, deactivated and detached.

Arguments and results are those of the SMAPIv3 interface; `domain` is who asks, see `lease`. Every verb may be repeated,
and undoes or does what concerns its domain alone. A crash leaves a record from which the next verb goes on.
"""

import binascii

from zfsvol import attachment, family, lock, naming, properties, zfs
from zfsvol import lease as leases
from zfsvol.errors import InvalidArgument, StorageError
from zfsvol.lease import NODE, READ, TAPDISK, WRITE, Lease
from zfsvol.naming import Root

BLKBACK = "blkback"

_UNTOLD = ""  # in the place of the node that the domain was given

# xenopsd's names for the backends of a VM's disk.
_KIND_OF_TAPBACK = "vbd3"
_KIND_OF_BLKBACK = "vbd"


@family.resuming
def attach(dbg: str, uri: str, domain: str) -> "dict[str, object]":
    """Makes the zvol's device node appear and answers with the ways to the VDI's bytes: a `backend`.

    A VM gets a disk of tapback and the NBD server of a tapdisk, or one of blkback and the zvol's node; dom0 gets the
    node; storage migration the NBD server. The server is there once the VDI is activated.
    Raises InvalidArgument, VDIUnavailable, SRUnavailable, NodeMissing.
    """
    root, key = naming.parse_uri(uri)
    zfs.require_pool(root.pool)
    with lock.sr(root.uuid, exclusive=False), lock.vdi_inside(key):
        lease = _attached(root, key, domain, tell=True)
        return {"implementations": _implementations(lease, domain)}


def activate(dbg: str, uri: str, domain: str) -> None:
    """Gives the domain the VDI for writing, a snapshot for reading, and starts what serves it.

    Raises VDIInUse (somebody else has it), TapdiskFailed, NodeMissing and as `attach`.
    """
    _activate(uri, domain, WRITE)


def activate_readonly(dbg: str, uri: str, domain: str) -> None:
    """Gives the domain the VDI for reading, beside other readers. Raises as `activate`."""
    _activate(uri, domain, READ)


@family.resuming
def _activate(uri: str, domain: str, mode: str) -> None:
    root, key = naming.parse_uri(uri)
    zfs.require_pool(root.pool)
    with lock.sr(root.uuid, exclusive=False) as needed_for_the_node, lock.vdi_inside(key):
        lease = _attached(root, key, domain, tell=False)
        needed_for_the_node.release()
        attachment.activate(lease, domain, READ if lease.readonly else mode)


def deactivate(dbg: str, uri: str, domain: str) -> None:
    """Takes the VDI back from the domain; what it had written is in ZFS then. Idempotent.

    Raises TapdiskFailed and CommandTimeout where a tapdisk does not let go of it: the domain keeps its lease.
    """
    root, key = naming.parse_uri(uri)
    with lock.vdi(key):
        lease = leases.read(root, key)
        for known in attachment.meant(lease, domain):
            attachment.deactivate(lease, known)


@family.resuming
def detach(dbg: str, uri: str, domain: str) -> None:
    """Undoes what `attach` and `activate` have done for the domain, in any order. Idempotent. Raises as `deactivate`.

    The device node goes with the last domain. One that something has open stays, and the record with it: the log tells,
    and the next verb that finds nobody there takes them away.
    """
    root, key = naming.parse_uri(uri)
    if not leases.exists(root, key):
        return
    # What may take long is done without the SR's lock.
    with lock.vdi(key):
        lease = leases.read(root, key)
        meant = attachment.meant(lease, domain)
        for known in meant:
            attachment.deactivate(lease, known)
    with lock.sr(root.uuid, exclusive=False), lock.vdi_inside(key):
        lease = leases.read(root, key)
        for known in meant:
            attachment.detach(lease, known)
        attachment.forget_unused(lease)


def _attached(root: Root, key: str, domain: str, *, tell: bool) -> Lease:
    """The VDI's record, with the domain in it, its node being there. `tell`: the domain is about to be told which."""
    lease = leases.read(root, key)
    is_new = domain not in lease.attached
    if is_new:
        # Who was not detached, as the client had given up, would keep what was looked up for it.
        attachment.drop_dead_guests(lease, [other for other in lease.attached if other not in lease.active])
        if not lease.attached:
            _look(lease)
        by_node = leases.is_dom0(domain) or (leases.is_guest(domain) and _datapath(lease) == BLKBACK)
        lease.attached[domain] = _UNTOLD if by_node else TAPDISK
        lease.save()
    try:
        attachment.ensure_node(lease)
    except StorageError as error:
        if is_new:
            attachment.detach(lease, domain)
            attachment.forget_unused(lease)
        if not isinstance(error, zfs.Missing):
            raise
        from zfsvol import volume

        raise volume.missing(root, key) from None
    if lease.way(domain) == NODE and (tell or lease.attached[domain] == _UNTOLD):
        lease.attached[domain] = str(lease.node)
        lease.save()
    return lease


def _datapath(lease: Lease) -> str:
    if lease.datapath not in (TAPDISK, BLKBACK):
        raise InvalidArgument(
            f"{naming.SR_DATAPATH} of {lease.zvol} is '{lease.datapath}', and can be {TAPDISK} or {BLKBACK} alone. "
            f"'zfs get {naming.SR_DATAPATH} {lease.zvol}' tells where it is set."
        )
    return lease.datapath


def _look(lease: Lease) -> None:
    """Reads of the zvol what holds as long as it is attached. Raises VDIUnavailable."""
    try:
        values = zfs.inherited_properties(lease.zvol)
    except zfs.Missing:
        values = {}
    if not family.is_vdi(lease.key, values):
        from zfsvol import volume

        raise volume.missing(lease.root, lease.key)
    lease.readonly = values.get("readonly") == "on"
    lease.sharable = properties.decode(values, naming.VDI_SHARABLE) is True
    lease.datapath = values.get(naming.SR_DATAPATH, TAPDISK)


def _implementations(lease: Lease, domain: str) -> "list[list[object]]":
    extra = {
        "vdi-uuid": lease.key,
        "scsi/0x12/0x80": _base64(_serial_number_page(lease.key)),
        "scsi/0x12/0x83": _base64(_identification_page(lease.key)),
    }
    if lease.way(domain) == NODE:
        disk = {"params": lease.node, "extra": extra, "backend_type": _KIND_OF_BLKBACK}
        return [["XenDisk", disk], ["BlockDevice", {"path": lease.node}]]
    uri = f"nbd:unix:{attachment.nbd_socket(lease)}:exportname={lease.key}"
    # No device beside it: xenopsd would prefer that.
    disk = {"params": uri, "extra": extra, "backend_type": _KIND_OF_TAPBACK}
    return [["XenDisk", disk], ["Nbd", {"uri": uri}]]


# The INQUIRY pages by which Windows' drivers tell disks apart (SPC-4, 7.8), as XCP-ng's other drivers make them
# of a uuid, so that a disk keeps its identity when it moves between SRs.


def _serial_number_page(uuid: str) -> bytes:
    return b"\x00\x80\x00\x12" + uuid[:16].encode() + b"  "


def _identification_page(uuid: str) -> bytes:
    # One designator: ASCII, T10 vendor identification.
    designator = b"XENSRC  " + uuid.encode() + b" "
    return b"\x00\x83\x00" + bytes([len(designator) + 4]) + b"\x02\x01\x00" + bytes([len(designator)]) + designator


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
