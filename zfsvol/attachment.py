# SPDX-License-Identifier: LGPL-2.1-only
"""What follows from a VDI's record: its device node, its tapdisk and its links are there while somebody needs them.

For the holder of the VDI's lock. Each step is in the record before it is done; whoever reads the record after a crash
goes on from there.
"""

import os

from zfsvol import files, lock, log, node, tapdisk, xen, zfs
from zfsvol import lease as leases
from zfsvol.errors import NodeMissing, SRInUse, StorageError, Unfinished, VDIInUse
from zfsvol.lease import NODE, READ, TAPDISK, WRITE, Lease
from zfsvol.naming import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# Links that are there while the VDI is activated. The first leads to the zvol's node, and is what tapdisk is told to
# open. The second contains the first: there rrdp-iostat looks which VDI a tapdisk serves by the path that tapdisk was
# told, and keeps what it has found for good; so that path is of one VDI alone, which a node is not.
_DEVICES = "/dev/zfs-vol"
_BY_SR = "/dev/sm/phy"
# And, while a tapdisk serves it, to its socket.
_NBD = os.path.join(tapdisk.CONTROL, "nbd")


def _device_link(lease: Lease) -> str:
    return os.path.join(_DEVICES, lease.root.uuid, lease.key)


def _statistics_link(lease: Lease) -> str:
    return os.path.join(_BY_SR, lease.root.uuid, lease.key)


def nbd_socket(lease: Lease) -> str:
    """The path of the NBD server's socket: a link, the same for every tapdisk that serves this VDI."""
    return os.path.join(_NBD, lease.root.uuid, lease.key)


def _output(lease: Lease) -> str:
    return lease.path[: -len(".json")] + ".tap-ctl"


# --- activate and deactivate


def activate(lease: Lease, domain: str, mode: str) -> None:
    """Gives the domain, which has attached the VDI, its lease, and starts what serves it.

    Raises VDIInUse, TapdiskFailed, NodeMissing: then the domain has the lease that it had before, if any.
    """
    if lease.way(domain) == NODE and lease.attached[domain] != lease.node:
        # By now, the one that it knows may be that of another disk.
        raise NodeMissing(
            f"The device of the VDI {lease.key} is {lease.node} now, and no longer {lease.attached[domain]}, which "
            f"{leases.called(domain)} was given: detach it and attach it again."
        )
    settle(lease)
    if lease.active.get(domain) == WRITE:
        mode = WRITE
    obstacles = lease.obstacles(domain, mode)
    if drop_dead_guests(lease, obstacles):
        obstacles = lease.obstacles(domain, mode)
    if obstacles:
        raise VDIInUse(
            f"The VDI {lease.key} is in use by {lease.holders(obstacles)}, and cannot be given to "
            f"{leases.called(domain)}. {_advice(lease, obstacles)}"
        )
    before = lease.active.get(domain)
    lease.active[domain] = mode
    lease.save()
    try:
        files.link(str(lease.node), _device_link(lease))
        files.link(_device_link(lease), _statistics_link(lease))
        if lease.way(domain) == TAPDISK:
            _serve(lease, mode)
    except Exception:
        if before is None:
            _undo(lease, domain)
        else:
            # What was begun is found by the next verb.
            lease.active[domain] = before
            lease.save()
        raise


def _undo(lease: Lease, domain: str) -> None:
    try:
        deactivate(lease, domain)
    except Exception as error:  # noqa: BLE001 - the client is told what had gone wrong before
        # The record tells what there is: the next verb on this VDI goes on from there.
        log.warning(f"{lease.zvol}: what was begun for {domain} is not undone: {error}")


def ensure_node(lease: Lease) -> None:
    """Makes the zvol's node appear. Raises zfs.Missing, NodeMissing."""
    if lease.node is None or not node.is_of(lease.node, lease.zvol):
        lease.node = node.show(lease.zvol)
        lease.save()


def _serve(lease: Lease, mode: str) -> None:
    # A sharable VDI may get a writer beside its readers, and has one tapdisk for all of them.
    readonly = lease.readonly or (mode == READ and not lease.sharable)
    if lease.tapdisk is not None and lease.tapdisk["readonly"] and not readonly:
        _stop(lease)
    if lease.tapdisk is None:
        path = str(lease.node)
        # Open until the tapdisk has it open: meanwhile it cannot become the node of another zvol.
        descriptor = node.opened(path, lease.zvol)
        if descriptor is None:
            raise NodeMissing(f"The device node {path} of the zvol {lease.zvol} has just vanished: try again.")
        try:
            lease.tapdisk = tapdisk.new(_device_link(lease), readonly=readonly)
            lease.save()
            tapdisk.start(lease.tapdisk, _output(lease), lease.save)
        finally:
            os.close(descriptor)
    files.link(tapdisk.socket(lease.tapdisk), nbd_socket(lease))


def deactivate(lease: Lease, domain: str) -> None:
    """Takes the domain's lease back, and stops what nobody needs any more. Idempotent.

    Raises TapdiskFailed and CommandTimeout where the tapdisk cannot be stopped: then the lease stays.
    """
    if domain not in lease.active:
        return
    if lease.users(TAPDISK) == [domain]:
        _stop(lease)
    del lease.active[domain]
    if not lease.active:
        files.remove(_statistics_link(lease))
        files.remove(_device_link(lease))
    lease.save()


def _stop(lease: Lease) -> None:
    if lease.tapdisk is not None:
        tapdisk.stop(lease.tapdisk, _output(lease))
    files.remove(nbd_socket(lease))
    lease.tapdisk = None
    lease.save()


def settle(lease: Lease) -> None:
    """Drops the leases of those whose tapdisk is gone, and all that is left of it: nobody is served by it any more."""
    users = lease.users(TAPDISK)
    # None: a verb was killed before it had one, or after it had stopped it.
    if bool(users) if lease.tapdisk is None else not tapdisk.is_serving(lease.tapdisk):
        log.warning(f"{lease.zvol}: its tapdisk is gone; leases that end with it: {', '.join(users) or 'none'}")
        _stop(lease)
        for domain in users:
            deactivate(lease, domain)


def drop_dead_guests(lease: Lease, domains: "list[str]") -> bool:
    """Takes back what VMs were given that are gone; whether there were any.

    The client swallows the errors of a deactivate or detach, and does not repeat it.
    """
    dead = _dead(domains)
    _take_back(lease, dead)
    return bool(dead)


def _take_back(lease: Lease, gone: "list[str]") -> None:
    for domain in gone:
        log.warning(f"{lease.zvol}: {leases.called(domain)} is gone; its lease ends")
        detach(lease, domain)


def detach(lease: Lease, domain: str) -> None:
    """Takes back all that the domain was given, but for the node. Idempotent. Raises as `deactivate`."""
    deactivate(lease, domain)
    if lease.attached.pop(domain, None) is not None:
        lease.save()


def forget_unused(lease: Lease) -> bool:
    """Takes node and record away if nobody has the VDI attached; False where they stay, as something has the node open.

    The node stays without a record where the pool does not answer: SR.attach finds it.
    """
    if not lease.attached:
        if zfs.pool_state(lease.root.pool) in (None, "SUSPENDED"):
            log.warning(f"{lease.zvol}: the pool does not answer; its device node stays until the SR is attached again")
        elif not node.hide(lease.zvol, lease.node):
            return False
        lease.node = None
        lease.forget()
    return True


def meant(lease: Lease, domain: str) -> "list[str]":
    """The domains of the record that the client means: with "" it means a VM that is gone by now."""
    return [domain] if domain else [*(known for known in lease.attached if not known), *_dead(list(lease.attached))]


def _dead(domains: "list[str]") -> "list[str]":
    """The VMs among them that are gone, and that no backend of the kernel works for any more."""
    guests = [domain for domain in domains if leases.is_guest(domain)]
    return xen.gone(guests) if guests else []


# --- for the verbs of volumes and SRs


class Held(VDIInUse, Unfinished):
    """By somebody, who may be gone without a word."""

    def __init__(self, root: Root, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.root = root
        self.key = key

    def end(self) -> None:
        """Takes back what those were given that are gone."""
        with lock.vdi(self.key):
            drop_dead(leases.read(self.root, self.key))

    def what(self) -> object:
        """Whoever they are."""
        return Held, self.key


def drop_dead(lease: Lease) -> None:
    """Ends leases whose tapdisk or whose VM is gone.

    This may take long, as a tapdisk may: so it is not for the holder of the SR's lock. Raises as `deactivate`.
    """
    settle(lease)
    _take_back(lease, meant(lease, ""))


def require_idle(root: Root, key: str, what: str, *, served_by: "tuple[str, ...]" = (NODE, TAPDISK)) -> Lease:
    """The VDI's record, if nobody has activated it. Raises Held; `what` was to be done with the VDI.

    `served_by`: who is in the way. For the holder of the SR's lock, too.
    """
    lease = leases.read(root, key)
    users = [domain for way in served_by for domain in lease.users(way)]
    if users:
        sentence = f"The VDI {key} is in use by {lease.holders(users)}, and was not {what}. {_advice(lease, users)}"
        raise Held(root, key, sentence)
    if leases.exists(root, key):
        forget_unused(lease)
    return lease


def withdraw_node(lease: Lease) -> None:
    """Takes the node of an idle VDI away, whose zvol is removed: in the graveyard, it has none."""
    if lease.node is not None:
        node.hide(lease.zvol, lease.node)
        lease.node = None
        lease.save()


def _advice(lease: Lease, users: "list[str]") -> str:
    return (
        "Shut down the VM, unplug the disk, or wait for what dom0 does with it. If that user is gone for good: "
        f"'Datapath.detach me {lease.root.uri(lease.key)} {min(users)}' takes the disk from it."
    )


def for_each(
    root: Root, action: "Callable[[Lease], object]", concerns: "Callable[[Lease], bool]" = lambda _: True
) -> None:
    """Does something with the record of every VDI of the SR that it concerns; what cannot be done the log tells of."""
    for key in leases.all_of(root):
        try:
            if concerns(leases.read(root, key)):
                with lock.vdi(key, limit=lock.VDI_LIMIT_OF_EACH):
                    action(leases.read(root, key))
        except StorageError as error:
            log.warning(f"{root.volume(key)}: {error}")


def release(root: Root) -> None:
    """Takes the nodes of all VDIs of the SR away. Raises SRInUse where one is activated, or open.

    For the holder of the SR's exclusive lock: nobody attaches or activates meanwhile.
    """
    for key in leases.all_of(root):
        with lock.vdi_inside(key):
            try:
                require_idle(root, key, "released")
            except VDIInUse as error:
                raise SRInUse(f"The SR {root.uuid} is in use. {error}") from None
    for key in leases.all_of(root):
        with lock.vdi_inside(key):
            lease = leases.read(root, key)
            lease.attached.clear()
            if not forget_unused(lease):
                raise SRInUse(
                    f"The SR {root.uuid} is in use: something has {lease.node} open, the device of the VDI {key}. "
                    f"'fuser -v {lease.node}' tells what."
                )
    # Not before: another VDI's link or record may be about to be made in them.
    for directory in (leases.directory(root), *(os.path.join(place, root.uuid) for place in (_DEVICES, _BY_SR, _NBD))):
        try:
            os.rmdir(directory)
        except OSError:
            pass  # it is not there, or somebody else's are in it


def end(lease: Lease) -> None:
    """Takes back what all domains were given: where the pool has just been imported, none of them can be alive."""
    for domain in list(lease.attached):
        detach(lease, domain)


def hide_unused(root: Root) -> None:
    """Takes away the nodes and records of VDIs that nobody has attached. For the holder of the SR's exclusive lock.

    What cannot be taken away now is told of in the log.
    """
    for_each(root, forget_unused, lambda lease: not lease.attached)
    for zvol in zfs.with_own_volmode(root.dataset):
        if not leases.exists(root, zvol.rpartition("/")[2]):
            log.warning(f"{zvol}: its device node is there and nobody has attached it")
            node.wait(zvol)
            node.hide(zvol, None)
