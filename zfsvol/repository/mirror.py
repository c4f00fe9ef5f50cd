# SPDX-License-Identifier: LGPL-2.1-only
"""A disk's mirror job as verbs see it: how it is started and ended, and what it forbids.

The job (`motion.mirror`) copies the disk to an NBD server, in passes: from one ZFS snapshot to the next. Its end comes
when the domain that it was started for deactivates the disk, or, if that never had it, when nobody has it attached any
more. Then it copies what is left. The ZFS snapshots are named by the job's operation. `clear` removes those of a killed
job; SR.attach removes those that a boot has left.
"""

import signal

from zfsvol import log, naming
from zfsvol.errors import InvalidArgument, StorageError, VDIInUse
from zfsvol.host import files
from zfsvol.repository.job import FAILED, FINISHED, Job
from zfsvol.repository.sr import SR
from zfsvol.zfs import changes, datasets
from zfsvol.zfs.pool import Missing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KIND = "mirror"
NOBODY = "-1"  # xapi's domain for the disk of a halted VM

# The states of a job, besides FAILED and FINISHED.
COPYING = "copying"
IN_STEP = "in step"  # all is copied but for what was written just now

# Seconds.
_FINISH_LIMIT = 1800  # the limits of the job itself end it before
_CLEAR_LIMIT = 120


def job(sr: SR, key: str) -> Job:
    """The mirror job of a VDI."""
    return Job(sr, key, KIND)


def start(sr: SR, key: str, domain: str, remote: str) -> str:
    """Starts the job and returns its operation, a name. Raises VDIInUse if there is one already.

    The caller holds the VDI's lock. `remote`: the URI of the NBD server.
    """
    require_none(sr, key, "mirrored again")
    operation = files.new_uuid()
    job(sr, key).start({"state": COPYING, "operation": operation, "domain": domain, "remote": remote, "progress": 0.0})
    return f"{sr.volume(key)}@{operation}"


def found(operation: str) -> "tuple[Job, dict[str, Any]]":
    """The job of an operation, and its state. Raises InvalidArgument if there is none."""
    zvol, _, uuid = operation.partition("@")
    dataset, _, key = zvol.rpartition("/")
    if naming.is_root(dataset) and naming.is_uuid(key):
        named = job(SR(naming.parse_sr(dataset).dataset), key)
        try:
            state = named.read()
        except FileNotFoundError:
            state = {}
        if state.get("operation") == uuid:
            return named, state
    raise InvalidArgument(f"There is no mirror '{operation}'.")


def is_running(sr: SR, key: str) -> bool:
    """Whether the VDI is being mirrored. Waits for a job that only has to clear up."""
    named = job(sr, key)
    if not named.is_running():
        return False
    return not (named.read()["state"] in (FAILED, FINISHED) and named.ends(_CLEAR_LIMIT))


def described(sr: SR, key: str) -> "str | None":
    """What a VDI's job does and how far it is, in words that may follow the VDI's name; None if it has none."""
    try:
        state = job(sr, key).read()
    except FileNotFoundError:
        return None
    if state["state"] == FAILED:
        return "was being copied to another SR, which failed: {}".format(state["error"])
    if state["state"] == FINISHED:
        return "was copied to another SR"
    return "is being copied to another SR ({:.0f} % done)".format(100 * state.get("progress", 0))


def require_none(sr: SR, key: str, done: str) -> None:
    """Raises VDIInUse while the VDI is mirrored. Clears what an ended job has left.

    `done`: what the caller wants to do, as in "was not resized". The caller holds the VDI's lock.
    """
    if not job(sr, key).exists():
        return
    if is_running(sr, key):
        raise VDIInUse(
            f"The VDI {key} {described(sr, key)}, and was not {done}. Wait for the end of the migration, or cancel it."
        )
    clear(sr, key)


def clear(sr: SR, key: str) -> None:
    """Removes what an ended job has left: its state, and the ZFS snapshots of a killed one. Idempotent.

    Raises nothing: what stays is removed by SR.attach. The caller holds the VDI's lock.
    """
    ended = job(sr, key)
    ended.ends(_CLEAR_LIMIT)
    try:
        operation = ended.read()["operation"]
        drop_snapshots(sr, key, operation)
    except FileNotFoundError:
        return
    except (StorageError, LookupError) as error:
        log.warning(f"{sr.volume(key)}: snapshots of a mirror may stay: {error}")
    ended.forget()


def drop_snapshots(sr: SR, key: str, operation: str) -> None:
    """Destroys the ZFS snapshots of an operation. Idempotent."""
    try:
        rows = datasets.listing(sr.zfs, sr.volume(key), types="snapshot", columns=("name",))
    except Missing:
        return
    for (name,) in rows:
        if naming.mirrored(name.rpartition("@")[2]) == operation:
            try:
                changes.destroy(sr.zfs, name)
            except Missing:
                pass


def deactivated(sr: SR, key: str, domain: str) -> None:
    """The domain does not write the VDI any more: if the job is for it, waits until it has copied what is left.

    Raises nothing: see `require_complete`. The caller holds the VDI's lock.
    """
    named = job(sr, key)
    if named.exists() and named.read().get("domain") == domain:
        _end(named)


def detached(sr: SR, key: str) -> None:
    """Nobody has the VDI attached any more: ends its job as `deactivated`, whomever it is for."""
    named = job(sr, key)
    if named.exists():
        _end(named)


def _end(named: Job) -> None:
    """Does not wait until it has cleared up: a VM waits for this."""
    named.signal(signal.SIGUSR1)
    if not named.concludes(_FINISH_LIMIT):
        named.signal(signal.SIGKILL)


def require_complete(sr: SR, key: str, domain: "str | None") -> None:
    """Raises StorageError, once, if the client believes the VDI's copy to be complete, and it is not.

    Called after the end of the lease of `domain`, in which xapi may have handed the disk over to the copy. None: nobody
    has the disk attached any more, whomever the copy was for.
    """
    named = job(sr, key)
    if not named.exists():
        return
    state = named.read()
    if domain not in (None, state.get("domain")):
        return
    if state["state"] == FAILED and state.get("was_in_step") and not state.get("is_told"):
        note_told(named, state)
        raise StorageError(
            f"The copy of the VDI {key} at the other end is not complete: {state['error']} The disk here is whole. Do "
            "not use the copy: start the VM here, and migrate it again."
        )


def note_told(named: Job, state: "dict[str, Any]") -> None:
    """Notes that the client knows of the failure of a job whose process has ended."""
    if not state.get("is_told"):
        named.write(dict(state, is_told=True))


def activated(sr: SR, key: str, domain: str) -> None:
    """A domain writes the VDI again after the end of its job: what was copied is no longer what the disk holds.

    A VM that reboots while it is migrated does that. The client learns of it when it asks, or deactivates the domain.
    """
    named = job(sr, key)
    if named.exists():
        state = named.read()
        if state["state"] == FINISHED:
            error = "The disk was written again after it was copied."
            named.write(dict(state, state=FAILED, domain=domain, error=error))


def alive(sr: SR) -> "set[str]":
    """The operations of the SR's jobs whose processes live."""
    found_ = set()
    for name in files.names(sr.directory):
        key, _, kind = name.partition(".")
        if kind == KIND and job(sr, key).is_running():
            try:
                found_.add(str(job(sr, key).read().get("operation")))
            except FileNotFoundError:
                continue
    return found_
