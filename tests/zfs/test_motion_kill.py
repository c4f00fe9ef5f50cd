# SPDX-License-Identifier: LGPL-2.1-only
"""Migrations in which something is killed at a random moment: the job, a verb, the relay, the server.

The source always holds what its VM has written. What xapi was told is complete at the end is the same at the other end.
ZFSVOL_STEPS sets the number of migrations, ten times as high.
"""

import os
from pathlib import Path
import random
import time
from typing import Any, Iterator, Tuple

import pytest

from tests import blktap, client
from tests.client import VerbError
from tests.motion import MIRROR, Migration
from tests.zfs.conftest import Bench, wait_until
from tests.zfs.disk import GUEST, new_disk
from tests.zfs.test_motion_out import SIZE, Writer, content, snapshots
from zfsvol.repository import repair
from zfsvol.repository.sr import SR

MIGRATIONS = max(3, int(os.environ.get("ZFSVOL_STEPS", "0")) // 10)
LONGEST = 3.0  # seconds until the kill; a migration takes about two

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def two_srs(tmp_path_factory: "pytest.TempPathFactory") -> "Iterator[Tuple[str, str]]":
    """The SRs that disks move between."""
    made = Bench(tmp_path_factory.mktemp("srs"))
    yield made.sr(), made.sr()
    made.close()


class Migrated:
    """One migration, of which a part is killed after a while."""

    def __init__(self, srs: "Tuple[str, str]", directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.source, self.destination = new_disk(srs[0], SIZE), new_disk(srs[1], SIZE)
        self.writer = Writer(self.source, self.source.use(GUEST), seed)
        for _ in range(20):
            self.writer.step()
        self.migration = Migration(self.source, self.destination, directory, GUEST)
        self.victim = self.random.choice(["job", "relay", "server", "start", "hand-over", "nothing"])
        self.at = time.monotonic() + self.random.uniform(0, LONGEST)
        self.is_killed = False
        self.is_complete = False

    def kill(self) -> None:
        """Kills the victim, if it is time, once."""
        if self.is_killed or time.monotonic() < self.at:
            return
        self.is_killed = True
        if self.victim == "job" and self.migration.is_running():
            self.migration.kill()
        elif self.victim == "relay":
            self.migration.relay.cut()
        elif self.victim == "server":
            blktap.kill(self.destination.tapdisk["pid"])

    def verb(self, name: str, *, is_victim: bool, **arguments: Any) -> Any:
        """Runs a verb of its own process; kills that after a moment and tries again if it is the victim."""
        process = client.start(name, **arguments)
        if is_victim:
            time.sleep(self.random.uniform(0.05, 0.6))
            process.kill()
            process.communicate()
            process = client.start(name, **arguments)
        return client.finish(name, process)

    def run(self) -> None:
        """Does what xapi does, as far as it comes."""
        self.writer.start()
        try:
            self._run()
        except VerbError as error:
            sentence = error.sentence
        else:
            return
        assert any(word in sentence for word in ("mirror", "is not complete", "is being copied")), sentence

    def _run(self) -> None:
        migration = self.migration
        migration.operation = self.verb(
            "Data.mirror",
            is_victim=self.victim == "start",
            uri=self.source.uri,
            domain=GUEST,
            remote=migration.remote,
        )
        while True:
            self.kill()
            found = migration.stat()
            if found["failed"]:
                return
            if found["complete"]:
                break
        migration.leave()
        time.sleep(self.random.uniform(0, 1))
        self.kill()
        self.writer.pause()
        self.verb("Datapath.deactivate", is_victim=self.victim == "hand-over", uri=self.source.uri, domain=GUEST)
        self.is_complete = True

    def check(self) -> None:
        """Clears up as xapi does, and compares both ends with what the VM has written."""
        self.writer.pause()
        try:
            self.source.drop(GUEST)
        except VerbError:
            self.source.drop(GUEST)
        self.migration.leave()
        self.migration.relay.cut()
        self.destination.drop(MIRROR)
        wait_until(lambda: not self.migration.is_running(), "the job's end")
        repair.repair(SR(self.source.sr))
        assert [name for name in snapshots(self.source.sr) if self.source.key in name] == []
        written = bytes(self.writer.content)
        assert content(self.source) == written
        if self.is_complete:
            assert content(self.destination) == written
        self.source.volume("destroy")
        self.destination.volume("destroy")


@pytest.mark.parametrize("seed", range(MIGRATIONS))
def test_something_is_killed(two_srs: "Tuple[str, str]", tmp_path: Path, seed: int) -> None:
    migrated = Migrated(two_srs, tmp_path, seed)
    migrated.run()
    print(migrated.victim, "complete" if migrated.is_complete else "failed")
    migrated.check()
