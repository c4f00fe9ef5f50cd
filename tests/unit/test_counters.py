# SPDX-License-Identifier: LGPL-2.1-only
"""The kernel's counters as text, and by how much they grew."""

from pathlib import Path
from typing import Iterable

import pytest

from zfsvol.zfs import counters
from zfsvol.zfs.counters import Datasets, Meter

# Of OpenZFS 2.1.11 in the lab.
OBJSET = """\
22 1 0x01 7 2160 {born} 5659023232
name                            type data
dataset_name                    7    {name}
writes                          4    20
nwritten                        4    20971520
reads                           4    {reads}
nread                           4    6557696
nunlinks                        4    0
nunlinked                       4    0
"""


@pytest.fixture
def kstat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(counters, "_KSTAT", str(tmp_path))
    (tmp_path / "tank").mkdir()
    return tmp_path / "tank"


def put(kstat: Path, file: str, name: str, *, born: int = 1, reads: int = 101) -> None:
    (kstat / file).write_text(OBJSET.format(name=name, born=born, reads=reads))


class TestDatasets:
    def test_found_by_name(self, kstat: Path) -> None:
        put(kstat, "objset-0x5c", "tank/a b")
        put(kstat, "objset-0x5d", "tank/other")
        (kstat / "state").write_text("ONLINE\n")
        found = Datasets().read(["tank/a b", "tank/none", "void/x"])
        assert list(found) == ["tank/a b"]
        one = found["tank/a b"]
        assert (one.born, one.bytes_read, one.bytes_written, one.reads, one.writes) == (1, 6557696, 20971520, 101, 20)

    def test_others_are_opened_once(self, kstat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = []
        real = counters._kstat

        def noted(path: str, names: "Iterable[str]") -> "tuple[int, dict[str, str]]":
            opened.append(Path(path).name)
            return real(path, names)

        monkeypatch.setattr(counters, "_kstat", noted)
        datasets = Datasets()
        put(kstat, "objset-0x1", "tank/other")
        put(kstat, "objset-0x2", "tank/mine")
        for _ in range(3):
            assert list(datasets.read(["tank/mine", "tank/none"])) == ["tank/mine"]
        assert sorted(opened) == ["objset-0x1", *["objset-0x2"] * 3]
        put(kstat, "objset-0x3", "tank/none")
        assert sorted(datasets.read(["tank/mine", "tank/none"])) == ["tank/mine", "tank/none"]
        assert opened.count("objset-0x1") == 1

    def test_files_come_and_go(self, kstat: Path) -> None:
        datasets = Datasets()
        put(kstat, "objset-0x1", "tank/mine")
        assert datasets.read(["tank/mine"])
        (kstat / "objset-0x1").unlink()
        assert not datasets.read(["tank/mine"])
        put(kstat, "objset-0x9", "tank/mine", reads=7)
        assert datasets.read(["tank/mine"])["tank/mine"].reads == 7
        put(kstat, "objset-0x9", "tank/renamed")
        assert not datasets.read(["tank/mine"])

    def test_file_of_another_goes_and_is_mine_later(self, kstat: Path) -> None:
        datasets = Datasets()
        put(kstat, "objset-0x1", "tank/other")
        assert not datasets.read(["tank/mine"])
        (kstat / "objset-0x1").unlink()
        assert not datasets.read(["tank/mine"])
        put(kstat, "objset-0x1", "tank/mine")
        assert datasets.read(["tank/mine"])

    def test_file_of_another_with_another_name_inside(self, kstat: Path) -> None:
        """It is looked at again, if only after a while."""
        datasets = Datasets()
        put(kstat, "objset-0x1", "tank/old")
        assert not datasets.read(["tank/mine"])
        put(kstat, "objset-0x1", "tank/mine")
        assert any(datasets.read(["tank/mine"]) for _ in range(counters._SEARCHES))

    @pytest.mark.parametrize(
        "content", ["", "1 2\n", "22 1 0x01 7 2160 1 2\nname type data\ndataset_name 7 tank/mine\n"]
    )
    def test_broken(self, kstat: Path, content: str) -> None:
        (kstat / "objset-0x1").write_text(content)
        assert not Datasets().read(["tank/mine"])


class TestMemory:
    def test_read(self, kstat: Path) -> None:
        head = "12 1 0x01 123 33456 1722098304 4508087424\nname                            type data\n"
        (kstat.parent / "arcstats").write_text(head + "hits 4 90\nmisses 4 6\nsize 4 1048576\n")
        memory = counters.memory()
        assert memory is not None
        assert (memory.hits, memory.misses, memory.size) == (90, 6, 1048576)
        (kstat.parent / "arcstats").write_text(head + "hits 4 90\niohits 4 4\nmisses 4 6\nsize 4 1\n")
        memory = counters.memory()
        assert memory is not None
        assert memory.misses == 10

    def test_no_module(self, kstat: Path) -> None:
        assert counters.memory() is None


def test_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "_BLOCK", str(tmp_path))
    (tmp_path / "zd16").mkdir()
    (tmp_path / "zd16" / "stat").write_text("     101  0  12808  30  20  0  40960  50  2  20  20  0  0  0\n")
    one = counters.device("/dev/zd16")
    assert one is not None
    assert (one.reads, one.read_time, one.writes, one.write_time, one.waiting) == (101, 30, 20, 50, 2)
    assert counters.device("/dev/zd32") is None


class TestMeter:
    def test_growth(self) -> None:
        meter = Meter()
        assert meter.grown({"a": (1, (5, 10))}) == {}
        assert meter.grown({"a": (1, (7, 10)), "b": (1, (100, 100))}) == {"a": (2, 0)}
        assert meter.grown({"a": (1, (7, 10)), "b": (1, (101, 100))}) == {"a": (0, 0), "b": (1, 0)}

    def test_starts_again(self) -> None:
        meter = Meter()
        meter.grown({"a": (1, (5, 10))})
        assert meter.grown({"a": (2, (50, 100))}) == {}  # another beginning, though higher
        assert meter.grown({"a": (2, (49, 200))}) == {}  # one went back
        assert meter.grown({"a": (2, (50, 201))}) == {"a": (1, 1)}
        assert meter.grown({}) == {}
        assert meter.grown({"a": (2, (60, 300))}) == {}  # was away
