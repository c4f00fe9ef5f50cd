# SPDX-License-Identifier: LGPL-2.1-only
"""What one look at an SR sees: the state of its pool, and how full it is."""

import time

from zfsvol import log
from zfsvol.errors import StorageError
from zfsvol.host.command import CommandTimeout
from zfsvol.repository.sr import SR
from zfsvol.zfs import core, kernel, text


class Sight:
    """The result of a look, which is never changed. May take as long as the pool needs to answer.

    `time`: seconds since 1970. `state`: the pool's state in the kernel; None if it is not imported. `status`: `zpool
    status`; None if it could not be read. `numbers`: see `core.numbers`; None likewise.
    """

    def __init__(self, sr: SR) -> None:
        self.time = time.time()
        self.state = kernel.state(sr.pool)
        self.status = _status(sr)
        self.numbers = _numbers(sr) if self.state not in (None, kernel.SUSPENDED) else None


def _status(sr: SR) -> "text.Pool | None":
    try:
        return text.read(sr.zfs.glance())[0]
    except (CommandTimeout, StorageError, IndexError) as error:
        log.warning(f"{sr.pool}: 'zpool status' cannot be read: {error}")
        return None


def _numbers(sr: SR) -> "core.Numbers | None":
    try:
        return core.numbers(sr.zfs, sr.dataset)
    except StorageError as error:
        log.warning(f"{sr.dataset}: {error}")
        return None
