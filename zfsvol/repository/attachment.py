# SPDX-License-Identifier: LGPL-2.1-only
"""The life of a VDI's attachment: attach, activate, deactivate, detach, each for one domain.

    attach      the record names the domain; the zvol's device node is there
    activate    the domain has a lease; links lead to the node; a tapdisk serves it to those that need one
    deactivate  the lease ends; what nobody needs any more is stopped and removed
    detach      the domain is in the record no more; the node goes with the last one

All of it follows from the record, which tells of each step before it is done: whoever reads it after a crash goes on
from there. Every function is for the holder of the VDI's lock (`record.Locked`) unless it says otherwise. It may be
repeated.
"""

import os

from zfsvol import log, naming, properties
from zfsvol.errors import InvalidArgument, NodeMissing, SRUnavailable, StorageError, VDIInUse
from zfsvol.host import files, tapdisk, xen
from zfsvol.host.tapdisk import Tapdisk
from zfsvol.repository import lineage
from zfsvol.repository import record as records
from zfsvol.repository.record import NODE, READ, TAPDISK, WRITE, Record
from zfsvol.repository.sr import ALONE, CHANGE
from zfsvol.zfs import datasets, kernel, node
from zfsvol.zfs.pool import Missing

BLKBACK = "blkback"

_NOT_GIVEN = ""  # in the place of the node that the domain was given

# Links that are there while the VDI is activated. The first leads to the zvol's node, and is what tapdisk is told to
# open. The second contains the first: there rrdp-iostat looks which VDI a tapdisk serves by the path that tapdisk was
# told, and keeps what it has found for good; so that path is of one VDI alone, which a node is not.
DEVICES = "/dev/zfs-vol"
STATISTICS = "/dev/sm/phy"
# And, while a tapdisk serves it, to its socket.
SERVERS = os.path.join(tapdisk.CONTROL, "nbd")


def _link(directory: str, record: Record) -> str:
    # By the SR's uuid, as rrdp-iostat has it: of SRs with one uuid, a host attaches one at a time.
    return os.path.join(directory, record.sr.uuid, record.key)


def nbd_socket(record: Record) -> str:
    """The path of the NBD server's socket: a link, the same for every tapdisk that serves this VDI."""
    return _link(SERVERS, record)


def _tapdisk(record: Record) -> Tapdisk:
    assert record.tapdisk is not None  # noqa: S101 - callers have looked
    return Tapdisk(record.tapdisk, record.path[: -len(".json")] + ".tap-ctl", record.sr.zfs.held)


# --- attach


def attach(record: Record, domain: str, *, gives_node: bool) -> None:
    """The domain is in the record, and the zvol's node is there. `gives_node`: the caller passes the node on to it.

    Raises VDIUnavailable, SRUnavailable, NodeMissing, InvalidArgument: then the record is as it was.
    """
    is_new = domain not in record.attached
    if is_new:
        # A guest that was never detached would pin cached settings.
        _detach_gone(record, [other for other in record.attached if other not in record.active])
        if not record.attached:
            _look(record)
        by_node = records.is_dom0(domain) or (records.is_guest(domain) and _datapath(record) == BLKBACK)
        record.attached[domain] = _NOT_GIVEN if by_node else TAPDISK
        record.save()
    try:
        # What a tapdisk has open is this zvol's node for sure.
        if not record.users(TAPDISK):
            _ensure_node(record)
    except StorageError as error:
        if is_new:
            detach(record, domain)
            forget_unused(record)
        if isinstance(error, Missing):
            record.sr.vdi(record.key)  # it says whether the disk is missing, or the SR
        raise
    if record.way(domain) == NODE and (gives_node or record.attached[domain] == _NOT_GIVEN):
        record.attached[domain] = str(record.node)
        record.save()


def _look(record: Record) -> None:
    """Reads of the zvol what holds as long as it is attached."""
    sr = record.sr
    vdi = sr.vdi(record.key, datasets.inherited_properties)
    if not vdi.is_renamed:
        with sr.locked(ALONE):
            lineage.finish_revert(sr, record.key)
    if vdi.values.get("keystatus") == "unavailable":
        raise SRUnavailable(
            f"The encryption key of the SR {sr.uuid} is not loaded: plug the PBD again, or run 'zfs load-key "
            f"{vdi.values.get('encryptionroot', sr.dataset)}'."
        )
    record.readonly = vdi.values.get("readonly") == "on"
    record.sharable = properties.decode(vdi.values, naming.VDI_SHARABLE) is True
    record.datapath = vdi.values.get(naming.SR_DATAPATH, TAPDISK)


def _datapath(record: Record) -> str:
    if record.datapath not in (TAPDISK, BLKBACK):
        raise InvalidArgument(
            f"{naming.SR_DATAPATH} of {record.zvol} is '{record.datapath}', and can be {TAPDISK} or {BLKBACK} alone. "
            f"'zfs get {naming.SR_DATAPATH} {record.zvol}' tells where it is set."
        )
    return record.datapath


def _ensure_node(record: Record) -> None:
    """Makes the zvol's node appear. Raises Missing, NodeMissing."""
    if record.node is None or not node.is_of(record.node, record.zvol):
        with record.sr.locked(CHANGE):
            record.node = node.show(record.sr.zfs, record.zvol)
        record.save()


# --- activate


def activate(record: Record, domain: str, mode: str) -> None:
    """Gives the domain, which has attached the VDI, its lease, and starts what serves it.

    Raises VDIInUse, TapdiskFailed, NodeMissing: then the domain has the lease that it had before, if any.
    """
    if record.way(domain) == NODE and record.attached[domain] != record.node:
        # By now, the one that it knows may be that of another disk.
        raise NodeMissing(
            f"The device of the VDI {record.key} is {record.node} now, and no longer {record.attached[domain]}, which "
            f"{records.called(domain)} was given: detach it and attach it again."
        )
    drop_served_by_dead(record)
    if record.readonly:
        mode = READ
    elif record.active.get(domain) == WRITE:
        mode = WRITE
    obstacles = record.obstacles(domain, mode)
    if obstacles and _detach_gone(record, obstacles):
        obstacles = record.obstacles(domain, mode)
    if obstacles:
        raise VDIInUse(
            f"The VDI {record.key} is in use by {record.holders(obstacles)}, and cannot be given to "
            f"{records.called(domain)}. {_advice(record, obstacles)}"
        )
    before = record.active.get(domain)
    record.active[domain] = mode
    record.save()
    try:
        files.link(str(record.node), _link(DEVICES, record))
        files.link(_link(DEVICES, record), _link(STATISTICS, record))
        if record.way(domain) == TAPDISK:
            _serve(record, mode)
    except Exception:
        if before is None:
            _undo(record, domain)
        else:
            # What was begun is found by the next verb.
            record.active[domain] = before
            record.save()
        raise


def _serve(record: Record, mode: str) -> None:
    # A sharable VDI may get a writer beside its readers, and has one tapdisk for all of them.
    readonly = record.readonly or (mode == READ and not record.sharable)
    if record.tapdisk is not None and record.tapdisk["readonly"] and not readonly:
        _stop(record)
    if record.tapdisk is None:
        # The node is open until the tapdisk has it open: meanwhile it cannot become that of another zvol.
        with node.Opened(str(record.node), record.zvol):
            record.tapdisk = tapdisk.new(_link(DEVICES, record), readonly=readonly)
            record.save()
            _tapdisk(record).start(record.save)
    files.link(_tapdisk(record).socket(), nbd_socket(record))


def _undo(record: Record, domain: str) -> None:
    try:
        deactivate(record, domain)
    except Exception as error:  # noqa: BLE001 - the client is told what had gone wrong before
        # The record tells what there is: the next verb on this VDI goes on from there.
        log.warning(f"{record.zvol}: what was begun for {domain} is not undone: {error}")


# --- deactivate, detach


def deactivate(record: Record, domain: str) -> None:
    """Ends the domain's lease, and stops what nobody needs any more.

    Raises TapdiskFailed and CommandTimeout where the tapdisk cannot be stopped: then the lease stays.
    """
    if domain not in record.active:
        return
    if record.users(TAPDISK) == [domain]:
        _stop(record)
    del record.active[domain]
    if not record.active:
        files.remove(_link(STATISTICS, record))
        files.remove(_link(DEVICES, record))
    record.save()


def _stop(record: Record) -> None:
    if record.tapdisk is not None:
        _tapdisk(record).stop()
    files.remove(nbd_socket(record))
    record.tapdisk = None
    record.save()


def detach(record: Record, domain: str) -> None:
    """Takes back all that the domain was given, but for the node. Raises as `deactivate`."""
    deactivate(record, domain)
    if record.attached.pop(domain, None) is not None:
        record.save()


def forget_unused(record: Record) -> bool:
    """Removes node and record if nobody has the VDI attached; False where they stay, as something has the node open.

    The node stays without a record where the pool does not answer: SR.attach finds it.
    """
    if not record.attached:
        if kernel.state(record.sr.pool) in (None, kernel.SUSPENDED):
            log.warning(
                f"{record.zvol}: the pool does not answer; its device node stays until the SR is attached again"
            )
        elif not node.hide(record.sr.zfs, record.zvol, record.node):
            return False
        record.node = None
        record.forget()
    return True


def withdraw_node(record: Record) -> None:
    """Removes the node of a VDI whose zvol was just removed: what is left of that has none."""
    if record.node is not None:
        node.hide(record.sr.zfs, record.zvol, record.node)
        record.node = None
        record.save()


# --- those that are gone without a word


def addressed(record: Record, domain: str) -> "list[str]":
    """Domains addressed by the client's argument; "" means every recorded VM that is gone."""
    return [domain] if domain else [*(known for known in record.attached if not known), *_gone(list(record.attached))]


def drop_dead(record: Record) -> None:
    """Ends the leases of those whose tapdisk or whose VM is gone. It may take long. Raises as `deactivate`."""
    drop_served_by_dead(record)
    for domain in addressed(record, ""):
        _detach_vanished(record, domain)


def detach_all(record: Record) -> None:
    """Takes back what all domains were given: where the pool has just been imported, none of them can be alive."""
    for domain in list(record.attached):
        detach(record, domain)


def drop_served_by_dead(record: Record) -> None:
    """If the tapdisk died, removes its remains and its users' leases."""
    users = record.users(TAPDISK)
    # None: a verb was killed before it had one, or after it had stopped it.
    if bool(users) if record.tapdisk is None else not _tapdisk(record).is_serving():
        log.warning(f"{record.zvol}: its tapdisk is gone; leases that end with it: {', '.join(users) or 'none'}")
        _stop(record)
        for domain in users:
            deactivate(record, domain)


def _detach_gone(record: Record, domains: "list[str]") -> bool:
    """Takes back what VMs among the domains were given that are gone; whether there were any.

    The client swallows the errors of a deactivate or detach, and does not repeat it.
    """
    gone = _gone(domains)
    for domain in gone:
        _detach_vanished(record, domain)
    return bool(gone)


def _detach_vanished(record: Record, domain: str) -> None:
    log.warning(f"{record.zvol}: {records.called(domain)} is gone; its lease ends")
    detach(record, domain)


def _gone(domains: "list[str]") -> "list[str]":
    """The VMs among them that are gone, and that no backend of the kernel works for any more."""
    guests = [domain for domain in domains if records.is_guest(domain)]
    return xen.gone(guests) if guests else []


# --- for who needs a VDI unused


def require_idle(record: Record, done: str, *, served_by: "tuple[str, ...]" = (NODE, TAPDISK)) -> None:
    """Raises VDIInUse where somebody has activated the VDI; `done` is what was to be done with it.

    `served_by`: who is in the way.
    """
    if _users(record, served_by):
        drop_dead(record)
    users = _users(record, served_by)
    if users:
        raise VDIInUse(
            f"The VDI {record.key} is in use by {record.holders(users)}, and was not {done}. {_advice(record, users)}"
        )
    if os.path.exists(record.path):
        forget_unused(record)


def _users(record: Record, served_by: "tuple[str, ...]") -> "list[str]":
    return [domain for way in served_by for domain in record.users(way)]


def _advice(record: Record, users: "list[str]") -> str:
    return (
        "Shut down the VM, unplug the disk, or wait for what dom0 does with it. If that user is gone for good: "
        f"'Datapath.detach me {record.sr.uri(record.key)} {min(users)}' takes the disk from it."
    )
