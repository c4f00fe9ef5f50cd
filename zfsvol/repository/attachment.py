# SPDX-License-Identifier: LGPL-2.1-only
"""The life of a VDI's attachment: attach, activate, deactivate, detach, each for one domain.

    attach      the domain is recorded; the zvol has a device node
    activate    the domain gets a lease; links lead to the node; a tapdisk serves the domains that need one
    deactivate  the lease ends; what no domain needs any more is stopped and removed
    detach      the domain is removed from the record; the node goes with the last domain

Each step is recorded before it is done, so the next verb can continue after a crash. The caller of any function here
holds the VDI's lock (`record.Locked`) unless its docstring says otherwise. Every function may be repeated.
"""

from zfsvol import log, naming, properties
from zfsvol.errors import InvalidArgument, NodeMissing, SRUnavailable, StorageError, VDIInUse
from zfsvol.host import files, tapdisk, xen
from zfsvol.host.tapdisk import Tapdisk
from zfsvol.repository import lineage, links, mirror, recording
from zfsvol.repository import record as records
from zfsvol.repository.record import NODE, READ, TAPDISK, WRITE, Record
from zfsvol.repository.sr import ALONE, CHANGE
from zfsvol.zfs import datasets, kernel, node
from zfsvol.zfs.pool import Missing

BLKBACK = "blkback"

_NOT_GIVEN = ""  # in place of the domain's node, until the domain is given one


def nbd_socket(record: Record) -> str:
    """The path of the NBD server's socket: a link that stays the same for every tapdisk that serves this VDI."""
    return links.path(links.SERVERS, record)


def _tapdisk(record: Record) -> Tapdisk:
    assert record.tapdisk is not None  # noqa: S101 - callers have checked
    return Tapdisk(record.tapdisk, record.path[: -len(".json")] + ".tap-ctl", record.sr.zfs.held)


# --- attach


def attach(record: Record, domain: str, *, gives_node: bool) -> None:
    """Records the domain and makes the zvol's node appear. `gives_node`: the caller tells the domain the node.

    Raises VDIUnavailable, SRUnavailable, NodeMissing, InvalidArgument; then the record is unchanged.
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
        # The node that a tapdisk has open is certainly this zvol's.
        if not record.users(TAPDISK):
            _ensure_node(record)
    except StorageError as error:
        if is_new:
            detach(record, domain)
            forget_unused(record)
        if isinstance(error, Missing):
            record.sr.vdi(record.key)  # its error says whether the disk or the SR is missing
        raise
    if record.way(domain) == NODE and (gives_node or record.attached[domain] == _NOT_GIVEN):
        record.attached[domain] = str(record.node)
        record.save()


def _look(record: Record) -> None:
    """Reads the zvol's settings that hold while it is attached."""
    sr = record.sr
    vdi = sr.vdi(record.key, datasets.inherited_properties)
    vdi.require_data("attached")
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
            f"{naming.SR_DATAPATH} of {record.zvol} is '{record.datapath}', but must be {TAPDISK} or {BLKBACK}. "
            f"'zfs get {naming.SR_DATAPATH} {record.zvol}' shows where it is set."
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
    """Gives a lease to a domain that has attached the VDI, and starts a tapdisk if the domain needs one.

    Raises VDIInUse, VDIUnavailable (it is half of a disk that moves here), TapdiskFailed, NodeMissing; then the domain
    keeps the lease that it had before, if any.
    """
    if domain not in record.active:
        recording.require_whole(record)
    if record.way(domain) == NODE and record.attached[domain] != record.node:
        # The node that the domain knows may belong to another disk by now.
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
    if obstacles:
        _detach_gone(record, obstacles)
        drop_ended_migrations(record, obstacles)
        obstacles = record.obstacles(domain, mode)
    if obstacles:
        raise VDIInUse(
            f"The VDI {record.key} is in use by {record.holders(obstacles)}, and cannot be given to "
            f"{records.called(domain)}. {advice(record, obstacles)}"
        )
    before = record.active.get(domain)
    record.active[domain] = mode
    record.save()
    try:
        files.link(str(record.node), links.path(links.DEVICES, record))
        files.link(links.path(links.DEVICES, record), links.path(links.STATISTICS, record))
        if mode == WRITE:
            mirror.activated(record.sr, record.key, domain)
        if record.way(domain) == TAPDISK:
            _serve(record, mode)
    except Exception:
        if before is None:
            _undo(record, domain)
        else:
            # The next verb finds the unfinished steps in the record.
            record.active[domain] = before
            record.save()
        raise


def _serve(record: Record, mode: str) -> None:
    # A sharable VDI may get a writer beside its readers, and has one tapdisk for all of them.
    readonly = record.readonly or (mode == READ and not record.sharable)
    if record.tapdisk is not None and record.tapdisk["readonly"] and not readonly:
        _stop(record)
    if record.tapdisk is None:
        # Keep the node open until the tapdisk has it open, so that it cannot become another zvol's.
        with node.Opened(str(record.node), record.zvol):
            record.tapdisk = tapdisk.new(links.path(links.DEVICES, record), readonly=readonly)
            record.save()
            _tapdisk(record).start(record.save)
    files.link(_tapdisk(record).socket(), nbd_socket(record))


def _undo(record: Record, domain: str) -> None:
    try:
        deactivate(record, domain)
    except Exception as error:  # noqa: BLE001 - the client gets the first error
        # The record shows what was done: the next verb on this VDI continues from there.
        log.warning(f"{record.zvol}: activation for {domain} could not be undone: {error}")


# --- deactivate, detach


def deactivate(record: Record, domain: str) -> None:
    """Ends the domain's lease, and stops the recorder and the tapdisk that no domain needs any more.

    Then a mirror of the disk copies what is left.

    Raises StorageError, TapdiskFailed and CommandTimeout if one of them cannot be stopped; then the lease stays.
    """
    if domain not in record.active:
        return
    if recording.exists(record.sr, record.key):
        recording.end(record, domain)
    if record.users(TAPDISK) == [domain]:
        _stop(record)
    del record.active[domain]
    if not record.active:
        files.remove(links.path(links.STATISTICS, record))
        files.remove(links.path(links.DEVICES, record))
    record.save()
    mirror.deactivated(record.sr, record.key, domain)


def _stop(record: Record) -> None:
    if record.tapdisk is not None:
        _tapdisk(record).stop()
    files.remove(nbd_socket(record))
    record.tapdisk = None
    record.save()


def detach(record: Record, domain: str) -> None:
    """Deactivates the domain and removes it from the record; the node stays. Raises as `deactivate`."""
    deactivate(record, domain)
    if record.attached.pop(domain, None) is not None:
        record.save()
        if not record.attached:
            mirror.detached(record.sr, record.key)


def forget_unused(record: Record) -> bool:
    """Removes node and record if nobody has the VDI attached. False if they stay because something has the node open.

    If the pool does not answer, the node stays without a record: SR.attach finds it.
    """
    if not record.attached:
        if kernel.state(record.sr.pool) in (None, kernel.SUSPENDED):
            log.warning(
                f"{record.zvol}: the pool does not answer; its device node stays until the SR is attached again"
            )
        elif not node.hide(record.sr.zfs, record.zvol, record.node):
            return False
        record.node = None
        mirror.clear(record.sr, record.key)
        record.forget()
    return True


# --- users that are gone without a detach


def addressed(record: Record, domain: str) -> "list[str]":
    """Domains addressed by the client's argument; "" means every recorded VM that is gone."""
    return [domain] if domain else [*(known for known in record.attached if not known), *_gone(list(record.attached))]


def drop_dead(record: Record) -> None:
    """Ends the leases of a dead tapdisk's users and detaches VMs that are gone. May be slow. Raises as `deactivate`."""
    drop_served_by_dead(record)
    for domain in addressed(record, ""):
        _detach_vanished(record, domain)


def detach_all(record: Record) -> None:
    """Detaches all domains, right after the import of the pool, when none of them can be alive."""
    for domain in list(record.attached):
        detach(record, domain)


def drop_served_by_dead(record: Record) -> None:
    """If the tapdisk died, removes its remains and its users' leases."""
    users = record.users(TAPDISK)
    # No tapdisk but users: a verb was killed before it started one, or after it stopped it.
    if bool(users) if record.tapdisk is None else not _tapdisk(record).is_serving():
        log.warning(f"{record.zvol}: its tapdisk died; these leases end: {', '.join(users) or 'none'}")
        _stop(record)
        for domain in users:
            deactivate(record, domain)


def _detach_gone(record: Record, domains: "list[str]") -> None:
    """Detaches those of the domains that are VMs and gone.

    They exist because the client ignores the errors of deactivate and detach and does not repeat the call.
    """
    for domain in _gone(domains):
        _detach_vanished(record, domain)


def drop_ended_migrations(record: Record, domains: "list[str]") -> None:
    """Detaches those of the domains that are storage migrations without a connection.

    They exist because xapi does not detach the disk of a halted VM after it has moved. Only for who needs the disk: a
    migration that has just begun is not connected yet either.
    """
    for domain in ended_migrations(record, domains):
        log.warning(f"{record.zvol}: {records.called(domain)} has ended; its lease ends")
        detach(record, domain)


def ended_migrations(record: Record, domains: "list[str]") -> "list[str]":
    """Those of the domains that are storage migrations without a connection."""
    ended = [domain for domain in domains if records.is_migration(domain)]
    if not ended or record.tapdisk is None or recording.is_running(record) or _tapdisk(record).has_clients():
        return []
    return ended


def _detach_vanished(record: Record, domain: str) -> None:
    log.warning(f"{record.zvol}: {records.called(domain)} is gone; its lease ends")
    detach(record, domain)


def _gone(domains: "list[str]") -> "list[str]":
    """Those of the domains that are VMs, are gone and have no backend in the kernel any more."""
    guests = [domain for domain in domains if records.is_guest(domain)]
    return xen.gone(guests) if guests else []


def advice(record: Record, users: "list[str]") -> str:
    """What the administrator can do about the users of a VDI."""
    return (
        "Shut down the VM, unplug the disk, or wait until dom0 is done with it. If that user is gone for good, "
        f"'Datapath.detach me {record.sr.uri(record.key)} {min(users)}' takes the disk from it."
    )
