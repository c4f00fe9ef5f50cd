# SPDX-License-Identifier: LGPL-2.1-only
"""The functions as people and xapi call them: in processes of their own; events, check, repair and the archive."""

import json
from pathlib import Path
import signal
import stat
import subprocess
import tarfile
import time
from typing import Iterator

import pytest

from tests import client
from tests.care import WRONG, call, refused, told
from tests.client import call_inside
from tests.hostplugin import argv, as_xapi, environment
from tests.zfs.conftest import MIB, Bench, run
from tests.zfs.test_care_scrub import fill, slowly, tune  # noqa: F401 - a fixture
from tests.zfs.test_care_status import new_volume
from zfsvol.errors import InvalidArgument
from zfsvol.host.blockdevice import stable_name
from zfsvol.repository.sr import SR
from zfsvol.zfs import history


def at_a_shell(*words: str) -> "subprocess.CompletedProcess[str]":
    """Runs `python3 -m zfsvol`."""
    return subprocess.run(
        argv("-m", "zfsvol", *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=environment(),
        timeout=client.LIMIT,
    )


def test_through_xapi(bench: Bench) -> None:
    sr = bench.sr()
    key = new_volume(sr, name="“Platte”\n")
    assert [line["dataset"] for line in as_xapi("list")] == [sr]
    found = as_xapi("status", sr_uuid=sr[3:])
    assert found["disks"][0]["name"] == "“Platte”\n"
    assert as_xapi("scrub", sr_uuid=sr[3:], dry_run="true")["commands"] == [f"zpool scrub {sr}"]
    assert as_xapi("set", sr_uuid=sr[3:], vdi_uuid=key, sync="always")["settings"]["sync"]["from"] == "disk"
    assert as_xapi("check", sr_uuid=sr[3:])["well"] is True
    with pytest.raises(AssertionError, match=r"'SR_BACKEND_FAILURE_1', '', .The SR.s uuid .x. is not a uuid\."):
        as_xapi("status", sr_uuid="x")


def test_status_at_a_shell(bench: Bench) -> None:
    disks = bench.disks(3)
    sr = bench.sr(vdev="mirror {} {} log {}".format(*disks))
    new_volume(sr, name="“Platte”\n")
    for words in (["status"], ["status", sr], ["status", f"sr-uuid={sr[3:]}"]):
        done = at_a_shell(*words)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0] == f"SR {sr[3:]} “sr”"
        assert lines[1] == f"pool {sr}: ONLINE"
        assert lines[2].split() == ["└─", "mirror-0", "ONLINE"]
        assert lines[3].split() == ["├─", stable_name(disks[0]), "ONLINE"]
        assert lines[5] == "  log"
        assert any(r"“\u201cPlatte\u201d\n”: 64.0 MiB thin" in line for line in lines)
    assert json.loads(at_a_shell("status", "--json", sr).stdout)["dataset"] == sr
    assert at_a_shell("list").stdout == f"{sr[3:]} “sr” {sr}: ONLINE\n"


def test_others_at_a_shell(sr: str) -> None:
    assert at_a_shell("scrub", sr).stdout == f"zpool scrub {sr}\n"
    assert at_a_shell("scrub", sr, "action=stop").returncode == 0
    assert at_a_shell("trim", sr, "dry-run=true").stdout == f"would run: zpool trim {sr}\n"
    assert "compression     on              the SR's" in at_a_shell("get", sr).stdout
    assert "zpool scrub" in at_a_shell("events", sr).stdout
    done = at_a_shell("set", sr, "sync=disabled")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("With sync=disabled a power cut loses")
    assert at_a_shell("check", sr).returncode == at_a_shell("repair", sr).returncode == 0


def watch(sr: str) -> "subprocess.Popen[bytes]":
    words = argv("-m", "zfsvol", "watch", sr)
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=environment())


class TestWatch:
    @pytest.fixture
    def watching(self, bench: Bench, slowly: None) -> "Iterator[subprocess.Popen[bytes]]":  # noqa: F811 - the fixture
        """`watch` during a scrub that makes no progress."""
        sr = bench.sr()
        fill(sr)
        call("scrub", sr)
        process = watch(sr)
        assert process.stdout is not None
        first = process.stdout.read(20)
        assert first.startswith(b"\rscrub [")
        yield process
        process.kill()
        process.wait()

    def test_until_it_ends(self, watching: "subprocess.Popen[bytes]") -> None:
        tune("zfs_scan_suspend_progress", "0")
        stdout, stderr = watching.communicate(timeout=60)
        assert (watching.returncode, stderr) == (0, b"")
        *progress, last, health = stdout.decode().splitlines()
        assert "%" in "".join(progress)
        assert last.startswith("scrub finished")
        assert health == "ONLINE"

    def test_interrupted(self, watching: "subprocess.Popen[bytes]") -> None:
        watching.send_signal(signal.SIGINT)
        _, stderr = watching.communicate(timeout=60)
        assert (watching.returncode, stderr) == (130, b"")

    def test_a_trim(self, bench: Bench) -> None:
        sr = bench.sr(vdev="mirror {} {}".format(*bench.disks(2)))
        try:
            tune("zfs_trim_extent_bytes_max", str(MIB))
            run("zpool", "trim", "-r", "1M", sr)  # a second
            process = watch(sr)
        finally:
            tune("zfs_trim_extent_bytes_max", str(128 * MIB))
        assert process.stdout is not None
        assert process.stdout.read(8) == b"\rtrim [."
        assert any(line.startswith("trim [") for line in at_a_shell("status", sr).stdout.splitlines())
        call("trim", sr, action="pause")
        assert call("status", sr)["trim"]["state"] == "paused"
        run("zpool", "trim", "-r", "100G", sr)
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (0, b"")
        last, health = stdout.decode().splitlines()[-2:]
        assert last.startswith("trim finished")
        assert health == "ONLINE"

    def test_nothing_to_watch(self, sr: str) -> None:
        assert at_a_shell("watch", sr).stdout == "ONLINE\n"


def test_check_and_repair(sr: str) -> None:
    key = new_volume(sr)
    run("zfs", "snapshot", f"{sr}/{key}@{client.new_uuid()}")
    before = call("check", sr)
    assert before["well"] is False
    assert any(line.startswith("WRONG: ") for line in before["lines"])
    assert call("check", sr) == before
    dry = told("repair", sr)
    assert (dry["well"], dry["lines"], dry["needs-force"]) == (False, before["lines"], [])
    (sentence,) = dry["repairs"]
    shown = at_a_shell("repair", sr, "dry-run=true")
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (1, f"would repair: {sentence}")
    assert call("check", sr) == before
    done = call("repair", sr)
    assert (done["well"], done["done"], done["repairs"]) == (True, True, [sentence])
    assert f"repaired: {sentence}" in done["lines"]
    assert call("repair", sr)["repairs"] == []
    assert any(line.startswith("repaired: ") for line in done["lines"])
    for function in ("check", "repair"):
        assert call(function, sr)["lines"][-1] == "all is well"


def test_events(bench: Bench) -> None:
    disks = bench.disks(2)
    sr = bench.sr(vdev="mirror {} {}".format(*disks))
    began = int(time.time())
    call("offline", sr, device=disks[0], force="true")
    found = call("events", sr)
    assert [event["time"] for event in found] == sorted((event["time"] for event in found), reverse=True)
    newest = [event for event in found if event["time"] >= began]
    assert any(event["source"] == "history" and event["what"].startswith("zpool offline") for event in newest)
    assert all(event["user"].startswith("root on ") for event in newest if event["what"].startswith("zpool offline"))
    states = [event for event in newest if event["what"] == "statechange: OFFLINE, was ONLINE"]
    assert [event["device"] for event in states] == [stable_name(disks[0])]
    assert call("events", sr, limit="3") == found[:3]
    for wrong in ("0", "-1", "x", ""):
        assert "is no number of events" in refused(WRONG, "events", sr, limit=wrong)


class TestDiagnose:
    def test_archive(self, bench: Bench, tmp_path: Path) -> None:
        secret = "SECRET"  # noqa: S105 - what the archive must not hold
        key_file = tmp_path / "key"
        key_file.write_text("SECRETpassphrase")
        sr = bench.sr(**{"device": bench.disk(), "encryption-key-file": str(key_file)})
        call_inside("SR.set_description", sr=sr, new_description=f"{secret} place")
        key = new_volume(sr, name=f"a {secret} disk")
        call_inside("Volume.set", sr=sr, key=key, k="vdi-type", v=f"a {secret} value")
        call_inside("Volume.set_description", sr=sr, key=key, new_description=f'"{secret}\\" text')
        path = tmp_path / "report.tar.gz"
        answer = call("diagnose", file=str(path))
        assert answer == {"file": str(path), "bytes": path.stat().st_size}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with tarfile.open(str(path)) as archive:
            content = {}
            for name in archive.getnames():
                file = archive.extractfile(name)
                assert file is not None
                content[name] = file.read().decode()
        assert {name for name, text in content.items() if secret in text} == set()
        assert f"pools/{sr}/status.txt" in " ".join(content)
        assert "state: ONLINE" in content[f"zfs-vol/pools/{sr}/status.txt"]
        assert f"zpool create" in content[f"zfs-vol/pools/{sr}/history.txt"]  # noqa: F541 - as the others
        assert json.loads(content[f"zfs-vol/srs/{sr}/status.json"])["disks"][0]["vdi"] == key
        properties = content[f"zfs-vol/srs/{sr}/properties.txt"]
        assert f"{sr}/{key}\tzfsvol:name\t(" in properties
        assert f"{sr}/{key}\tvolsize\t{64 * MIB}\t" in properties
        assert "zfs" in content["zfs-vol/summary.txt"]
        with pytest.raises(InvalidArgument, match="must be the absolute path of a file that does not exist"):
            call("diagnose", file=str(path))

    def test_of_a_suspended_pool(self, bench: Bench, tmp_path: Path) -> None:
        disk = bench.faulty_disk()
        sr = bench.sr(device=disk.path)
        disk.fail()
        with pytest.raises(Exception, match="suspended"):
            SR(sr).zfs.change(["zfs", "set", "zfsvol:test=x", sr])
        began = time.monotonic()
        call("diagnose", file=str(tmp_path / "report"))
        assert time.monotonic() - began < 60
        with tarfile.open(str(tmp_path / "report")) as archive:
            file = archive.extractfile(f"zfs-vol/srs/{sr}/properties.txt")
            assert file is not None
            assert b"not readable: " in file.read()

    @pytest.mark.parametrize("path", ["report", "/none/report", "/dev/null"])
    def test_a_place_where_no_file_can_be(self, path: str) -> None:
        with pytest.raises(InvalidArgument, match=f"file={path}"):
            call("diagnose", file=path)


def test_a_history_of_many_commands(sr: str) -> None:
    """The last scrub is found, whatever came after it."""
    run("zpool", "scrub", "-w", sr)
    scrubbed = call("status", sr)["last-scrub"]
    for number in range(50):
        run("zfs", "set", f"zfsvol:test={number}", sr)
    assert history.last_scrub(SR(sr).zfs) in (scrubbed, scrubbed + 1)
