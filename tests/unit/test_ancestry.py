# SPDX-License-Identifier: LGPL-2.1-only
"""Tests of zfsvol.repository.ancestry: where the contents of two disks come from, and what lies between."""

import pytest

from zfsvol.naming import Root
from zfsvol.repository.ancestry import Ancestry, ways
from zfsvol.repository.vdi import Base
from zfsvol.zfs.pool import Missing

# A ── @1 ── @3 ── #cbt-4 ── @5 ── (head)
#       │     └── B (origin A@3) ── @6
#       │              └── C (origin B@6) ── @8
#       └── D (origin A@1) ── @7 ── #cbt-9
ROWS = [
    ["A", "volume", "100", "0", "-"],
    ["A@1", "snapshot", "1", "1", "-"],
    ["A@3", "snapshot", "3", "3", "-"],
    ["A#cbt-4", "bookmark", "4", "4", "-"],
    ["A@5", "snapshot", "5", "5", "-"],
    ["B", "volume", "200", "4", "A@3"],
    ["B@6", "snapshot", "6", "6", "-"],
    ["C", "volume", "300", "7", "B@6"],
    ["C@8", "snapshot", "8", "8", "-"],
    ["D", "volume", "400", "2", "A@1"],
    ["D@7", "snapshot", "7", "7", "-"],
    ["D#cbt-9", "bookmark", "9", "9", "-"],
    ["E", "volume", "500", "9", "elsewhere@9"],
    ["E@10", "snapshot", "10", "10", "-"],
]


@pytest.fixture
def family():
    return Ancestry(Root("sr"), [[*row, *["-"] * 6] for row in ROWS])


def moment(family, name):
    if "#" in name:
        return family.bookmark(Base(name.partition("#")[2], int(name.partition("-")[2]), 100))
    return family.snapshot(name)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("A@1", "A@5", [("A@1", "A@5")]),
        ("A@5", "A@1", [("A@1", "A@5")]),
        ("A@1", "A@1", []),
        ("A@1", "C@8", [("A@1", "C@8")]),
        ("A@3", "C@8", [("A@3", "C@8")]),
        ("A@5", "C@8", [("A@3", "A@5"), ("A@3", "C@8")]),
        ("C@8", "A@5", [("A@3", "C@8"), ("A@3", "A@5")]),
        ("C@8", "D@7", [("A@1", "C@8"), ("A@1", "D@7")]),
        ("B@6", "C@8", [("B@6", "C@8")]),
        ("A#cbt-4", "A@5", [("A#cbt-4", "A@5")]),
        ("A#cbt-4", "B@6", [("A@3", "A#cbt-4"), ("A@3", "B@6")]),
        ("D#cbt-9", "D@7", [("D@7", "D#cbt-9")]),
        ("A@1", "E@10", None),
    ],
)
def test_ways(family, first, second, expected):
    found = ways(family, moment(family, first), moment(family, second))
    assert (None if found is None else [(base.name, end.name) for base, end in found]) == expected


def test_history(family):
    assert [step.name for step in family.history(family.snapshot("C@8"))] == ["C@8", "B@6", "A@3"]
    assert [step.name for step in family.history(family.snapshot("E@10"))] == ["E@10"]


def test_has_clone(family):
    assert [name for name in ("A@1", "A@3", "A@5", "A#cbt-4", "C@8") if family.has_clone(moment(family, name))] == [
        "A@1",
        "A@3",
    ]


def test_older(family):
    """The newest first."""
    assert [step.name for step in family.older(family.snapshot("C@8"))] == ["B@6", "A@3", "A@1"]
    assert [step.name for step in family.older(family.snapshot("A@5"))] == ["A#cbt-4", "A@3", "A@1"]


def test_family(family):
    assert {family.family(family.snapshot(name)) for name in ("A@1", "C@8", "D@7")} == {100}
    assert family.family(family.snapshot("E@10")) == 500


def test_snapshot_after(family):
    assert family.snapshot_after(moment(family, "A#cbt-4")).name == "A@5"
    assert family.snapshot_after(moment(family, "D#cbt-9")) is None
    assert family.snapshot_after(family.snapshot("A@3")).name == "A@3"


@pytest.mark.parametrize("base", [Base("cbt-4", 5, 100), Base("cbt-5", 4, 100), Base("4", 4, 100), Base("", 0, 0)])
def test_bookmark_that_is_lost(family, base):
    assert family.bookmark(base) is None


def test_missing(family):
    with pytest.raises(Missing):
        family.snapshot("A@9")


def test_vdi():
    """What ZFS lists is enough to know a disk, a snapshot, and one without data."""
    key, other, gone = (f"0000000{number}-0000-4000-8000-000000000000" for number in "abc")
    rows = [
        [f"sr/{key}", "volume", "1", "1", "-", "4096", "off", "[]", "-", "-", "-"],
        [f"sr/{other}", "volume", "2", "2", f"sr/{key}@{other}", "8192", "on", "[]", "-", "true", "-"],
        [f"sr/.revert-{gone}", "volume", "3", "3", "-", "4096", "on", "[]", "-", "true", "cbt-x 5 1"],
        [f"sr/.gone-{key}.1", "volume", "4", "4", "-", "4096", "off", "[]", "now", "-", "-"],
    ]
    found = Ancestry(Root("sr"), rows)
    disk, snapshot, without = found.vdi(key), found.vdi(other), found.vdi(gone)
    assert disk is not None
    assert snapshot is not None
    assert without is not None
    assert (disk.frozen_at, disk.base, disk.size) == (None, None, 4096)
    assert (snapshot.frozen_at, snapshot.base, snapshot.size) == (f"sr/{key}@{other}", None, 8192)
    assert without.base is not None
    assert (without.base.guid, without.zvol) == (5, f"sr/.revert-{gone}")
    assert found.vdi("0000000d-0000-4000-8000-000000000000") is None


def test_guids(family):
    assert family.guids == {1, 3, 4, 5, 6, 7, 8, 9, 10}


class TestBase:
    def test_as_text(self):
        base = Base.parsed(str(Base("cbt-x", 1 << 63, 5)))
        assert (base.bookmark, base.guid, base.family) == ("cbt-x", 1 << 63, 5)

    @pytest.mark.parametrize("text", ["", "-", "on", "a b c", "a 1", "a 1 2 3", "a -1 2", "a ² 2", "a 2 ²"])
    def test_text_of_another(self, text):
        assert Base.parsed(text).guid == 0
