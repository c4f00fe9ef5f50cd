# SPDX-License-Identifier: LGPL-2.1-only
"""The Datapath verbs: they attach a VDI to a domain, activate, deactivate and detach it.

Arguments and results are those of the SMAPIv3 interface; for `domain`, see `repository.record`. The work is done in
`repository.attachment`. Every verb may be repeated, and affects only its own domain.
"""

import binascii

from zfsvol import naming
from zfsvol.repository import attachment, mirror, moved, recording
from zfsvol.repository import record as records
from zfsvol.repository import sr as srs
from zfsvol.repository.record import NODE, READ, WRITE, Locked, Record
from zfsvol.repository.sr import SR

# xenopsd's names for the backends of a VM's disk.
_KIND_OF_TAPBACK = "vbd3"
_KIND_OF_BLKBACK = "vbd"


def attach(dbg: str, uri: str, domain: str) -> "dict[str, object]":
    """Makes the zvol's device node appear and returns a `backend`: the ways to access the VDI's data.

    A VM gets a tapback disk and a tapdisk's NBD server, or a blkback disk and the zvol's node. dom0 gets the node,
    storage migration the NBD server. The server runs once the VDI is activated. Raises InvalidArgument, VDIUnavailable,
    SRUnavailable, NodeMissing.
    """
    with _record(uri) as record:
        attachment.attach(record, domain, gives_node=True)
        return {"implementations": _implementations(record, domain)}


def activate(dbg: str, uri: str, domain: str) -> None:
    """Gives the domain the VDI for writing, or a snapshot for reading, and starts a tapdisk if it needs one.

    Raises VDIInUse (others use it), TapdiskFailed, NodeMissing, and as `attach`.
    """
    _activate(uri, domain, WRITE)


def activate_readonly(dbg: str, uri: str, domain: str) -> None:
    """Gives the domain the VDI for reading, beside other readers. Raises as `activate`."""
    _activate(uri, domain, READ)


def _activate(uri: str, domain: str, mode: str) -> None:
    with _record(uri) as record:
        attachment.attach(record, domain, gives_node=False)
        attachment.activate(record, domain, mode)


def import_activate(dbg: str, uri: str, domain: str) -> str:
    """Starts the recorder of a disk that moves here, for the domain that has the VDI activated. Idempotent.

    Returns the path of a Unix socket. It takes one connection to the source, as a descriptor (SCM_RIGHTS) with any
    text, and NBD is served over that. Raises InvalidArgument, StorageError. See `repository.recording`.
    """
    with _record(uri) as record:
        return recording.start(record, domain)


def deactivate(dbg: str, uri: str, domain: str) -> None:
    """Ends the domain's lease; its writes have reached ZFS by then, and the other end of a migration. Idempotent.

    Raises StorageError, TapdiskFailed and CommandTimeout if a recorder or a tapdisk does not close the zvol; then the
    domain keeps its lease. Raises StorageError, once, if the migrated disk is not complete at the other end; then the
    lease has ended.
    """
    root, key = naming.parse_uri(uri)
    with Locked(SR(root.dataset), key) as record:
        for known in attachment.addressed(record, domain):
            attachment.deactivate(record, known)
        mirror.require_complete(record.sr, record.key, domain)


def detach(dbg: str, uri: str, domain: str) -> None:
    """Undoes `attach` and `activate` for the domain. Idempotent. Raises as `deactivate`.

    The last detach removes the device node. If something has the node open, node and record stay and the log says so;
    the next verb that finds no user removes them.
    """
    root, key = naming.parse_uri(uri)
    sr = SR(root.dataset)
    if not records.exists(sr, key) and not records.is_migration(domain):
        return
    with Locked(sr, key) as record:
        if records.is_migration(domain) and domain not in record.attached and sr.attached_from is not None:
            moved.note_detach(record)
        for known in attachment.addressed(record, domain):
            attachment.detach(record, known)
        try:
            mirror.require_complete(sr, key, domain if record.attached else None)
        finally:
            if records.exists(sr, key):
                attachment.forget_unused(record)


def _record(uri: str) -> Locked:
    """The VDI's record, for a `with`. Raises InvalidArgument, SRUnavailable, LockTimeout."""
    root, key = naming.parse_uri(uri)
    return Locked(srs.find(root.dataset), key)


def _implementations(record: Record, domain: str) -> "list[list[object]]":
    extra = {
        "vdi-uuid": record.key,
        "scsi/0x12/0x80": _base64(_serial_number_page(record.key)),
        "scsi/0x12/0x83": _base64(_identification_page(record.key)),
    }
    if record.way(domain) == NODE:
        disk = {"params": record.node, "extra": extra, "backend_type": _KIND_OF_BLKBACK}
        return [["XenDisk", disk], ["BlockDevice", {"path": record.node}]]
    uri = f"nbd:unix:{attachment.nbd_socket(record)}:exportname={record.key}"
    # No BlockDevice as well: xenopsd would prefer it.
    disk = {"params": uri, "extra": extra, "backend_type": _KIND_OF_TAPBACK}
    return [["XenDisk", disk], ["Nbd", {"uri": uri}]]


# The INQUIRY pages by which Windows' drivers tell disks apart (SPC-4, 7.8). They are derived from the uuid as in
# XCP-ng's other drivers, so that a disk keeps its identity when it moves between SRs.


def _serial_number_page(uuid: str) -> bytes:
    return b"\x00\x80\x00\x12" + uuid[:16].encode() + b"  "


def _identification_page(uuid: str) -> bytes:
    # One designator: ASCII, T10 vendor identification.
    designator = b"XENSRC  " + uuid.encode() + b" "
    return b"\x00\x83\x00" + bytes([len(designator) + 4]) + b"\x02\x01\x00" + bytes([len(designator)]) + designator


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
