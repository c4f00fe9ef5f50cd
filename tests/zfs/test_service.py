# SPDX-License-Identifier: LGPL-2.1-only
"""The life of the resident service: there is one, it follows the attached SRs, and nothing keeps it from ending."""

import os
from pathlib import Path
import signal
import subprocess
import time
from typing import Iterator

import pytest

from tests import client, service
from tests.client import call
from tests.service import Service
from tests.zfs.conftest import Bench, run, wait_until
from zfsvol.repository import journal
from zfsvol.service import life

# Seconds in which it ends, whatever hangs; on a host 2 are promised, and the lab is slower.
STOP_LIMIT = 4


@pytest.fixture
def running(tmp_path: Path) -> "Iterator[Service]":
    made = Service(tmp_path)
    yield made
    made.close()


def pid_in_file() -> int:
    """The process id in the file; 0 while there is none."""
    try:
        return int(Path(life.PID_FILE).read_text() or "0")
    except FileNotFoundError:
        return 0


def is_listening(pid: str) -> bool:
    """Whether the process is the command that tells the service what happens."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes().startswith(b"zpool\0events\0")
    except OSError:
        return False


class TestOne:
    def test_its_process_id_is_told(self, running: Service) -> None:
        assert pid_in_file() == running.process.pid
        running.stop()
        assert not os.path.exists(life.PID_FILE)

    def test_second_one_is_refused(self, running: Service) -> None:
        done = subprocess.run(
            service.argv("--foreground"), stderr=subprocess.PIPE, env=client.environment(), timeout=60
        )
        assert done.returncode == 1
        assert done.stderr.decode() == f"The service of zfs-vol runs already, as process {running.process.pid}.\n"
        assert pid_in_file() == running.process.pid
        assert running.process.poll() is None

    def test_after_a_kill(self, running: Service, tmp_path: Path) -> None:
        running.kill()
        assert pid_in_file() == running.process.pid
        again = Service(tmp_path)
        assert pid_in_file() == again.process.pid
        again.stop()
        assert not os.path.exists(life.PID_FILE)

    def test_started_by_hand_it_detaches(self) -> None:
        subprocess.run(service.argv(), env=client.environment(), timeout=60, check=True)
        wait_until(pid_in_file, life.PID_FILE)
        pid = pid_in_file()
        assert os.getsid(pid) == os.getpgid(pid) != os.getsid(0)
        assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {"/dev/null"}
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the service to end")
        assert not os.path.exists(life.PID_FILE)


class TestFollows:
    def test_what_is_attached_and_detached(self, bench: Bench, tmp_path: Path) -> None:
        first = bench.sr()
        running = Service(tmp_path)
        running.wait_for(f"{first} is followed")
        second = bench.sr(zpool=bench.pool())
        running.wait_for(f"{second} is followed")
        call("SR.detach", sr=first)
        running.wait_for(f"{first} is not followed")
        call("SR.attach", configuration={"sr_uuid": first[3:]})
        running.wait_for(f"{first} is followed", after=len(running.lines))
        assert not [line for line in running.lines if "fault of the service" in line]
        running.close()

    def test_one_child_sleeps_beside_it(self, bench: Bench, running: Service) -> None:
        sr = bench.sr()
        running.wait_for(f"{sr} is followed")
        pid = running.process.pid
        wait_until(lambda: list(Path(journal.DIRECTORY).glob(f"*-{sr[3:]}.json")), "the first look")
        wait_until(lambda: service.children(pid) == ["zpool events -f -v -H"], "the end of the first look")

    def test_a_pool_that_is_suspended_and_returns(self, running: Service, bench: Bench) -> None:
        sr = bench.sr()
        running.wait_for(f"{sr} is followed")
        disk = bench.there[0]
        disk.fail()
        subprocess.Popen(["zfs", "set", "foo:bar=1", sr])  # does not return before the pool does
        running.wait_for(f"{sr} was ONLINE and is SUSPENDED")
        disk.mend()
        run("zpool", "clear", sr, check=False)
        running.wait_for(f"{sr} was SUSPENDED and is ONLINE")


class TestEnds:
    def test_within_seconds(self, bench: Bench, running: Service) -> None:
        bench.sr()
        (child,) = [pid for pid in os.listdir("/proc") if pid.isdigit() and is_listening(pid)]
        assert running.stop() < STOP_LIMIT
        assert not os.path.exists(f"/proc/{child}")

    def test_while_a_disk_hangs(self, bench: Bench, running: Service) -> None:
        sr = bench.sr()
        running.wait_for(f"{sr} is followed")
        disk = bench.there[0]
        disk.hang()
        try:
            subprocess.Popen(["zfs", "set", "foo:bar=1", sr])  # hangs, and whoever asks ZFS from now on may hang, too
            time.sleep(3)  # the service looks after each change
            assert running.stop() < STOP_LIMIT
        finally:
            disk.mend()
