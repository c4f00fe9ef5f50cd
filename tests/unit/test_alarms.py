# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.service.alarms and of the journal: what is told, and that it is told once."""

from pathlib import Path
import re
from typing import Any, List, Tuple

import pytest

from tests.unit.test_topology import composed
from zfsvol.host import files
from zfsvol.naming import Root
from zfsvol.repository import journal as journals
from zfsvol.repository.journal import Journal, Message
from zfsvol.service import alarms
from zfsvol.service.sight import Sight
from zfsvol.zfs.core import Numbers

ROOT = Root("sr-5d9c2a1e-7a53-4c57-9d0b-0a4a6f3cf5a1")
GIB = 1 << 30
MIRROR = ("  mirror-0 ONLINE 0 0 0 0", "    /dev/sda ONLINE 0 0 0 0", "    /dev/sdb ONLINE 0 0 0 0")
LABELS = {"102": "/dev/disk/by-id/ata-A (A, serial number 1)", "103": "/dev/disk/by-id/ata-B (B, serial number 2)"}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "DIRECTORY", str(tmp_path))


def sight(
    *rows: str,
    state: "str | None" = "ONLINE",
    used: int = 10 * GIB,
    available: int = 90 * GIB,
    promised: int = 0,
    **fields: str,
) -> Sight:
    found = composed(*(rows or MIRROR))
    found.described.fields.update(fields, state=state or "")
    if "scan" in fields:
        found.described.scans = [fields["scan"]]
    values = {"used": used, "available": available, "compressratio": 100, "promised": promised, "disks": 1}
    return Sight(1000.0, state, found, Numbers({**values, "properties": {}}), labels=LABELS)


def with_second(state: str, errors: str = "0 0 0 0", note: str = "") -> "Tuple[str, ...]":
    return (
        f"  mirror-0 {'ONLINE' if state == 'ONLINE' else 'DEGRADED'} 0 0 0 0",
        MIRROR[1],
        f"    /dev/sdb {state} {errors} {note}",
    )


class Watched:
    """An SR that is looked at again and again."""

    def __init__(self) -> None:
        self.journal = Journal(ROOT, "77")

    def look(self, seen: Sight, *unfinished: str, late: "int | None" = None) -> "List[Tuple[str, int, str]]":
        told = alarms.messages("SR “a”", seen, list(unfinished), late, self.journal)
        self.journal.note(told)
        return [(message.name, message.priority, message.text) for message in told]

    def names(self, seen: Sight, *unfinished: str) -> "List[Tuple[str, int]]":
        return [(name, priority) for name, priority, _ in self.look(seen, *unfinished)]

    def restarted(self) -> None:
        self.journal = Journal(ROOT, "77")


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_nothing_is_told_of_a_good_pool(watched: Watched) -> None:
    assert watched.look(sight()) == []


class TestDevices:
    @pytest.mark.parametrize("state", ["FAULTED", "REMOVED", "UNAVAIL", "DEGRADED"])
    def test_one_that_fails_and_returns(self, watched: Watched, state: str) -> None:
        watched.look(sight())
        bad = sight(*with_second(state), state="DEGRADED")
        ((name, priority, text),) = watched.look(bad)
        assert (name, priority) == ("ZFSVOL_DEVICE_" + state, 3)
        assert "SR “a”: the disk /dev/disk/by-id/ata-B (B, serial number 2) is " + state in text
        assert "The pool is DEGRADED: no other disk may fail now." in text
        assert "replace" in text
        assert watched.look(bad) == []
        watched.restarted()
        assert watched.look(bad) == []
        ((name, priority, text),) = watched.look(sight())
        assert (name, priority) == (f"ZFSVOL_DEVICE_{state}_OVER", 4)
        assert "serial number 2" in text
        assert text.endswith("The pool is ONLINE.")
        assert watched.names(bad) == [("ZFSVOL_DEVICE_" + state, 3)]

    def test_its_label_is_remembered(self, watched: Watched) -> None:
        """A disk that is gone has no name in the host any more."""
        watched.look(sight())
        watched.restarted()
        bad = sight(*with_second("REMOVED"), state="DEGRADED")
        bad.labels = {}
        assert "serial number 2" in watched.look(bad)[0][2]

    def test_taken_offline(self, watched: Watched) -> None:
        offline = sight(*with_second("OFFLINE"), state="DEGRADED")
        assert watched.names(offline) == [("ZFSVOL_DEVICE_OFFLINE", 5)]
        assert watched.names(sight(*with_second("FAULTED"), state="DEGRADED")) == [("ZFSVOL_DEVICE_FAULTED", 3)]
        assert watched.names(offline) == []

    def test_the_last_one(self, watched: Watched) -> None:
        told = watched.look(sight("  /dev/sda FAULTED 0 0 0 0", state="FAULTED"))
        assert [(name, priority) for name, priority, _ in told] == [
            ("ZFSVOL_DEVICE_FAULTED", 1),
            ("ZFSVOL_POOL_FAULTED", 1),
        ]
        assert "data is lost unless it returns" in told[0][2]

    def test_a_second_one(self, watched: Watched) -> None:
        raidz = ["  raidz2-0 DEGRADED 0 0 0 0", *(f"    /dev/sd{name} ONLINE 0 0 0 0" for name in "abcd")]
        raidz[1] = "    /dev/sda FAULTED 0 0 0 0"
        assert "1 more of its group may fail." in watched.look(sight(*raidz, state="DEGRADED"))[0][2]
        raidz[2] = "    /dev/sdb FAULTED 0 0 0 0"
        ((name, _, text),) = watched.look(sight(*raidz, state="DEGRADED"))
        assert name == "ZFSVOL_DEVICE_FAULTED"
        assert "no other disk may fail now" in text

    def test_a_cache(self, watched: Watched) -> None:
        ((name, priority, text),) = watched.look(sight(*MIRROR, "cache", "  /dev/sdc FAULTED 0 0 0 0"))
        assert (name, priority) == ("ZFSVOL_DEVICE_FAULTED", 3)
        assert "the cache device /dev/sdc is FAULTED" in text
        assert "no data of VMs is lost with it" in text


class TestErrors:
    def test_told_again_at_ten_times_as_many(self, watched: Watched) -> None:
        told = [
            len(watched.look(sight(*with_second("ONLINE", f"0 0 {number} 0")))) for number in (0, 1, 2, 9, 10, 99, 1000)
        ]
        assert told == [0, 1, 0, 0, 1, 0, 1]

    def test_their_kinds(self, watched: Watched) -> None:
        text = watched.look(sight(*with_second("ONLINE", "1 2 3 0")))[0][2]
        assert "1 read, 2 write and 3 checksum errors" in text

    def test_cleared(self, watched: Watched) -> None:
        watched.look(sight(*with_second("ONLINE", "0 0 3 0")))
        assert watched.names(sight()) == [("ZFSVOL_DEVICE_ERRORS_OVER", 4)]

    def test_then_it_fails(self, watched: Watched) -> None:
        watched.look(sight(*with_second("ONLINE", "0 0 3 0")))
        bad = sight(*with_second("FAULTED", "0 0 3 0"), state="DEGRADED")
        assert watched.names(bad) == [("ZFSVOL_DEVICE_FAULTED", 3)]
        assert watched.names(sight(*with_second("ONLINE", "0 0 3 0"))) == [("ZFSVOL_DEVICE_FAULTED_OVER", 4)]

    def test_of_data(self, watched: Watched) -> None:
        bad = sight(errors="2 data errors, use '-v' for a list")
        assert watched.names(bad) == [("ZFSVOL_DATA_ERRORS", 1)]
        assert watched.names(bad) == []
        assert watched.names(sight()) == [("ZFSVOL_DATA_ERRORS_OVER", 4)]


class TestPool:
    def test_suspended(self, watched: Watched) -> None:
        bad = sight(state="SUSPENDED")
        ((name, priority, text),) = watched.look(bad)
        assert (name, priority) == ("ZFSVOL_POOL_SUSPENDED", 1)
        assert "VMs wait for their disks" in text
        assert "clear" in text
        assert watched.look(bad) == []
        assert watched.names(sight()) == [("ZFSVOL_POOL_SUSPENDED_OVER", 4)]

    def test_degraded_by_no_device(self, watched: Watched) -> None:
        assert watched.names(sight(state="DEGRADED")) == [("ZFSVOL_POOL_DEGRADED", 3)]

    def test_it_gets_worse(self, watched: Watched) -> None:
        states = ["DEGRADED", "FAULTED", "SUSPENDED", "DEGRADED", "ONLINE"]
        told = [watched.names(sight(state=state)) for state in states]
        assert [len(names) for names in told] == [1, 1, 1, 0, 1]

    def test_it_cannot_be_read(self, watched: Watched) -> None:
        watched.look(sight(*with_second("FAULTED", "0 0 5 0"), state="DEGRADED", used=97 * GIB, available=3 * GIB))
        assert watched.names(Sight(1000.0, "SUSPENDED")) == [("ZFSVOL_POOL_SUSPENDED", 1)]


class TestSpace:
    def at(self, percent: float) -> Sight:
        return sight(used=round(percent * GIB), available=round((100 - percent) * GIB))

    def test_thresholds(self, watched: Watched) -> None:
        steps = [79, 81, 85, 91, 96, 99, 96, 94, 96, 92, 96, 79, 77]
        told = [[priority for _, priority in watched.names(self.at(percent))] for percent in steps]
        assert told == [[], [5], [], [3], [2], [], [], [], [], [], [2], [], [4]]

    def test_an_sr_without_any(self, watched: Watched) -> None:
        assert watched.look(sight(used=0, available=0)) == []

    def test_promises(self, watched: Watched) -> None:
        bad = sight(promised=91 * GIB)
        ((name, priority, text),) = watched.look(bad)
        assert (name, priority) == ("ZFSVOL_OVERCOMMITTED", 5)
        assert "may grow by 91.0 GiB more, and 90.0 GiB are free" in text
        assert watched.look(sight(promised=200 * GIB)) == []
        assert watched.names(sight(promised=90 * GIB)) == [("ZFSVOL_OVERCOMMITTED_OVER", 4)]


class TestScans:
    DONE = "scrub repaired {} in 00:00:01 with {} errors on Sun Nov 29 22:0{}:00 2026"

    def test_what_was_before_is_not_told(self, watched: Watched) -> None:
        assert watched.look(sight(scan=self.DONE.format("0B", 0, 1))) == []
        assert watched.names(sight(scan=self.DONE.format("0B", 0, 2))) == [("ZFSVOL_SCRUB_FINISHED", 5)]

    @pytest.mark.parametrize(("repaired", "errors", "priority"), [("0B", 0, 5), ("1M", 0, 3), ("0B", 2, 1)])
    def test_its_result(self, watched: Watched, repaired: str, errors: int, priority: int) -> None:
        watched.look(sight())
        watched.look(sight(scan="scrub in progress since Sun Nov 29 22:00:00 2026"))
        done = sight(scan=self.DONE.format(repaired, errors, 5))
        assert watched.names(done) == [("ZFSVOL_SCRUB_FINISHED", priority)]
        watched.restarted()
        assert watched.names(done) == []

    def test_while_the_service_was_away(self, watched: Watched) -> None:
        watched.look(sight())
        watched.restarted()
        assert watched.names(sight(scan=self.DONE.format("0B", 0, 1))) == [("ZFSVOL_SCRUB_FINISHED", 5)]


def test_unfinished(watched: Watched) -> None:
    assert watched.names(sight(), "x is half made") == [("ZFSVOL_UNFINISHED", 3)]
    assert watched.names(sight(), "x is half made", "y too") == []
    assert watched.names(sight()) == [("ZFSVOL_UNFINISHED_OVER", 4)]


def test_a_scrub_is_late(watched: Watched) -> None:
    ((name, priority, text),) = watched.look(sight(), late=46)
    assert (name, priority) == ("ZFSVOL_SCRUB_LATE", 3)
    assert "not scrubbed for 46 days" in text
    assert watched.look(sight(), late=47) == []
    assert watched.look(Sight(1000.0, "ONLINE")) == []
    assert watched.names(sight()) == [("ZFSVOL_SCRUB_LATE_OVER", 4)]


class TestJournal:
    def messages(self, number: int) -> "List[Message]":
        return [Message(float(index), "N", 5, str(index)) for index in range(number)]

    def test_unsent_ones_are_kept(self) -> None:
        journal = Journal(ROOT, "77")
        journal.note(self.messages(3))
        journal.note_sent()
        for again in (journal, Journal(ROOT, "77")):
            assert [message.text for message in again.unsent] == ["1", "2"]
            assert [message.text for message in again.happened] == ["0", "1", "2"]
        assert Journal(ROOT, "78").happened == []

    def test_only_the_last_ones_are_kept(self) -> None:
        journal = Journal(ROOT, "77")
        journal.note(self.messages(600))
        assert [message.text for message in (journal.happened[0], journal.unsent[0], journal.unsent[-1])] == [
            "100",
            "100",
            "599",
        ]

    @pytest.mark.parametrize("content", ["", "{", "[]", "[1]", '"x"'])
    def test_damaged(self, content: str) -> None:
        journal = Journal(ROOT, "77")
        journal.note(self.messages(1))
        Path(journal.path).write_text(content)
        assert Journal(ROOT, "77").happened == []

    def test_is_written_only_if_it_has_changed(self) -> None:
        journal = Journal(ROOT, "77")
        journal.note(self.messages(1))
        Path(journal.path).unlink()
        journal.note([])
        assert not Path(journal.path).exists()
        journal.note(self.messages(1))
        assert Path(journal.path).exists()

    def test_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_arguments: Any) -> None:
            raise OSError("No space left on device")

        monkeypatch.setattr(files, "write", full)
        journal = Journal(ROOT, "77")
        journal.note(self.messages(1))
        assert len(journal.unsent) == 1


def test_all_messages_are_documented() -> None:
    """By the names in the source: those with a state in them stand for several."""
    text = (Path(__file__).resolve().parent.parent.parent / "docs" / "administration.md").read_text()
    source = Path(alarms.__file__).read_text()
    names = re.findall(r'Alarm\(\s+"([A-Z_]+)"', source)
    assert {"DEVICE_", "DEVICE_ERRORS", "POOL_", "SPACE"} <= set(names)
    assert [name for name in names if f"`ZFSVOL_{name}" not in text] == []
