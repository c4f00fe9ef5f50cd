# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.repository.record: kinds of domains, leases that exclude each other, and the record's file."""

import itertools
import os

import pytest

from zfsvol.errors import StorageError
from zfsvol.repository import record as records
from zfsvol.repository import sr as srs
from zfsvol.repository.sr import SR

UUID = "5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1"
ROOT = SR("tank/xen/sr-" + UUID)
KEY = "00000000-0000-0000-0000-000000000001"
GUEST, DOM0, MIGRATION = "7", "u0_vbd_0_xvda", "MIRabc"
MODES = (records.READ, records.WRITE)


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(srs, "DIRECTORY", str(tmp_path / "records"))


def record_of(**content):
    """The record of a VDI."""
    active = content.get("active", {})
    return records.Record(ROOT, KEY, {"attached": dict.fromkeys(active, records.TAPDISK), **content})


@pytest.mark.parametrize(
    ("domain", "is_guest", "is_dom0"),
    [
        ("7", True, False),
        ("32752", True, False),
        ("0", False, True),  # static-vdis
        ("u0_vbd_0_xvda", False, True),
        ("u0-vbd-0-xvda", False, True),  # as the client's source suggests
        ("MIR0123", False, False),
        ("CP0123", False, False),
        ("-1", False, False),
        ("", False, False),
        ("7a", False, False),
    ],
)
def test_who_a_domain_is(domain, is_guest, is_dom0):
    assert (records.is_guest(domain), records.is_dom0(domain)) == (is_guest, is_dom0)
    assert domain in records.called(domain)


class TestObstacles:
    @pytest.mark.parametrize(("held", "wanted"), itertools.product(MODES, MODES))
    @pytest.mark.parametrize(("holder", "other"), itertools.permutations([GUEST, "8", DOM0, "u0_b", MIGRATION, ""], 2))
    def test_many_readers_or_one_writer(self, holder, other, held, wanted):
        possible = held == wanted == records.READ
        found = record_of(active={holder: held})
        assert found.obstacles(other, wanted) == ([] if possible else [holder])
        assert found.obstacles(holder, wanted) == []
        found.sharable = True
        assert found.obstacles(other, wanted) == []

    def test_many_readers(self):
        domains = {f"u0_{number}": records.READ for number in range(20)}
        found = record_of(active=domains)
        assert found.obstacles("u0_20", records.READ) == []
        assert found.obstacles("u0_20", records.WRITE) == list(domains)
        # A domain that wants to write excludes the others.
        assert found.obstacles("u0_0", records.WRITE) == list(domains)[1:]

    def test_sentence(self):
        found = record_of(active={GUEST: records.WRITE, DOM0: records.READ})
        expected = "the VM with domain id 7 for writing, dom0 (u0_vbd_0_xvda) for reading"
        assert found.holders([DOM0, GUEST]) == expected


class TestRecord:
    def test_nobody(self):
        found = records.read(ROOT, KEY)
        assert (found.attached, found.active, found.tapdisk, found.node) == ({}, {}, None, None)
        assert not records.exists(ROOT, KEY)
        assert records.all_of(ROOT) == []
        found.forget()

    def test_written_and_read(self):
        written = record_of(
            active={GUEST: "rw"}, node="/dev/zd16", readonly=True, sharable=True, datapath="blkback", tapdisk={"pid": 1}
        )
        written.save()
        assert records.all_of(ROOT) == [KEY]
        found = records.read(ROOT, KEY)
        assert found.__dict__ == {**written.__dict__, "sr": found.sr}
        found.forget()
        assert os.listdir(ROOT.directory) == []

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"text"'])
    def test_damaged(self, text):
        found = record_of()
        found.save()
        with open(found.path, "w") as file:
            file.write(text)
        with pytest.raises(StorageError) as caught:
            records.read(ROOT, KEY)
        assert found.path in str(caught.value)

    def test_a_crash_while_it_is_written(self):
        found = record_of(active={GUEST: "rw"})
        found.save()
        with open(found.path + ".new", "w") as file:
            file.write('{"act')
        assert records.read(ROOT, KEY).active == {GUEST: "rw"}
        assert records.all_of(ROOT) == [KEY]
        found.forget()
        assert records.all_of(ROOT) == []

    def test_summary(self):
        found = record_of(active={GUEST: "rw"}, tapdisk={"pid": 42, "minor": 3})
        found.attached[DOM0] = "/dev/zd16"
        users = "the VM with domain id 7 has tapdisk, rw; dom0 (u0_vbd_0_xvda) has /dev/zd16, not active"
        assert found.summary() == users + "; tapdisk 42 at minor 3"
