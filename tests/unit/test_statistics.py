# SPDX-License-Identifier: LGPL-2.1-only
"""The statistics of months: on a kernel of plain files, so that 100,000 updates take seconds. Others: tests/zfs."""

import gc
import os
from pathlib import Path
import sys

import pytest

from tests.client import new_uuid
from tests.rrdd import Daemon
from zfsvol.repository import record as records
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import SR
from zfsvol.service.follower import Follower
from zfsvol.service.messages import Sender
from zfsvol.service.statistics import Statistics
from zfsvol.zfs import counters, kernel

UPDATES = 100_000

OBJSET = """\
22 1 0x01 7 2160 5 5659023232
name                            type data
dataset_name                    7    {zvol}
writes                          4    {writes}
nwritten                        4    {written}
reads                           4    0
nread                           4    0
"""
ARC = """\
12 1 0x01 123 33456 1722098304 4508087424
name                            type data
hits                            4    {writes}
misses                          4    6
size                            4    1048576
"""


class Kernel:
    """The counters of a host with one SR, of which a VM uses a disk."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(srs, "DIRECTORY", str(directory / "srs"))
        for module in (counters, kernel):
            monkeypatch.setattr(module, "_KSTAT", str(directory / "kstat"))
        monkeypatch.setattr(counters, "_BLOCK", str(directory / "block"))
        self.sr = SR(f"sr-{new_uuid()}")
        self.record = records.Record(self.sr, new_uuid(), {"node": "/dev/zd0"})
        self._kstat, self._block = directory / "kstat", directory / "block"
        (self._kstat / self.sr.pool).mkdir(parents=True)
        (self._kstat / self.sr.pool / "state").write_text("ONLINE\n")
        (self._block / "zd0").mkdir(parents=True)
        self.writes = 0
        self.write()

    def write(self) -> None:
        """The VM writes a block."""
        self.writes += 1
        numbers = {"zvol": self.record.zvol, "writes": self.writes, "written": self.writes << 14}
        (self._kstat / self.sr.pool / "objset-0x1").write_text(OBJSET.format(**numbers))
        (self._kstat / "arcstats").write_text(ARC.format(**numbers))
        (self._block / "zd0" / "stat").write_text(f"0 0 0 0 {self.writes} 0 0 {self.writes} 0 0 0")


def taken() -> int:
    """The size of all containers, one of which holds whatever is kept."""
    gc.collect()
    return sum(map(sys.getsizeof, gc.get_objects()))


def test_months(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither memory nor descriptors become more, however often disks are attached and written meanwhile."""
    host = Kernel(tmp_path, monkeypatch)
    statistics, daemon = Statistics(str(tmp_path / "metrics")), Daemon(tmp_path / "metrics")
    followed = [Follower(host.sr, "", Sender())]

    def update(first: int, last: int) -> None:
        for number in range(first, last):
            if number % 50 == 0:
                host.write()
            if number % 100 == 0:
                host.record.save() if number % 200 else host.record.forget()
            statistics.update(5.0 * number, followed)

    update(0, 1000)
    memory, descriptors = taken(), os.listdir("/proc/self/fd")
    update(1000, UPDATES)
    assert taken() - memory < 4000
    assert os.listdir("/proc/self/fd") == descriptors
    assert len(os.listdir(str(tmp_path / "metrics"))) == 1
    update(UPDATES + 100, UPDATES + 102)
    host.write()
    update(UPDATES + 102, UPDATES + 103)
    assert daemon.read()[f"sr {host.sr.uuid}", "write_requests"].value == 1 / 5
    statistics.close()
