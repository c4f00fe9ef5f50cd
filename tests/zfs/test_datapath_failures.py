# SPDX-License-Identifier: LGPL-2.1-only
"""Failures below the datapath: nodes that are late, stale or held, tapdisks that die, hang or are not ours, a toolstack
restart, an SR that is attached again. Nothing is left afterwards, and nothing of others is touched.
"""

import json
import os
from pathlib import Path
import random
import re
import signal
import subprocess
import time
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from tests import blktap, client, zvol
from tests.client import VerbError
from tests.client import call_inside as call
from tests.zfs.conftest import MIB, Bench, Udev, run, wait_for, wait_until
from tests.zfs.disk import (
    DOM0,
    FAILED,
    GUEST,
    IN_USE,
    MIGRATION,
    MISSING,
    OTHER_GUEST,
    SR_IN_USE,
    Disk,
    left,
    nbd_read,
    nbd_write,
    new_disk,
    only_stand_in,
    refused,
)
from zfsvol.errors import NodeMissing
from zfsvol.host import bounded, command, process, tapdisk
from zfsvol.zfs import node

pytestmark = pytest.mark.usefixtures("nothing_left")


class TestNodes:
    def test_a_link_that_leads_to_another_zvol(self, disk: Disk) -> None:
        """udev leaves such links after a rename or a promote."""
        other = new_disk(disk.sr)
        other_path = other.use(DOM0)["BlockDevice"]["path"]
        link = Path("/dev/zvol") / disk.zvol
        with Udev.stopped():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(other_path)
            try:
                path = disk.use(DOM0)["BlockDevice"]["path"]
                assert path != other_path
                assert zvol.nodes() == {disk.zvol: path, other.zvol: other_path}
                disk.drop(DOM0)
                assert zvol.nodes() == {other.zvol: other_path}
            finally:
                link.unlink()
        other.drop(DOM0)

    def test_without_udev(self, disk: Disk) -> None:
        with Udev.stopped():
            given = disk.use(GUEST)
            nbd_write(given, 0, b"x" * 512)
            disk.drop(GUEST)
            assert left() == []

    def test_a_node_that_was_there_already(self, disk: Disk) -> None:
        """Left by a power cut, or shown by an administrator."""
        run("zfs", "set", "volmode=dev", disk.zvol)
        Udev.settle()
        assert disk.use(DOM0)["BlockDevice"]["path"] == zvol.nodes()[disk.zvol]
        disk.drop(DOM0)

    def test_a_node_that_vanished(self, disk: Disk) -> None:
        """Somebody set volmode by hand: the node comes back when the VDI is activated."""
        disk.attach(GUEST)
        run("zfs", "set", "volmode=none", disk.zvol)
        disk.verb("activate", GUEST)
        nbd_write(disk.attach(GUEST), 0, b"x" * 512)
        disk.drop(GUEST)

    def test_a_node_that_is_another_disk_s_by_now(self, disk: Disk) -> None:
        """dom0 must not access it by the path that it got."""
        path = disk.attach(DOM0)["BlockDevice"]["path"]
        disk.volume("revert", snapshot=disk.derive("snapshot").key)
        other = new_disk(disk.sr)
        assert other.use(DOM0)["BlockDevice"]["path"] == path
        with refused(MISSING) as sentence:
            disk.verb("activate", DOM0)
        assert path in sentence[0]
        assert disk.attach(DOM0)["BlockDevice"]["path"] != path
        disk.verb("activate", DOM0)
        disk.drop(DOM0)
        other.drop(DOM0)

    def test_one_that_never_appears(self, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(node, "_SHOW_LIMIT", 0)
        with refused(MISSING) as sentence:
            disk.attach(DOM0)
        assert "no device node" in sentence[0]

    def test_one_that_does_not_answer(self, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever opens it may sleep for ever: a disk of the pool has failed."""
        path = disk.attach(DOM0)["BlockDevice"]["path"]
        answer = bounded.Process.answer
        monkeypatch.setattr(bounded.Process, "answer", lambda self, limit: answer(self, 0.2))
        monkeypatch.setattr(node, "_matching", lambda paths, name: time.sleep(20))  # longer than it is waited for
        with refused(MISSING) as sentence:
            disk.verb("activate", DOM0)
        assert "does not answer" in sentence[0]
        with pytest.raises(NodeMissing, match="does not answer"), node.Opened(path, disk.zvol):
            pass
        monkeypatch.undo()
        disk.drop(DOM0)

    def test_one_that_vanishes_before_it_is_opened(self, disk: Disk) -> None:
        with pytest.raises(NodeMissing, match="has just vanished"), node.Opened("/dev/zd4242", disk.zvol):
            pass

    def test_a_destroy_that_is_refused(self, disk: Disk) -> None:
        """Nothing is changed, not even the node."""
        given = disk.attach(DOM0)
        with open(given["BlockDevice"]["path"], "rb"), refused(IN_USE):
            disk.volume("destroy")
        assert zvol.nodes() == {disk.zvol: given["BlockDevice"]["path"]}
        disk.verb("activate", DOM0)
        disk.drop(DOM0)

    def test_held_for_a_moment(self, disk: Disk) -> None:
        """udev, blkid and LVM open new devices. ZFS then silently does not remove the node."""
        path = disk.use(DOM0)["BlockDevice"]["path"]
        descriptor = os.open(path, os.O_RDONLY)
        process = client.start("Datapath.detach", uri=disk.uri, domain=DOM0)
        time.sleep(1.5)
        assert process.poll() is None
        os.close(descriptor)
        client.finish("Datapath.detach", process)

    def test_held_for_good(self, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        """The detach succeeds; the next detach or SR.attach removes node and record."""
        monkeypatch.setattr(node, "_HIDE_LIMIT", 1)
        for again in ("detach", "SR.attach", "SR.detach"):
            path = disk.use(DOM0)["BlockDevice"]["path"]
            with open(path, "rb", buffering=0):
                disk.drop(DOM0)
                assert os.path.exists(path)
                with refused(SR_IN_USE) as sentence:
                    call("SR.detach", sr=disk.sr)
                assert path in sentence[0]
            if again == "detach":
                disk.drop(GUEST)
            else:
                call(
                    again, **({"sr": disk.sr} if again == "SR.detach" else {"configuration": {"sr_uuid": disk.sr[3:]}})
                )
            assert left() == []
        call("SR.attach", configuration={"sr_uuid": disk.sr[3:]})


class TestTapdisks:
    """Tapdisks that die, hang, or are not ours."""

    def kill(self, disk: Disk) -> None:
        pid = disk.tapdisk["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in blktap.tapdisks(), "the tapdisk to end", 10)

    def test_killed_and_activated_again(self, disk: Disk) -> None:
        nbd_write(disk.use(GUEST), 0, b"a" * 512)
        self.kill(disk)
        disk.verb("activate", GUEST)
        assert nbd_read(disk.attach(GUEST), 0, 512) == b"a" * 512
        disk.drop(GUEST)

    def test_killed_and_wanted_by_another(self, disk: Disk) -> None:
        """A VM whose tapdisk crashed is started again, as another domain."""
        disk.use(GUEST)
        self.kill(disk)
        disk.use(OTHER_GUEST)
        assert list(disk.record.active) == [OTHER_GUEST]
        disk.drop(OTHER_GUEST, GUEST)

    @pytest.mark.parametrize("verb", ["deactivate", "detach"])
    def test_killed_and_ended(self, disk: Disk, verb: str) -> None:
        disk.use(GUEST)
        self.kill(disk)
        disk.verb(verb, GUEST)
        disk.verb("detach", GUEST)

    def test_killed_and_destroyed(self, disk: Disk) -> None:
        disk.use(GUEST)
        self.kill(disk)
        disk.volume("destroy")

    def test_killed_and_the_sr_attached(self, disk: Disk) -> None:
        other = new_disk(disk.sr)
        disk.use(GUEST)
        other.use(OTHER_GUEST)
        alive = other.tapdisk
        self.kill(disk)
        call("SR.attach", configuration={"sr_uuid": disk.sr[3:]})
        assert other.tapdisk == alive
        assert disk.record.active == {}
        nbd_write(other.attach(OTHER_GUEST), 0, b"b" * 512)
        disk.drop(GUEST)
        other.drop(OTHER_GUEST)

    def test_with_a_client_that_stays(self, disk: Disk) -> None:
        with blktap.connect(disk.use(GUEST)["Nbd"]["uri"]) as connection:
            connection.write(0, b"c" * 512)
            disk.drop(GUEST)
            assert left() == []

    def test_somebody_else_has_its_pid_now(self, disk: Disk) -> None:
        """A process that only has the same pid, even one called tapdisk, is left alone."""
        disk.use(GUEST)
        self.kill(disk)
        bystander = subprocess.Popen(["sleep", "600"])
        try:
            record = json.loads(Path(disk.record.path).read_text())
            stale = record["tapdisk"]["pid"]
            record["tapdisk"]["pid"] = bystander.pid
            Path(disk.record.path).write_text(json.dumps(record))
            disk.drop(GUEST)
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()
        tapdisk._remove_sockets(stale)

    def test_somebody_else_has_its_minor_now(self, disk: Disk) -> None:
        """An administrator has freed a dead tapdisk's minor, and the storage manager has taken it."""
        disk.use(GUEST)
        minor = disk.tapdisk["minor"]
        self.kill(disk)
        run("tap-ctl", "free", "-m", str(minor))
        marker = run("tap-ctl", "allocate").strip()
        assert marker.endswith(str(minor))
        disk.drop(GUEST)
        assert os.path.exists(marker)
        run("tap-ctl", "free", "-m", str(minor))

    def test_others_are_left_alone(self, disk: Disk) -> None:
        """The storage manager's tapdisks, including one without an image so far."""
        marker = run("tap-ctl", "allocate").strip()
        minor = "".join(filter(str.isdigit, marker[-4:]))
        pid = spawn()
        wait_until(lambda: os.path.exists(f"/run/blktap-control/ctl{pid}"), "its control socket", 10)
        before = blktap.leftovers()
        disk.use(GUEST)
        self.kill(disk)
        call("SR.attach", configuration={"sr_uuid": disk.sr[3:]})
        disk.use(GUEST)
        disk.drop(GUEST)
        assert blktap.leftovers() == before
        os.kill(pid, signal.SIGKILL)
        run("tap-ctl", "free", "-m", minor)
        wait_until(lambda: pid not in blktap.tapdisks(), "it to end", 10)
        tapdisk._remove_sockets(pid)

    def test_it_serves_another_image(self, disk: Disk) -> None:
        """The driver does not touch a tapdisk that differs from its record."""
        disk.use(GUEST)
        path = Path(disk.record.path)
        genuine = path.read_text()
        record = json.loads(genuine)
        record["tapdisk"]["device"] = "/dev/zd4242"
        path.write_text(json.dumps(record))
        with refused(FAILED) as sentence:
            disk.verb("deactivate", GUEST)
        assert "it is left alone" in sentence[0]
        path.write_text(genuine)
        disk.drop(GUEST)

    def test_it_is_ending(self, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until a killed one has ended, it may write: nobody else gets the disk."""
        disk.use(GUEST)
        self.kill(disk)
        monkeypatch.setattr(tapdisk, "_EXIT_LIMIT", 0.2)
        monkeypatch.setattr(process, "is_ending", lambda pid: True)
        with refused(FAILED) as sentence:
            disk.use(OTHER_GUEST)
        assert "may still write" in sentence[0]
        assert disk.record.active == {GUEST: "rw"}
        monkeypatch.undo()
        disk.drop(OTHER_GUEST, GUEST)

    def test_it_dies_while_it_opens_the_disk(self, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        disk.attach(GUEST)
        run_command = tapdisk.Tapdisk._try

        def run_and_kill(self: tapdisk.Tapdisk, words: "List[str]", **how: Any) -> "Tuple[int, str]":
            answer = run_command(self, words, **how)
            if words[0] == "open":
                blktap.kill(self.state["pid"])
            return answer

        monkeypatch.setattr(tapdisk.Tapdisk, "_try", run_and_kill)
        with refused(FAILED) as sentence:
            disk.verb("activate", GUEST)
        assert "ended while it opened" in sentence[0]
        assert disk.record.active == {}
        monkeypatch.undo()
        disk.drop(GUEST)

    def test_it_is_not_listed(self, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        """It runs, but has not answered tap-ctl: it may have writes to do."""
        disk.use(GUEST)
        monkeypatch.setattr(tapdisk.Tapdisk, "_listed", lambda self: [])
        with refused(FAILED) as sentence:
            disk.verb("deactivate", GUEST)
        assert "does not answer" in sentence[0]
        assert disk.record.active == {GUEST: "rw"}
        monkeypatch.undo()
        disk.drop(GUEST)

    @pytest.mark.parametrize(
        ("program", "words"),
        [("", "of the package blktap, cannot be run"), ("#!/bin/sh\necho what\n", "answered 'what'")],
        ids=["missing", "of another kind"],
    )
    def test_no_tap_ctl(
        self, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
    ) -> None:
        disk.attach(GUEST)
        if program:
            (tmp_path / "tap-ctl").write_text(program)
            (tmp_path / "tap-ctl").chmod(0o755)
        monkeypatch.setitem(command.ENVIRONMENT, "PATH", str(tmp_path))
        with refused(FAILED) as sentence:
            disk.verb("activate", GUEST)
        assert words in sentence[0]
        assert disk.record.active == {}
        monkeypatch.undo()
        disk.drop(GUEST)

    def test_a_record_that_is_damaged(self, disk: Disk) -> None:
        disk.attach(GUEST)
        path = Path(disk.record.path)
        genuine = path.read_text()
        path.write_text("")
        for verb in ("attach", "activate", "deactivate", "detach"):
            with refused(FAILED) as sentence:
                disk.verb(verb, GUEST)
            assert str(path) in sentence[0]
        path.write_text(genuine)
        disk.drop(GUEST)


def spawn() -> int:
    """A tapdisk as the storage manager starts it."""
    with open("/dev/null", "r+b") as null:
        output = "/tmp/spawned"
        with open(output, "wb") as file:
            subprocess.run(["tap-ctl", "spawn"], stdin=null, stdout=file, stderr=null, check=True, timeout=60)
        return int(Path(output).read_text())


FAULTS: "List[Tuple[Dict[str, Any], str]]" = [
    # The fault, and words of the error; none if the disk can be activated nevertheless.
    ({"command": "allocate", "status": 28, "times": 1}, "tap-ctl allocate failed"),
    ({"command": "spawn", "status": 1, "times": 2}, ""),
    ({"command": "spawn", "status": 1, "times": 99}, "cannot be started"),
    ({"command": "spawn", "status": 12, "times": 1}, "cannot be started"),
    ({"command": "spawn", "dies": True, "times": 1}, "ended right after its start"),
    ({"command": "spawn", "late": 2, "times": 1}, ""),
    ({"command": "attach", "status": 22, "times": 1}, "cannot be attached"),
    ({"command": "open", "status": 16, "times": 3}, ""),
    ({"command": "open", "status": 2, "times": 2}, ""),
    ({"command": "open", "status": 0, "times": 1}, ""),  # 512, of which the exit status keeps 8 bits
    ({"command": "open", "status": 5, "times": 1}, "cannot open"),
]


@only_stand_in
class TestFaults:
    @pytest.mark.parametrize(("fault", "words"), FAULTS, ids=lambda value: json.dumps(value).replace('"', ""))
    def test_while_it_is_started(self, disk: Disk, fault: "Dict[str, Any]", words: str) -> None:
        disk.attach(GUEST)
        before = disk.saved
        with blktap.faults(fault):
            if not words:
                disk.verb("activate", GUEST)
                nbd_write(disk.attach(GUEST), 0, b"d" * 512)
            else:
                with refused(FAILED) as sentence:
                    disk.verb("activate", GUEST)
                assert words in sentence[0]
                assert disk.saved == before
                assert blktap.leftovers() == []
        # Once that is over, it works.
        disk.verb("activate", GUEST)
        nbd_write(disk.attach(GUEST), 0, b"e" * 512)
        disk.drop(GUEST)

    @pytest.mark.parametrize(
        "fault",
        [{"command": "attach", "status": 111, "times": 999}, {"command": "open", "status": 16, "times": 999}],
        ids=json.dumps,
    )
    def test_it_is_never_ready(self, disk: Disk, fault: "Dict[str, Any]", monkeypatch: pytest.MonkeyPatch) -> None:
        """The driver does not try for ever."""
        monkeypatch.setattr(tapdisk, "_START_LIMIT", 3)
        disk.attach(GUEST)
        with blktap.faults(fault), refused(FAILED):
            disk.verb("activate", GUEST)
        assert disk.record.active == {}
        disk.drop(GUEST)

    @pytest.mark.parametrize(
        "fault",
        [
            {"command": "close", "hang-until-poked": True, "times": 1},
            {"command": "close", "status": 4, "times": 1},
            {"command": "detach", "status": 22, "times": 1},
            {"command": "detach", "lingers": 600, "times": 1},
            {"command": "free", "status": 11, "times": 2},
        ],
        ids=json.dumps,
    )
    def test_while_it_is_stopped(self, disk: Disk, fault: "Dict[str, Any]", monkeypatch: pytest.MonkeyPatch) -> None:
        disk.use(GUEST)
        for name in ("_CLOSE_LIMIT", "_LIMIT", "_EXIT_LIMIT"):
            monkeypatch.setattr(tapdisk, name, 3)
        with blktap.faults(fault):
            call("Datapath.deactivate", uri=disk.uri, domain=GUEST)
        disk.verb("detach", GUEST)

    @pytest.mark.parametrize(
        ("module", "name", "found", "words"),
        [
            (os, "kill", None, "cannot be killed"),
            (process, "open_devices", {1}, "does not close"),
        ],
        ids=["it sleeps in the kernel", "it still has a device open"],
    )
    def test_it_stays(
        self, disk: Disk, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, found: Any, words: str
    ) -> None:
        """As long as it does, so does the lease."""
        disk.use(GUEST)
        for limit in ("_EXIT_LIMIT", "_KILL_LIMIT"):
            monkeypatch.setattr(tapdisk, limit, 0.3)
        with blktap.faults({"command": "detach", "lingers": 600, "times": 1}):
            monkeypatch.setattr(module, name, lambda *_: found)
            with refused(FAILED) as sentence:
                disk.verb("deactivate", GUEST)
        assert words in sentence[0]
        assert disk.record.active == {GUEST: "rw"}
        monkeypatch.undo()
        disk.drop(GUEST)

    def test_half_started_it_stays(self, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        disk.attach(GUEST)
        monkeypatch.setattr(tapdisk, "_KILL_LIMIT", 0.3)
        with blktap.faults({"command": "spawn", "status": 12, "after": True, "times": 1}):
            monkeypatch.setattr(os, "kill", lambda *_: None)
            with refused(FAILED) as sentence:
                disk.verb("activate", GUEST)
        assert "cannot be killed" in sentence[0]
        monkeypatch.undo()
        disk.drop(GUEST)

    def test_its_minor_stays(self, disk: Disk) -> None:
        disk.use(GUEST)
        with blktap.faults({"command": "free", "status": 11, "times": 99}), refused(FAILED) as sentence:
            disk.verb("deactivate", GUEST)
        assert "still holds the minor" in sentence[0]
        assert disk.record.active == {GUEST: "rw"}
        disk.drop(GUEST)

    def test_killed_before_the_tapdisk_listens(self, disk: Disk) -> None:
        """It does not answer yet, and has nothing to write, so it is killed."""
        disk.attach(GUEST)
        with blktap.faults({"command": "spawn", "late": 5, "times": 1}):
            process = client.start("Datapath.activate", uri=disk.uri, domain=GUEST)
            wait_until(lambda: (disk.record.tapdisk or {}).get("pid"), "the tapdisk to be in the record", 60)
            process.kill()
            process.communicate()
            disk.drop(GUEST)

    @pytest.mark.parametrize("command", ["spawn", "open", "list"])
    def test_a_command_hangs(self, disk: Disk, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """No verb waits for ever, and unfinished steps are undone."""
        monkeypatch.setattr(tapdisk, "_LIMIT", 4)
        with blktap.faults({"command": command, "hang": 600, "times": 1}):
            with pytest.raises(VerbError) as caught:
                disk.use(GUEST)
            assert "did not end within" in caught.value.sentence
        assert disk.record.active == {}
        assert blktap.leftovers() == []
        monkeypatch.undo()
        disk.use(GUEST)
        disk.drop(GUEST)

    def test_the_tapdisk_answers_late(self, disk: Disk) -> None:
        """tap-ctl then lists it as one without an image, and the driver removes nothing of it."""
        given = disk.use(GUEST)
        snapshot = disk.derive("snapshot")
        pid = disk.tapdisk["pid"]
        with blktap.faults({"command": "list", "mute": True}):
            for act in (
                lambda: disk.verb("activate", GUEST),
                lambda: disk.verb("deactivate", GUEST),
                lambda: disk.use(OTHER_GUEST),
                lambda: disk.volume("resize", new_size=128 * MIB),
                lambda: disk.volume("destroy"),
                lambda: call("Volume.revert", sr=disk.sr, key=disk.key, snapshot=snapshot.key),
                lambda: call("SR.detach", sr=disk.sr),
            ):
                with pytest.raises(VerbError, match=r"does not answer|The SR .* is in use"):
                    act()
            call("SR.attach", configuration={"sr_uuid": disk.sr[3:]})
        assert (blktap.tapdisks(), disk.record.active) == ([pid], {GUEST: "rw"})
        nbd_write(given, 0, b"x" * 512)
        disk.drop(GUEST, OTHER_GUEST)

    def test_a_minor_that_blktap_3_has_yet(self, disk: Disk) -> None:
        with blktap.version_3(), blktap.faults({"command": "free", "status": 16, "times": 2}):
            disk.use(GUEST)
            disk.drop(GUEST)

    def test_the_hosts_rules(self, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """They put the tapdisk into control groups; an error in them stops no VM."""
        program = tmp_path / "cgclassify"
        program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/classified; exit 1\n')
        program.chmod(0o755)
        monkeypatch.setattr(tapdisk, "_CGCLASSIFY", str(program))
        disk.use(GUEST)
        assert (tmp_path / "classified").read_text() == "{pid}\n".format(**disk.tapdisk)
        disk.drop(GUEST)

    def test_others_go_on_while_one_hangs(self, disk: Disk) -> None:
        """The SR's lock is free: another VM starts, and another disk is destroyed, meanwhile."""
        other, doomed = new_disk(disk.sr), new_disk(disk.sr)
        disk.attach(GUEST)
        with blktap.faults({"command": "open", "hang": 600, "times": 1}):
            process = client.start("Datapath.activate", uri=disk.uri, domain=GUEST)
            wait_until(lambda: blktap.faults_left() == 0, "the open", 60)
            waiting = client.start("Datapath.attach", uri=disk.uri, domain=DOM0)
            began = time.monotonic()
            while time.monotonic() < began + 3:
                other.use(OTHER_GUEST)
                call("Volume.snapshot", sr=disk.sr, key=doomed.key)
                doomed.volume("destroy")
                doomed = new_disk(disk.sr)
                other.drop(OTHER_GUEST)
            assert (process.poll(), waiting.poll()) == (None, None)
            run("pkill", "-KILL", "-x", "tap-ctl")
            with pytest.raises(VerbError):
                client.finish("Datapath.activate", process)
            assert client.finish("Datapath.attach", waiting)
        assert disk.record.active == {}
        disk.drop(GUEST, DOM0)

    @pytest.mark.parametrize("verb", ["activate", "deactivate"])
    def test_the_tapdisk_answers_nothing(self, disk: Disk, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """It may still have writes to do, so it is not killed and the lease stays."""
        disk.use(GUEST)
        monkeypatch.setattr(tapdisk, "_LIMIT", 2)
        pid = disk.tapdisk["pid"]
        blktap.kill(pid, signal.SIGSTOP)
        with pytest.raises(VerbError):
            disk.verb(verb, GUEST)
        with pytest.raises(VerbError):
            disk.use(OTHER_GUEST)
        assert disk.record.active == {GUEST: "rw"}
        blktap.kill(pid, signal.SIGCONT)
        disk.drop(GUEST, OTHER_GUEST)

    def test_it_does_not_let_go(self, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        """Until it does, the lease stays and nobody else gets the disk."""
        given = disk.use(GUEST)
        for name in ("_CLOSE_LIMIT", "_LIMIT", "_EXIT_LIMIT"):
            monkeypatch.setattr(tapdisk, name, 2)
        with blktap.faults({"command": "close", "status": 16, "times": 99}):
            with pytest.raises(VerbError) as caught:
                call("Datapath.deactivate", uri=disk.uri, domain=GUEST)
            assert "stays in use" in caught.value.sentence
            with refused(IN_USE):
                disk.use(OTHER_GUEST)
        assert disk.record.active == {GUEST: "rw"}
        disk.drop(GUEST, OTHER_GUEST)
        assert given


CGROUPS = {
    # As in XCP-ng 8.3, and as in later systems.
    "v1": ["-t", "cgroup", "-o", "none,name=systemd", "cgroup"],
    "v2": ["-t", "cgroup2", "cgroup2"],
}


@pytest.fixture(params=sorted(CGROUPS))
def service(request: pytest.FixtureRequest) -> "Iterator[Path]":
    """The control group of xapi-storage-script."""
    if any(line.split()[2].startswith("cgroup") for line in Path("/proc/self/mounts").read_text().splitlines()):
        pytest.skip("a system with control groups of its own")
    mountpoint = Path("/run/cgroup-" + request.param)
    mountpoint.mkdir(exist_ok=True)
    run("mount", *CGROUPS[request.param], str(mountpoint))
    group = mountpoint / "xapi-storage-script.service"
    group.mkdir()
    yield group
    group.rmdir()
    run("umount", str(mountpoint))


class TestToolstackRestart:
    def start(self, service: Path, verb: str, disk: Disk) -> "subprocess.Popen[bytes]":
        """A verb as the service runs it: in its control group, with its LD_PRELOAD and with pipes."""
        shell = 'echo $$ > "$0" && exec "$@"'
        process = subprocess.Popen(
            ["sh", "-c", shell, str(service / "cgroup.procs"), *client.argv(verb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**client.environment(), "LD_PRELOAD": "libm.so.6", "MALLOC_CONF": "narenas:1", "OCAMLRUNPARAM": "b"},
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({"dbg": "", "uri": disk.uri, "domain": GUEST}).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def members(self, service: Path) -> "List[int]":
        return [int(pid) for pid in (service / "cgroup.procs").read_text().split()]

    def test_a_tapdisk_outlives_it(self, disk: Disk, service: Path) -> None:
        given = disk.attach(GUEST)
        # Both pipes are read to their ends, as the client does.
        client.finish("Datapath.activate", self.start(service, "Datapath.activate", disk))
        assert self.members(service) == []
        pid = disk.tapdisk["pid"]
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"LD_PRELOAD" not in environment
        assert b"MALLOC_CONF" not in environment
        # It has neither the locks nor the pipes whose ends the client waits for.
        assert not any(re.search("lock|pipe:", os.readlink(str(path))) for path in Path(f"/proc/{pid}/fd").iterdir())
        nbd_write(given, 0, b"f" * 512)
        disk.drop(GUEST)

    def test_in_the_middle_of_an_activation(self, disk: Disk, service: Path) -> None:
        """The whole group is killed at any moment; then the disk can be activated, or detached."""
        chance = random.Random(7)
        given = disk.attach(GUEST)
        for number in range(4):
            process = self.start(service, "Datapath.activate", disk)
            time.sleep(chance.uniform(0.1, 0.9))
            for pid in self.members(service):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.communicate()
            if number % 2:
                disk.verb("activate", GUEST)
                nbd_write(given, 0, b"g" * 512)
                assert len(blktap.tapdisks()) == 1
            disk.verb("deactivate", GUEST)
            assert blktap.leftovers() == []
        disk.drop(GUEST)


class TestSRAttach:
    def test_nodes_that_nobody_has_attached(self, disk: Disk) -> None:
        run("zfs", "set", "volmode=dev", disk.zvol)
        call("SR.attach", configuration={"sr_uuid": disk.sr[3:]})

    def test_what_is_attached_stays(self, disk: Disk) -> None:
        given = disk.use(GUEST)
        path = disk.attach(DOM0)["BlockDevice"]["path"]
        call("SR.attach", configuration={"sr_uuid": disk.sr[3:]})
        nbd_write(given, 0, b"h" * 512)
        assert disk.attach(DOM0)["BlockDevice"]["path"] == path
        disk.drop(GUEST, DOM0)

    def test_records_from_before_the_pool_was_gone(self, disk: Disk) -> None:
        """The pool was exported by hand while something was attached."""
        disk.use(DOM0)
        wait_for("zpool", "export", disk.sr)  # udev may look at the node yet
        call("SR.attach", configuration={"sr_uuid": disk.sr[3:]})
        assert left() == []

    def test_attached_and_not_active_is_no_obstacle(self, disk: Disk) -> None:
        disk.attach(MIGRATION)
        call("SR.detach", sr=disk.sr)
        assert left() == []
        call("SR.attach", configuration={"sr_uuid": disk.sr[3:]})
        disk.drop(MIGRATION)

    def test_in_a_pool_of_the_administrator(self, bench: Bench) -> None:
        disk = new_disk(bench.sr(zpool=bench.pool()))
        disk.attach(DOM0)
        call("SR.detach", sr=disk.sr)
        assert left() == []
