# SPDX-License-Identifier: LGPL-2.1-only
"""Plain volumes on genuine OpenZFS: made, read, grown, renamed, destroyed."""

from pathlib import Path
from typing import Any, Callable

import pytest

from tests.client import VerbError, call, call_badly, call_inside, new_uuid
from tests.zfs.conftest import GIB, MIB, Bench, Udev, device_node, run, wait_until
from zfsvol.zfs import pool

Maker = Callable[..., "dict[str, Any]"]

TEXTS = {
    "empty": "",
    "line breaks": "one\ntwo\r\nthree\ttab\n",
    "quotes": """'single' "double" `back` \\ $HOME % {} \u0000 \x7f""",
    "emoji": "💾" * 4000,
    "right to left": "\u0642\u0631\u0635 \u200f\u0627\u0641\u062a \u202e gnirts",
    "long": "x" * 4000,
    "like an option": "-o compression=off",
    "like a property": "zfsvol:name=other,b=c",
    "half a surrogate pair": "\ud83d",
    "json": '{"a": [1, null]}',
}


class TestCreate:
    def test_record(self, sr: str, new_volume: Maker) -> None:
        made = new_volume(size=10 * GIB, name="root disk", description="of a VM")
        assert made["virtual_size"] == 10 * GIB
        assert (made["name"], made["description"]) == ("root disk", "of a VM")
        assert made["read_write"] is True
        assert made["sharable"] is False
        assert made["uri"] == [f"zvol://{sr}/{made['key']}"]
        read = call("Volume.stat", sr=sr, key=made["key"])
        assert read["physical_utilisation"] < MIB
        assert {**read, "physical_utilisation": 0} == made
        assert call("SR.ls", sr=sr) == [read]

    def test_sharable(self, sr: str) -> None:
        made = call("Volume.create", sr=sr, name="", description="", size=1, sharable=True)
        assert made["sharable"] is True
        assert call("Volume.stat", sr=sr, key=made["key"])["sharable"] is True

    @pytest.mark.parametrize(
        ("asked", "given"),
        [
            (1, 2 * MIB),
            (2 * MIB, 2 * MIB),
            (2 * MIB + 1, 4 * MIB),
            (2040 * GIB + 1, 2040 * GIB + 2 * MIB),
            (64 << 40, 64 << 40),
            ((1 << 63) - 2 * MIB, (1 << 63) - 2 * MIB),
        ],
    )
    def test_size_is_rounded_up(self, sr: str, new_volume: Maker, asked: int, given: int) -> None:
        key = new_volume(size=asked)["key"]
        assert call("Volume.stat", sr=sr, key=key)["virtual_size"] == given

    @pytest.mark.parametrize("size", [0, -1, -(1 << 62), (1 << 63) - 1, 1 << 63, 1 << 70])
    def test_impossible_sizes(self, sr: str, size: int) -> None:
        with pytest.raises(VerbError) as caught:
            call_badly("Volume.create", sr=sr, name="", description="", size=size, sharable=False)
        assert caught.value.code == "SR_BACKEND_FAILURE_79"
        assert "VDI Invalid size" in caught.value.sentence
        assert call("SR.ls", sr=sr) == []

    def test_reads_as_zeroes_and_has_exactly_its_size(self, sr: str, new_volume: Maker) -> None:
        key = new_volume(size=6 * MIB)["key"]
        with device_node(f"{sr}/{key}") as node:
            assert Path(node).read_bytes() == bytes(6 * MIB)

    def test_no_device_node_while_idle(self, sr: str, new_volume: Maker) -> None:
        before = set(Path("/dev").glob("zd*"))
        new_volume()
        Udev.settle()
        assert set(Path("/dev").glob("zd*")) == before

    def test_thick_needs_the_space(self, bench: Bench) -> None:
        sr = bench.sr(device=bench.disk(), provisioning="thick")
        with pytest.raises(VerbError) as caught:
            call("Volume.create", sr=sr, name="", description="", size=2 * GIB, sharable=False)
        assert caught.value.code == "SR_BACKEND_FAILURE_44"
        assert call("SR.ls", sr=sr) == []

    def test_thick_of_all_that_is_free(self, bench: Bench) -> None:
        """The reservation includes metadata: a disk of the whole free space does not fit, and the error says so."""
        sr = bench.sr(device=bench.disk(), provisioning="thick")
        free = call("SR.stat", sr=sr)["free_space"]
        with pytest.raises(VerbError) as caught:
            call("Volume.create", sr=sr, name="", description="", size=free // (2 * MIB) * 2 * MIB, sharable=False)
        assert caught.value.code == "SR_BACKEND_FAILURE_44"
        assert call("SR.ls", sr=sr) == []

    def test_full_pool(self, bench: Bench) -> None:
        sr = bench.sr(device=bench.disk(128 * MIB), compression="off")
        key = call("Volume.create", sr=sr, name="", description="", size=128 * MIB, sharable=False)["key"]
        with device_node(f"{sr}/{key}") as node:
            run("dd", "if=/dev/urandom", f"of={node}", "bs=1M", "oflag=direct", check=False)
            run("zpool", "sync", sr)
        assert call("SR.stat", sr=sr)["free_space"] < 16 * MIB
        with pytest.raises(VerbError) as caught:  # noqa: PT012 - the first that does not fit
            for _ in range(300):
                call("Volume.create", sr=sr, name="", description="d" * 50000, size=1, sharable=False)
        assert caught.value.code == "SR_BACKEND_FAILURE_44"
        # A destroy works even on a full pool. ZFS frees the space some transactions later.
        call("Volume.destroy", sr=sr, key=key)
        wait_until(lambda: call("SR.stat", sr=sr)["free_space"] > 32 * MIB, "the destroyed disk's space")
        run("zpool", "sync", sr)
        call("Volume.create", sr=sr, name="", description="", size=1, sharable=False)


class TestTexts:
    def test_come_back_as_they_were(self, sr: str) -> None:
        texts = {}
        for text in TEXTS.values():
            key = call("Volume.create", sr=sr, name=text, description=text, size=1, sharable=False)["key"]
            call("Volume.set", sr=sr, key=key, k=text, v=text)
            texts[key] = text
        listed = {record["key"]: record for record in call("SR.ls", sr=sr)}
        assert set(listed) == set(texts)
        for key, text in texts.items():
            read = listed[key]
            assert (read["name"], read["description"], read["keys"][text]) == (text, text, text)
            assert call("Volume.stat", sr=sr, key=key) == read

    def test_are_replaced(self, sr: str) -> None:
        text = "\n".join(TEXTS.values())
        key = call("Volume.create", sr=sr, name=text, description=text, size=1, sharable=False)["key"]
        call("Volume.set", sr=sr, key=key, k=text, v=text)
        call("Volume.set_name", sr=sr, key=key, new_name="short")
        call("Volume.set_description", sr=sr, key=key, new_description="short")
        call("Volume.set", sr=sr, key=key, k=text, v="short")
        read = call("Volume.stat", sr=sr, key=key)
        assert (read["name"], read["description"], read["keys"][text]) == ("short", "short", "short")
        call("Volume.unset", sr=sr, key=key, k=text)
        assert text not in call("Volume.stat", sr=sr, key=key)["keys"]

    def test_longest(self, sr: str, new_volume: Maker) -> None:
        """Several texts of the maximum length are stored completely; one byte more is refused and changes nothing."""
        key = new_volume()["key"]
        longest = "x" * (128000 - 4)
        call("Volume.set_name", sr=sr, key=key, new_name=longest)
        call("Volume.set_description", sr=sr, key=key, new_description=longest)
        read = call("Volume.stat", sr=sr, key=key)
        assert (read["name"], read["description"]) == (longest, longest)
        with pytest.raises(VerbError, match="too long"):
            call("Volume.set_name", sr=sr, key=key, new_name=longest + "xxx")
        assert call("Volume.stat", sr=sr, key=key) == read

    def test_too_long_makes_nothing(self, sr: str) -> None:
        with pytest.raises(VerbError, match="too long"):
            call("Volume.create", sr=sr, name="", description="x" * 200000, size=1, sharable=False)
        assert call("SR.ls", sr=sr) == []

    def test_set_by_hand(self, sr: str, new_volume: Maker) -> None:
        """An administrator may name a disk with `zfs set`, and other programs may set their own properties."""
        key = new_volume()["key"]
        run("zfs", "set", "zfsvol:name=by hand", "com.example:note=a\tb\nzfsvol:description\tspoofed\nc", f"{sr}/{key}")
        read = call("Volume.stat", sr=sr, key=key)
        assert read["name"] == "by hand"
        assert call("SR.ls", sr=sr) == [read]


class TestKeys:
    def test_content_id_is_never_empty(self, sr: str, new_volume: Maker) -> None:
        keys = [new_volume()["keys"]["content_id"] for _ in range(2)]
        assert all(keys)
        assert keys[0] != keys[1]

    def test_are_independent(self, sr: str, new_volume: Maker) -> None:
        key = new_volume()["key"]
        wanted = {"vdi-type": "system", "content_id": "c", "_sm_config_base_mirror": "a/b", "tagsA": "A", "taga": "a"}
        for k, v in wanted.items():
            call("Volume.set", sr=sr, key=key, k=k, v=v)
        assert call("Volume.stat", sr=sr, key=key)["keys"] == wanted
        call("Volume.unset", sr=sr, key=key, k="taga")
        call("Volume.unset", sr=sr, key=key, k="never set")
        del wanted["taga"]
        assert call("Volume.stat", sr=sr, key=key)["keys"] == wanted


class TestResize:
    def test_grows(self, sr: str, new_volume: Maker) -> None:
        key = new_volume(size=GIB)["key"]
        call("Volume.resize", sr=sr, key=key, new_size=GIB + 1)
        assert call("Volume.stat", sr=sr, key=key)["virtual_size"] == GIB + 2 * MIB

    def test_to_the_same_size(self, sr: str, new_volume: Maker) -> None:
        key = new_volume(size=GIB)["key"]
        call("Volume.resize", sr=sr, key=key, new_size=GIB)
        call("Volume.resize", sr=sr, key=key, new_size=GIB - 1)
        assert call("Volume.stat", sr=sr, key=key)["virtual_size"] == GIB

    @pytest.mark.parametrize("size", [GIB - 2 * MIB, 1, 0, -5, 1 << 63])
    def test_refused(self, sr: str, new_volume: Maker, size: int) -> None:
        key = new_volume(size=GIB)["key"]
        with pytest.raises(VerbError, match="VDI Invalid size") as caught:
            call_badly("Volume.resize", sr=sr, key=key, new_size=size)
        assert caught.value.code == "SR_BACKEND_FAILURE_79"
        assert call("Volume.stat", sr=sr, key=key)["virtual_size"] == GIB

    def test_thick_stays_thick(self, bench: Bench) -> None:
        sr = bench.sr(device=bench.disk(), provisioning="thick")
        key = call("Volume.create", sr=sr, name="", description="", size=64 * MIB, sharable=False)["key"]
        call("Volume.resize", sr=sr, key=key, new_size=128 * MIB)
        assert int(run("zfs", "get", "-Hp", "-o", "value", "refreservation", f"{sr}/{key}")) >= 128 * MIB
        with pytest.raises(VerbError) as caught:
            call("Volume.resize", sr=sr, key=key, new_size=4 * GIB)
        assert caught.value.code == "SR_BACKEND_FAILURE_44"
        assert call("Volume.stat", sr=sr, key=key)["virtual_size"] == 128 * MIB


class TestDestroy:
    def test_and_again(self, sr: str, new_volume: Maker) -> None:
        kept, gone = new_volume()["key"], new_volume()["key"]
        call("Volume.destroy", sr=sr, key=gone)
        call("Volume.destroy", sr=sr, key=gone)
        assert [volume["key"] for volume in call("SR.ls", sr=sr)] == [kept]

    def test_while_open(self, sr: str, new_volume: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pool, "_BUSY_LIMIT", 0.2)
        key = new_volume()["key"]
        with device_node(f"{sr}/{key}") as node, open(node, "rb"), pytest.raises(VerbError) as caught:
            call_inside("Volume.destroy", sr=sr, key=key)
        assert caught.value.code == "SR_BACKEND_FAILURE_24"
        assert call("Volume.stat", sr=sr, key=key)["key"] == key
        call("Volume.destroy", sr=sr, key=key)


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("Volume.stat", {}),
        ("Volume.set_name", {"new_name": "x"}),
        ("Volume.set_description", {"new_description": "x"}),
        ("Volume.set", {"k": "a", "v": "b"}),
        ("Volume.unset", {"k": "a"}),
        ("Volume.resize", {"new_size": GIB}),
    ],
)
class TestUnknown:
    def test_volume(self, sr: str, verb: str, arguments: "dict[str, Any]") -> None:
        key = new_uuid()
        with pytest.raises(VerbError, match=key) as caught:
            call(verb, sr=sr, key=key, **arguments)
        assert caught.value.code == "SR_BACKEND_FAILURE_46"

    def test_sr(self, shared_sr: str, verb: str, arguments: "dict[str, Any]") -> None:
        for unknown in (f"sr-{new_uuid()}", f"{shared_sr}/sr-{new_uuid()}"):
            with pytest.raises(VerbError) as caught:
                call(verb, sr=unknown, key=new_uuid(), **arguments)
            assert caught.value.code == "SR_BACKEND_FAILURE_47"


@pytest.fixture
def sr(emptied_sr: str) -> str:
    """One SR for all tests here."""
    return emptied_sr
