# SPDX-License-Identifier: LGPL-2.1-only
"""The file that xcp-rrdd reads: what zfsvol.service.metrics writes, and that the tests' reader refuses broken ones."""

import json
import math
import os
from pathlib import Path
import struct
from typing import Any
import zlib

import pytest

from tests.rrdd import Daemon, NoUpdate, Reader, Refused
from zfsvol.service.metrics import ABSOLUTE, GAUGE, Metrics, Source

NOW = 1_700_000_000.5


def source(name: str = "used", owner: str = "host", **keywords: Any) -> Source:
    settings: "dict[str, Any]" = {"kind": GAUGE, "units": "μs", "description": 'a "name"', "whole": False}
    return Source(owner, name, **{**settings, "maximum": None, **keywords})


def only(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


# --- what is written


def test_values_and_descriptions(tmp_path: Path) -> None:
    readings = [
        (source("a"), 1.5),
        (source("b", owner="sr 1234", kind=ABSOLUTE, whole=True), 2**62),
        (source("b", owner="vm 5678", maximum=1), math.nan),
    ]
    Metrics(str(tmp_path)).write(NOW, readings)
    reader = Reader(str(only(tmp_path)))
    a, b, c = reader.read()
    assert reader.time == NOW
    assert (a.name, a.owner, a.kind, a.value_type, a.value) == ("a", "host", "gauge", "float", 1.5)
    assert (a.units, a.description, a.minimum, a.maximum) == ("μs", 'a "name"', 0, math.inf)
    assert (b.name, b.owner, b.kind, b.value_type, b.value) == ("b", "sr 1234", "absolute", "int64", 2**62)
    assert (c.name, c.owner, c.maximum) == ("b", "vm 5678", 1)
    assert math.isnan(c.value)
    assert a.is_default


def test_update_in_place(tmp_path: Path) -> None:
    metrics, used = Metrics(str(tmp_path)), source()
    metrics.write(NOW, [(used, 1)])
    path = only(tmp_path)
    reader, size, inode = Reader(str(path)), path.stat().st_size, path.stat().st_ino
    assert [number.value for number in reader.read()] == [1]
    with pytest.raises(NoUpdate):
        reader.read()
    for seconds, value in ((5, 1), (10, 2)):
        metrics.write(NOW + seconds, [(used, value)])
        assert [number.value for number in reader.read()] == [value]
    assert (path.stat().st_size, path.stat().st_ino) == (size, inode)


def test_other_sources_have_a_new_name(tmp_path: Path) -> None:
    metrics, seen = Metrics(str(tmp_path)), []
    for number in (1, 2, 1):
        metrics.write(NOW, [(source(str(i)), i) for i in range(number)])
        seen.append(only(tmp_path).name)
        assert len(Reader(str(only(tmp_path))).read()) == number
    assert len(set(seen)) == 3


def test_no_sources_no_file(tmp_path: Path) -> None:
    metrics = Metrics(str(tmp_path))
    metrics.write(NOW, [])
    assert list(tmp_path.iterdir()) == []
    metrics.write(NOW, [(source(), 1)])
    metrics.write(NOW, [])
    assert list(tmp_path.iterdir()) == []
    metrics.remove()


def test_removed_by_somebody(tmp_path: Path) -> None:
    metrics, used = Metrics(str(tmp_path)), source()
    metrics.write(NOW, [(used, 1)])
    only(tmp_path).unlink()
    metrics.write(NOW + 5, [(used, 2)])
    assert [number.value for number in Reader(str(only(tmp_path))).read()] == [2]


def test_leftovers_go(tmp_path: Path) -> None:
    for name in ("zfs-vol-7-1", "zfs-vol-7-2.tmp", "xcp-rrdd-iostat"):
        (tmp_path / name).write_text("old")
    Metrics(str(tmp_path))
    assert only(tmp_path).name == "xcp-rrdd-iostat"


def test_directory_is_made(tmp_path: Path) -> None:
    Metrics(str(tmp_path / "metrics")).write(NOW, [(source(), 1)])
    assert len(Reader(str(only(tmp_path / "metrics"))).read()) == 1


def test_cannot_be_written_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, used = Metrics(str(tmp_path)), source()

    def refused(_old: str, _new: str) -> None:
        raise OSError("no")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refused)
        for turn in range(2):
            with pytest.raises(OSError, match="no"):
                metrics.write(NOW + turn, [(used, 1)])
            assert list(tmp_path.iterdir()) == []
    metrics.write(NOW + 5, [(used, 2)])
    assert [number.value for number in Reader(str(only(tmp_path))).read()] == [2]


def test_never_torn(tmp_path: Path) -> None:
    """A reader in another process sees values of one update only, or refuses."""
    metrics, many = Metrics(str(tmp_path)), [source(str(i)) for i in range(300)]
    metrics.write(NOW, [(one, 0) for one in many])
    ready, go = os.pipe()
    child = os.fork()
    if not child:
        reader, status = Reader(str(only(tmp_path))), 0
        while status == 0:
            try:
                values = {number.value for number in reader.read()}
            except (NoUpdate, Refused):
                continue
            status = 1 if len(values) != 1 else 2 if values == {999} else 0
            os.write(go, b".")
        os._exit(status)
    os.read(ready, 1)
    for turn in range(1000):
        metrics.write(NOW + turn, [(one, turn) for one in many])
    _, status = os.waitpid(child, 0)
    assert os.WEXITSTATUS(status) == 2


# --- the reader refuses

GOOD = {"owner": "host", "value_type": "float", "type": "gauge", "default": "true", "units": "B", "min": "0.0"}


def written(path: Path, members: Any, *values: float, text: "str | None" = None, count: "int | None" = None) -> Reader:
    """A file made by hand."""
    data = struct.pack(f">d{len(values)}d", NOW, *values)
    metadata = (json.dumps({"datasources": members}) if text is None else text).encode()
    head = struct.pack(">III", zlib.crc32(data), zlib.crc32(metadata), len(values) if count is None else count)
    path.write_bytes(b"DATASOURCES" + head + data + struct.pack(">I", len(metadata)) + metadata)
    return Reader(str(path))


def test_reads_what_is_right(tmp_path: Path) -> None:
    (number,) = written(tmp_path / "file", {"x": GOOD}, 4.5).read()
    assert (number.name, number.value) == ("x", 4.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("owner", "pool 1"),
        ("owner", "sr"),
        ("value_type", "int"),
        ("type", "rate"),
        ("default", "yes"),
        ("min", "none"),
        ("max", ""),
        ("transform", "square"),
        ("units", 7),
        ("default", True),
        ("unit", "B"),
    ],
)
def test_refuses_a_member(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(Refused):
        written(tmp_path / "file", {"x": {**GOOD, name: value}}, 1).read()


def test_refuses_without_value_type(tmp_path: Path) -> None:
    member = {name: value for name, value in GOOD.items() if name != "value_type"}
    with pytest.raises(Refused):
        written(tmp_path / "file", {"x": member}, 1).read()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"datasources": 1}', '{"datasources": {"x": 1}}', "nonsense"])
def test_refuses_metadata(tmp_path: Path, text: str) -> None:
    with pytest.raises(Refused):
        written(tmp_path / "file", {}, 1, text=text).read()


@pytest.mark.parametrize("values", [[], [1, 2]])
def test_refuses_another_number_of_values(tmp_path: Path, values: "list[float]") -> None:
    with pytest.raises(Refused):
        written(tmp_path / "file", {"x": GOOD}, *values).read()


@pytest.mark.parametrize("count", [0, 2, 1000])
def test_refuses_a_wrong_count(tmp_path: Path, count: int) -> None:
    with pytest.raises(Refused):
        written(tmp_path / "file", {"x": GOOD}, 1, count=count).read()


def test_refuses_each_changed_or_missing_byte(tmp_path: Path) -> None:
    path = tmp_path / "file"
    written(path, {"x": GOOD}, 1.5).read()
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        with pytest.raises(Refused):
            Reader(str(path)).read()
        path.write_bytes(content[:place])
        with pytest.raises(Refused):
            Reader(str(path)).read()


def test_daemon_ignores_unfinished_files_and_finds_doubles(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    (tmp_path / "zfs-vol-1.tmp").write_text("half")
    written(tmp_path / "zfs-vol-1", {"x": GOOD}, 1)
    assert daemon.read()["host", "x"].value == 1
    with pytest.raises(NoUpdate):
        daemon.read()
    written(tmp_path / "zfs-vol-2", {"x": GOOD}, 2)
    with pytest.raises(AssertionError):
        Daemon(tmp_path).read()
