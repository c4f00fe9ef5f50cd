# SPDX-License-Identifier: LGPL-2.1-only
"""Transaction groups of a pool, counted; for tests and benchmarks. No test by itself."""

from contextlib import contextmanager
from pathlib import Path
import time
from typing import Iterator

_TIMEOUT = Path("/sys/module/zfs/parameters/zfs_txg_timeout")
_NEVER = "600"  # seconds


@contextmanager
def none_by_itself() -> "Iterator[None]":
    """Within it, pools write a transaction group only when somebody waits for it."""
    before = _TIMEOUT.read_text()
    _TIMEOUT.write_text(_NEVER)
    try:
        time.sleep(float(before) + 0.5)  # until the groups that began with the shorter time are written
        yield
    finally:
        _TIMEOUT.write_text(before)


def last_group(pool: str) -> int:
    """The number of the newest transaction group."""
    lines = Path(f"/proc/spl/kstat/zfs/{pool}/txgs").read_text().splitlines()
    return int(lines[-1].split()[0])
