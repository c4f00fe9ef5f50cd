# SPDX-License-Identifier: LGPL-2.1-only
"""Runs in a guest: moves a disk to an NBD server at a Unix socket while a VM writes it.

    migration.py SR SOCKET EXPORT

Prints a JSON list: the checksums of what the VM wrote and of the disk in the end, and the passes that it took.
"""

import json
from pathlib import Path
import sys
import tempfile
from typing import Any

from tests import blktap
from tests.model import checksum, noise
from tests.motion import Migration
from tests.zfs.conftest import MIB
from tests.zfs.disk import GUEST, new_disk
from tests.zfs.test_motion_out import SIZE, Writer, content

WRITE_INTERVAL = 0.3  # seconds; the line is slow


class Elsewhere:
    """A disk on another host, as xapi knows it here: the other host does the rest."""

    def __init__(self, path: str, export: str) -> None:
        self.uri = f"nbd:unix:{path}:exportname={export}"

    def use(self, _domain: str) -> "dict[str, Any]":
        """What Datapath.attach has answered there."""
        return {"Nbd": {"uri": self.uri}}

    def drop(self, *_domains: str) -> None:
        """Nothing to do here."""


def main() -> None:
    """The migration from its start to its end."""
    sr, path, export = sys.argv[1:]
    blktap.install()
    source = new_disk(sr, SIZE)
    writer = Writer(source, source.use(GUEST))
    writer.interval = WRITE_INTERVAL
    writer.write(0, noise(1, MIB // 4))
    elsewhere: Any = Elsewhere(path, export)
    migration = Migration(source, elsewhere, Path(tempfile.mkdtemp()), GUEST)
    writer.start()
    migration.start()
    assert migration.wait()["complete"], migration.state
    migration.leave()
    writer.pause()
    source.verb("deactivate", GUEST)
    passes = migration.state["passes"]
    migration.finish(keeps_source=True)
    print(json.dumps([checksum(bytes(writer.content)), checksum(content(source)), passes]))


if __name__ == "__main__":
    main()
