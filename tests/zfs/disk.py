# SPDX-License-Identifier: LGPL-2.1-only
"""VDIs for the tests of the datapath: attached, and read and written by the path or URI that a domain got."""

from contextlib import contextmanager
import json
import os
from pathlib import Path
import shutil
from typing import Any, Dict, Iterator, List

import pytest

from tests import blktap, zvol
from tests.client import VerbError
from tests.client import call_inside as call
from tests.zfs.conftest import MIB, run
from zfsvol.repository import record as records
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import SR

IN_USE, MISSING, UNAVAILABLE = "SR_BACKEND_FAILURE_24", "SR_BACKEND_FAILURE_46", "SR_BACKEND_FAILURE_47"
SR_IN_USE, FAILED, INVALID = "SR_BACKEND_FAILURE_16", "SR_BACKEND_FAILURE", "SR_BACKEND_FAILURE_1"

GUEST, OTHER_GUEST, DOM0, STATIC, MIGRATION = "7", "12", "u0_vbd_0_xvda", "0", "MIRabc123"

only_stand_in = pytest.mark.skipif(blktap.GENUINE, reason="the genuine tap-ctl does not fail to order")
PLACES = (srs.DIRECTORY, "/dev/zfs-vol", "/dev/sm/phy", "/run/blktap-control/nbd")


def left() -> "List[str]":
    """Everything that exists only while something is attached."""
    found = blktap.leftovers()  # first: a process that is about to end may have a node open
    found += [str(path) for place in PLACES for path in Path(place).glob("*/*-*")]
    return found + sorted(zvol.nodes().values())


def clear() -> None:
    """Removes all of that."""
    blktap.sweep()
    for name in zvol.nodes():
        run("zfs", "inherit", "volmode", name)
    for place in PLACES:
        shutil.rmtree(place, ignore_errors=True)


class Disk:
    """A VDI and the actions of domains on it."""

    def __init__(self, sr: str, record: "Dict[str, Any]") -> None:
        self.sr = sr
        self.key = str(record["key"])
        self.uri = str(record["uri"][0])
        self.zvol = f"{sr}/{self.key}"

    def verb(self, verb: str, domain: str) -> Any:
        return call("Datapath." + verb, uri=self.uri, domain=domain)

    def attach(self, domain: str) -> "Dict[str, Any]":
        """Attaches it; returns the implementations by kind."""
        answer = self.verb("attach", domain)
        return dict(answer["implementations"])

    def use(self, domain: str, *, readonly: bool = False) -> "Dict[str, Any]":
        """Attaches and activates."""
        found = self.attach(domain)
        self.verb("activate_readonly" if readonly else "activate", domain)
        return found

    def drop(self, *domains: str) -> None:
        """Deactivates and detaches."""
        for domain in domains:
            self.verb("deactivate", domain)
            self.verb("detach", domain)

    def volume(self, verb: str, **arguments: Any) -> Any:
        return call("Volume." + verb, sr=self.sr, key=self.key, **arguments)

    def derive(self, verb: str) -> "Disk":
        """Makes a snapshot or clone of it."""
        return Disk(self.sr, self.volume(verb))

    @property
    def record(self) -> "records.Record":
        return records.read(SR(self.sr), self.key)

    @property
    def saved(self) -> "Dict[str, Any]":
        """The record as stored in its file."""
        saved: "Dict[str, Any]" = json.loads(Path(self.record.path).read_text())
        return saved

    @property
    def tapdisk(self) -> "Dict[str, Any]":
        found = self.record.tapdisk
        assert found is not None
        return found


def new_disk(sr: str, size: int = 64 * MIB, *, sharable: bool = False) -> Disk:
    return Disk(sr, call("Volume.create", sr=sr, name="disk", description="", size=size, sharable=sharable))


@contextmanager
def refused(code: str) -> "Iterator[List[str]]":
    """Checks that the verb within it is refused with this code; yields a list that gets the sentence."""
    sentence: "List[str]" = []
    with pytest.raises(VerbError) as caught:
        yield sentence
    assert caught.value.code == code, caught.value
    sentence.append(caught.value.sentence)


def nbd_read(given: "Dict[str, Any]", offset: int, length: int) -> bytes:
    with blktap.connect(given["Nbd"]["uri"]) as connection:
        return connection.read(offset, length)


def nbd_write(given: "Dict[str, Any]", offset: int, data: bytes) -> None:
    with blktap.connect(given["Nbd"]["uri"]) as connection:
        connection.write(offset, data)


def node_read(given: "Dict[str, Any]", offset: int, length: int) -> bytes:
    with open(given["BlockDevice"]["path"], "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(length)


def node_write(given: "Dict[str, Any]", offset: int, data: bytes) -> None:
    descriptor = os.open(given["BlockDevice"]["path"], os.O_RDWR)
    try:
        assert os.pwrite(descriptor, data, offset) == len(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
