# SPDX-License-Identifier: LGPL-2.1-only
"""Migrations in trouble: pools that fail, a slow wire, a VM that writes too fast, many at once.

With ZFSVOL_STEPS of 200 or more there are as many at once as xapi allows, and the test of the fast VM takes minutes.
"""

import os
from pathlib import Path
import threading
from typing import Tuple

import pytest

from tests.model import noise
from tests.motion import MIRROR, Migration
from tests.zfs.conftest import MIB, Bench, run, wait_until
from tests.zfs.disk import GUEST, Disk, new_disk
from tests.zfs.test_motion_out import SIZE, Writer, content, require_nothing, require_whole

IS_THOROUGH = int(os.environ.get("ZFSVOL_STEPS", "40")) >= 200
DISKS = 12 if IS_THOROUGH else 3
DISKS_OF_EACH = 4
LARGE = 64 * MIB

pytestmark = pytest.mark.usefixtures("nothing_left")


def filled(sr: str, mebibytes: int) -> "Tuple[Disk, Writer]":
    """A disk with so much data, and the VM that uses it."""
    disk = new_disk(sr, LARGE)
    writer = Writer(disk, disk.use(GUEST), size=LARGE)
    for number in range(mebibytes):
        writer.write(number * MIB, noise(number, MIB))
    return disk, writer


def test_the_destination_fills_up(bench: Bench, tmp_path: Path) -> None:
    source, writer = filled(bench.sr(), 60)
    there = bench.sr()
    run("zfs", "set", "quota=30M", there)
    migration = Migration(source, new_disk(there, LARGE), tmp_path, GUEST)
    migration.start()
    assert migration.wait()["failed"]
    assert "full" in migration.state["error"]
    migration.leave()
    require_whole(migration, writer)
    migration.destination.drop(MIRROR)


def test_the_source_s_pool_is_suspended(bench: Bench, tmp_path: Path) -> None:
    device = bench.faulty_disk()
    source, writer = filled(bench.sr(vdev=device.path), 8)
    migration = Migration(source, new_disk(bench.sr(), LARGE), tmp_path, GUEST)
    migration.start()
    assert migration.wait()["complete"]
    device.fail()
    threading.Thread(target=writer.step, daemon=True).start()
    wait_until(lambda: migration.stat()["failed"], "the failure", 120)
    assert "is suspended because it lost a disk" in migration.state["error"]
    wait_until(lambda: not migration.is_running(), "the job's end")
    device.mend()
    run("zpool", "clear", source.sr)
    migration.leave()
    writer.close()
    source.drop(GUEST)
    source.volume("destroy")
    require_nothing(migration)
    migration.destination.drop(MIRROR)


def test_many_disks_at_once(bench: Bench, tmp_path: Path) -> None:
    here, there = bench.sr(), bench.sr()
    moved = []
    for number in range(DISKS):
        guest = str(100 + number // DISKS_OF_EACH)
        source = new_disk(here, SIZE)
        writer = Writer(source, source.use(guest), number)
        for _ in range(10):
            writer.step()
        moved.append((Migration(source, new_disk(there, SIZE), tmp_path, guest), writer))
    for migration, writer in moved:
        writer.start()
        migration.start()
    ended = [(migration.wait(300), migration.state) for migration, _ in moved]
    for migration, writer in moved:
        migration.leave()
        writer.pause()
    assert [state for found, state in ended if not found["complete"]] == []
    for migration, writer in moved:
        migration.finish()
        assert content(migration.destination) == writer.content


def test_a_slow_wire(bench: Bench, tmp_path: Path) -> None:
    """10 MB/s, and a VM that writes less."""
    source, writer = filled(bench.sr(), 30)
    migration = Migration(source, new_disk(bench.sr(), LARGE), tmp_path, GUEST, rate=10e6)
    writer.start()
    migration.start()
    assert migration.wait()["complete"]
    migration.leave()
    writer.pause()
    migration.finish()
    assert content(migration.destination) == writer.content


@pytest.mark.skipif(not IS_THOROUGH, reason="takes minutes; tests/unit/test_pace.py has the same without a wire")
def test_a_vm_that_writes_too_fast(bench: Bench, tmp_path: Path) -> None:
    source, writer = filled(bench.sr(), 30)
    migration = Migration(source, new_disk(bench.sr(), LARGE), tmp_path, GUEST, rate=1e6)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            writer.write(number % 30 * MIB, noise(number, MIB))
            number += 1

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    migration.start()
    found = migration.wait(580)
    stop.set()
    thread.join()
    assert found["failed"]
    assert "writes its disk as fast as it can be copied" in migration.state["error"]
    migration.leave()
    require_whole(migration, writer)
    migration.destination.drop(MIRROR)
