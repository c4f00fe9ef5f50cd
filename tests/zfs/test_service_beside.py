# SPDX-License-Identifier: LGPL-2.1-only
"""The resident service beside everything else: killed at random while verbs run, and through many attachments."""

import gc
import os
from pathlib import Path
import random
import threading
import time
from typing import Iterator, Tuple

import pytest

from tests import killed
from tests.service import Service
from tests.zfs.conftest import Bench, run, wait_until
from tests.zfs.test_model import Families, busy_at_once, run_machine
from zfsvol.repository.sr import SR
from zfsvol.service.sight import Looker, Sight
from zfsvol.service.supervisor import Supervisor

__all__ = ["busy_at_once"]

STEPS = int(os.environ.get("ZFSVOL_STEPS", "40"))


class Restless:
    """The service, killed and started again at random, and looking after everything at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stop = threading.Event()
        self.kills = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            service = Service(self._directory)
            self._stop.wait(random.uniform(0.1, 3))
            service.close()
            self.kills += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def restless(tmp_path: Path) -> "Iterator[Restless]":
    made = Restless(tmp_path)
    yield made
    made.stop()


def test_families_beside_a_service_that_is_killed(
    bench: Bench, busy_at_once: None, without_udev: None, restless: Restless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killed, "COMMANDS", killed.COMMANDS - {"zpool"})  # the service's own does not end
    Families.sr = bench.sr()
    run("zfs", "set", "volmode=dev", Families.sr)
    run_machine(Families, STEPS // 3, 20)
    assert restless.kills > 1


def test_many_attachments(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of an SR stays in the service when it is detached: no thread, no descriptor, no object."""
    sr = SR(bench.sr())
    guid = sr.guid
    supervisor = Supervisor()
    threads = threading.active_count()

    def again(times: int, pause: float) -> "Tuple[int, int]":
        """Attaches and detaches the SR so often; returns how many descriptors and objects there are afterwards."""
        for _ in range(times):
            sr.mark_attached(guid)
            supervisor._known = (-1, -1)  # marks within a tick of the clock have the same time
            supervisor._follow()
            time.sleep(pause)
            sr.mark_detached()
            supervisor._known = (-1, -1)
            supervisor._follow()
        assert not supervisor._followers
        wait_until(lambda: threading.active_count() == threads, "the threads to end")
        gc.collect()
        return len(os.listdir("/proc/self/fd")), len(gc.get_objects())

    def require_nothing_left(times: int, pause: float) -> None:
        descriptors, objects = again(2, pause)
        now = again(times, pause)
        assert now[0] == descriptors
        assert now[1] - objects < times

    require_nothing_left(max(8, STEPS // 4), 0.02)
    # Without the looks, which take fifty times as long as the rest.
    monkeypatch.setattr(Looker, "look", lambda *_, **__: Sight(0, None))
    require_nothing_left(1000, 0)
    sr.mark_attached(guid)
