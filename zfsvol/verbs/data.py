# SPDX-License-Identifier: LGPL-2.1-only
"""The Data verbs: they copy a disk to another SR while a VM uses it. The work is done by a job, see `motion.mirror`.

Arguments and results are those of the SMAPIv3 interface. xapi starts the copy, asks until it is complete, moves the VM,
and deactivates the disk: by then the job has copied what was written last.
"""

import time

from zfsvol import naming
from zfsvol.errors import InvalidArgument
from zfsvol.repository import mirror as mirrors
from zfsvol.repository import record as records
from zfsvol.repository import sr as srs
from zfsvol.repository.job import FAILED
from zfsvol.repository.record import Locked

_KIND = "MirrorV1"

# Seconds. xapi asks again at once, so the answer waits for news.
_NEWS_LIMIT = 1.0
_PAUSE = 0.05


def mirror(dbg: str, uri: str, domain: str, remote: str) -> "list[str]":
    """Starts to copy the VDI, and then what the domain writes, to the NBD server `remote`; returns the operation.

    `domain`: the VM whose writes count, or -1 if none has the disk. Raises InvalidArgument (no such disk, not
    attached), VDIInUse (it is being copied already), SRUnavailable. What fails later is told by `stat`. A crash leaves
    nothing but the job.
    """
    root, key = naming.parse_uri(uri)
    sr = srs.find(root.dataset)
    with Locked(sr, key) as record:
        if domain != mirrors.NOBODY and domain not in record.attached:
            raise InvalidArgument(
                f"The VDI {key} cannot be mirrored for {records.called(domain)}, which has not attached it."
            )
        if not record.attached:
            raise InvalidArgument(f"The VDI {key} cannot be mirrored: nobody has attached it.")
        return [_KIND, mirrors.start(sr, key, domain, remote)]


def stat(dbg: str, operation: "list[str]") -> "dict[str, object]":
    """How far an operation is: `{failed, complete, progress}`, the last from 0.0 to 1.0. Waits up to a second for news.

    Complete means that all is copied but for what was written just now. It stays so until the disk is deactivated.
    Raises InvalidArgument if there is no such operation.
    """
    if len(operation) != 2 or operation[0] != _KIND:
        raise InvalidArgument(f"'{operation}' is no operation of this driver.")
    end = time.monotonic() + _NEWS_LIMIT
    job, state = mirrors.found(operation[1])
    while state["state"] == mirrors.COPYING and time.monotonic() < end:
        time.sleep(_PAUSE)
        job, state = mirrors.found(operation[1])
    failed = state["state"] == FAILED
    if failed:
        mirrors.note_told(job, state)
    complete = not failed and state["state"] != mirrors.COPYING
    return {
        "failed": failed,
        "complete": complete or bool(state.get("was_in_step")),
        "progress": 1.0 if complete else float(state.get("progress", 0.0)),
    }
