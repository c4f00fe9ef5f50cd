# SPDX-License-Identifier: LGPL-2.1-only
"""Which devices are the host's own. A directory stands for /sys, as the lab's kernel has no md arrays."""

from pathlib import Path

import pytest

from zfsvol.host import blockdevice
from zfsvol.zfs import disks


@pytest.fixture
def sys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /sys with arrays on the partitions of two disks, on zvols and on a logical volume, and a multipath device."""
    monkeypatch.setattr(blockdevice, "_SYS", str(tmp_path / "class"))
    monkeypatch.setattr(blockdevice, "_BY_ID", str(tmp_path / "by-id"))
    (tmp_path / "class").mkdir()
    for path, below in (
        ("sda", []),
        ("sda/sda1", []),
        ("sdb", []),
        ("sdb/sdb1", []),
        ("sdc", []),
        ("zd0", []),
        ("zd16", []),
        ("loop0", []),
        ("nbd0", []),
        ("md0", ["sda1", "sdb1"]),
        ("md1", ["zd0", "zd16"]),
        ("dm-0", ["sdc"]),
        ("dm-1", ["md0"]),
        ("md2", ["dm-1"]),
    ):
        directory = tmp_path / "devices" / path
        for folder in ("slaves", "holders"):
            (directory / folder).mkdir(parents=True)
        (directory / "size").write_text("2048\n")
        if "/" in path:
            (directory / "partition").write_text("1\n")
        for name in below:
            (directory / "slaves" / name).touch()
            (tmp_path / "class" / name / "holders" / directory.name).touch()
        (tmp_path / "class" / directory.name).symlink_to(directory)
    for name, uuid in (("dm-0", "mpath-360000"), ("dm-1", "LVM-abc")):
        (tmp_path / "class" / name / "dm").mkdir()
        (tmp_path / "class" / name / "dm" / "uuid").write_text(uuid + "\n")
    return tmp_path


def test_host_disks(sys: Path) -> None:
    own = {name for name in blockdevice.all_names() if blockdevice.is_host_disk(name)}
    assert own == {"sda", "sda1", "sdb", "sdb1", "sdc", "md0", "dm-0"}


def test_an_array_is_searched_and_its_parts_are_not(sys: Path) -> None:
    searched = disks.searchable([], [])
    assert "/dev/dm-0" in searched
    assert not {"/dev/sda1", "/dev/sdb1", "/dev/sdc", "/dev/md1", "/dev/md2", "/dev/zd0"} & set(searched)


def test_an_array_under_a_logical_volume_is_not_searched(sys: Path) -> None:
    """The logical volume may be a guest's disk, so it is searched only when it is named."""
    assert "/dev/md0" not in disks.searchable([], [])
    (sys / "class" / "md0" / "holders" / "dm-1").unlink()
    assert "/dev/md0" in disks.searchable([], [])


def test_an_array_on_zvols_is_never_searched(sys: Path) -> None:
    assert "/dev/md1" not in disks.searchable(["/dev/md1"], [])


def test_disks_of_imported_pools_are_not_searched(sys: Path) -> None:
    assert not {"/dev/sda", "/dev/dm-0"} & set(disks.searchable([], ["/dev/md0", "/dev/dm-0"]))


class TestLabels:
    @pytest.fixture
    def udev(self, sys: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A /sys, and udev's database with the serial numbers of two disks."""
        monkeypatch.setattr(blockdevice, "_UDEV", str(sys / "udev"))
        monkeypatch.setattr(blockdevice, "kernel_name", lambda path: path.rpartition("/")[2])
        (sys / "udev").mkdir()
        for number, (name, text) in enumerate(
            (
                ("sda", "S:disk/by-id/x\nE:ID_MODEL=WDC_40\nE:ID_SERIAL=WDC_40_WX31\nE:ID_SERIAL_SHORT=WX31\n"),
                ("sdb", "E:ID_SERIAL=QM0001\nE:BROKEN\n"),
                ("sdc", "E:ID_MODEL=X\nE:ID_SERIAL_SHORT=C=7\n"),
                ("dm-0", "E:DM_UUID=mpath-360000\n"),
            )
        ):
            (sys / "class" / name / "dev").write_text(f"8:{number}\n")
            (sys / "udev" / f"b8:{number}").write_text(text)
        return sys

    @pytest.mark.parametrize(
        ("path", "label"),
        [
            ("/dev/sda", ("WDC_40", "WX31")),
            ("/dev/sda1", ("WDC_40", "WX31")),
            ("/dev/sdb", ("", "QM0001")),
            ("/dev/dm-0", ("X", "C=7")),
            ("/dev/loop0", ("", "")),
            ("/dev/gone", ("", "")),
        ],
    )
    def test_model_and_serial(self, udev: Path, path: str, label: "tuple[str, str]") -> None:
        assert blockdevice.model_and_serial(path) == label

    def test_size(self, udev: Path) -> None:
        assert blockdevice.size("/dev/sda1") == 1 << 20
        assert blockdevice.size("/dev/gone") is None

    def test_whole(self, udev: Path) -> None:
        assert list(map(blockdevice.whole, ("sda1", "sda", "dm-0", "gone"))) == ["sda", "sda", "dm-0", "gone"]
