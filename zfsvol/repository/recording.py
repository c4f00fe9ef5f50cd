# SPDX-License-Identifier: LGPL-2.1-only
"""A disk that moves into the SR while its VM runs: its leaf, the recorder of what is written to it, and the record.

xapi makes two VDIs. The parent gets the old data. The leaf gets what the VM writes meanwhile, from a recorder, a job
(`motion.recorder`) that belongs to the domain for which the leaf is activated. Volume.compose puts the two together. As
long as the recorder's state exists, the leaf is half a disk, and nobody else may activate it: xapi starts the VM even
if Volume.compose was refused.

State and socket are in memory: a boot ends a migration. The record of written sectors may be large, and is on the
host's disk. All go when the leaf is composed, destroyed or reverted, or the SR is detached; SR.attach removes the rest.
"""

import os
import time

from zfsvol import log, naming
from zfsvol.errors import InvalidArgument, StorageError, VDIUnavailable
from zfsvol.host import files
from zfsvol.repository import links
from zfsvol.repository.record import WRITE, Record, is_dom0
from zfsvol.repository.sr import LASTING, SR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zfsvol.repository.job import Job

KIND = "recorder"
# The states of the job before its last one.
STARTING = "starting"
LISTENING = "listening"
RECORDING = "recording"

_SOCKET = ".in"
_WRITTEN = ".written"

# Seconds.
_START_LIMIT = 60
_END_LIMIT = 180  # what was written last has to become durable
_PAUSE = 0.02


def exists(sr: SR, key: str) -> bool:
    """Whether the VDI is such a leaf."""
    return os.path.exists(os.path.join(sr.directory, f"{key}.{KIND}"))


def device(sr: SR, key: str) -> str:
    """The path by which the recorder opens the leaf's zvol."""
    return links.path_of(links.DEVICES, sr, key)


def socket_path(sr: SR, key: str) -> str:
    """The socket that takes the connection to the source. Shorter than the 107 bytes that the kernel allows."""
    return links.path_of(links.SERVERS, sr, key) + _SOCKET


def written_path(sr: SR, key: str) -> str:
    """The file that records what was written."""
    return _prefix(sr) + key + _WRITTEN


def _prefix(sr: SR) -> str:
    return os.path.join(LASTING, f"{sr.guid}-{sr.uuid}-")


def _job(sr: SR, key: str) -> "Job":
    from zfsvol.repository.job import Job  # its modules are only for disks that move

    return Job(sr, key, KIND)


def start(record: Record, domain: str) -> str:
    """Starts the recorder of the leaf for a domain, and returns its socket once it listens. Idempotent.

    The caller holds the VDI's lock. Raises InvalidArgument if the domain has not activated the leaf for writing, and
    StorageError if the recorder does not start or has ended already.
    """
    from zfsvol.zfs import node  # as above

    job = _job(record.sr, record.key)
    user = _writer(record, domain)
    # The node must not become another zvol's before the recorder has it open.
    with node.Opened(str(record.node), record.zvol):
        if not job.exists():
            job.start({"state": STARTING, "domain": user})
        end = time.monotonic() + _START_LIMIT
        while True:
            state = job.read()
            if state["state"] in (LISTENING, RECORDING):
                return socket_path(record.sr, record.key)
            if state["state"] != STARTING:
                raise _ended(record.sr, record.key)
            if time.monotonic() > end:
                raise StorageError(f"The recorder of the VDI {record.key} does not start: its pool may not answer.")
            time.sleep(_PAUSE)


def is_running(record: Record) -> bool:
    """Whether a recorder may still write to the VDI."""
    return exists(record.sr, record.key) and _job(record.sr, record.key).is_running()


def _writer(record: Record, domain: str) -> str:
    """The domain, by the name under which it has activated the VDI for writing: dom0 has one for each datapath."""
    for known, mode in record.active.items():
        if mode == WRITE and (known == domain or (is_dom0(known) and is_dom0(domain))):
            return known
    raise InvalidArgument(
        f"The VDI {record.key} is not activated for writing by {domain}, so nothing can be mirrored into it for it."
    )


def _ended(sr: SR, key: str) -> StorageError:
    """The error for a mirror that is over."""
    why = _job(sr, key).read().get("error")
    what = "has ended" if why is None else f"broke off ({why})"
    return StorageError(f"The mirror into the VDI {key} {what}: start the migration again.")


def end(record: Record, domain: str) -> None:
    """Ends the recorder if it is this domain's, before the domain's lease ends. Idempotent.

    The caller holds the VDI's lock. Raises StorageError if it does not end: it may still write.
    """
    import signal  # as above

    job = _job(record.sr, record.key)
    if job.read().get("domain") != domain:
        return
    job.signal(signal.SIGTERM)
    if not job.ends(_END_LIMIT):
        raise StorageError(
            f"The recorder of the VDI {record.key} does not end, and may still write: its pool may not answer."
        )


def require_whole(record: Record) -> None:
    """Raises VDIUnavailable if the VDI is a leaf. Forgets the recorder of one that was composed by a killed verb."""
    if exists(record.sr, record.key) and not _forgotten(record.sr, record.key):
        raise VDIUnavailable(
            f"The VDI {record.key} holds only what a VM wrote while its disk was moved here. The migration did not put "
            "it together with the rest of the disk: see /var/log/SMlog. Destroy the VDI, and start the migration again."
        )


def finished(sr: SR, key: str) -> str:
    """The path of the record, after a check that it is complete. Raises InvalidArgument, StorageError."""
    from zfsvol.repository.job import FINISHED  # as above

    if not exists(sr, key):
        raise InvalidArgument(f"Nothing was mirrored into the VDI {key}, so there is nothing to compose.")
    if _job(sr, key).read()["state"] != FINISHED:
        raise _ended(sr, key)
    path = written_path(sr, key)
    if not os.path.exists(path):
        raise StorageError(f"{path}, the record of what was written to the VDI {key}, is gone: migrate it again.")
    return path


def forget(sr: SR, key: str) -> None:
    """Removes all that the recorder of the VDI has left, if it is a leaf. Its recorder has ended. Idempotent.

    The state goes last, so that after a crash somebody finds the rest by it.
    """
    if not exists(sr, key):
        return
    try:
        files.remove(written_path(sr, key))
    except OSError as error:  # the host's disk; SR.attach tries again
        log.warning(f"{sr.volume(key)}: the record of a migration stays: {error}")
    files.remove(socket_path(sr, key))
    _job(sr, key).forget()


def _forgotten(sr: SR, key: str) -> bool:
    """Forgets the recorder of a VDI that is no leaf any more: it is gone, or composed. Whether it was so."""
    try:
        is_leaf = naming.VDI_COMPOSED not in sr.vdi(key).values
    except VDIUnavailable:
        is_leaf = False
    if not is_leaf:
        forget(sr, key)
    return not is_leaf


def sweep(sr: SR) -> None:
    """For SR.attach: removes what is left of disks that are no leaves any more, and records without a state."""
    states = [name.partition(".")[0] for name in files.names(sr.directory) if name.endswith("." + KIND)]
    for key in states:
        if not _job(sr, key).is_running():
            _forgotten(sr, key)
    prefix = os.path.basename(_prefix(sr))
    for name in files.names(LASTING):
        key = name[len(prefix) : -len(_WRITTEN)]
        if name == f"{prefix}{key}{_WRITTEN}" and naming.is_uuid(key) and not exists(sr, key):
            log.warning(f"{sr.volume(key)}: removing the record of a migration that is over")
            files.remove(os.path.join(LASTING, name))
