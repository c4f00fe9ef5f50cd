# SPDX-License-Identifier: LGPL-2.1-only
"""tap-ctl and tapdisk behave as the driver expects: the stand-ins, and on a host with Xen the genuine ones.

blktap 4.0.8 was measured. If a host's version behaves differently, the stand-in must follow.
"""

import os
from pathlib import Path
import re
import signal
import subprocess
import time
from typing import Callable, Iterator

import pytest

from tests import blktap, zvol
from tests.model import noise
from tests.zfs.conftest import MIB, Bench, Udev, run, wait_until

SIZE = 16 * MIB
EXPORT = "a-disk"

only_stand_in = pytest.mark.skipif(blktap.GENUINE, reason="the genuine tap-ctl does not fail to order")


class Tapdisk:
    """A tapdisk, and a minor allocated for it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.marker = run("tap-ctl", "allocate").strip()
        self.minor = int(re.findall(r"[0-9]+\Z", self.marker)[0])
        self.pid = 0

    def ctl(self, words: str) -> "tuple[int, str]":
        """tap-ctl's status and output; PID, MINOR, PATH and WHO in the words are replaced."""
        words = words.replace("WHO", "-p PID -m MINOR")
        values = {"PID": str(self.pid), "MINOR": str(self.minor)}
        filled = [values.get(word, word.replace("PATH", self.path)) for word in words.split()]
        return blktap.tap_ctl(*filled)

    def does(self, words: str) -> str:
        """As `ctl`, but it must succeed."""
        status, output = self.ctl(words)
        assert status == 0, (words, status, output)
        return output

    def spawn(self, **variables: str) -> None:
        """Starts the process."""
        status, output = blktap.tap_ctl("spawn", **variables)
        assert status == 0
        self.pid = int(output)

    def attach(self) -> None:
        """Attaches as soon as the process listens."""
        wait_until(lambda: self.ctl("attach WHO")[0] == 0, "the control socket", 10)

    def open(self, options: str = "") -> None:
        self.does("open WHO -a aio:PATH " + options)

    def connect(self, export: str = EXPORT) -> blktap.Client:
        return blktap.connect(f"nbd:unix:{self.socket('nbd')}:exportname={export}")

    def socket(self, kind: str) -> str:
        return str(blktap.CONTROL / f"{kind}{self.pid}.{self.minor}")

    def rows(self) -> "list[str]":
        """Its rows in the output of list, with its pid and minor replaced by words."""
        words = {
            f"pid={self.pid}": "pid=PID",
            f"minor={self.minor}": "minor=MINOR",
            f"args=aio:{self.path}": "args=aio:PATH",
        }
        rows = [[words.get(word, word) for word in row.split()] for row in self.does("list").splitlines()]
        return [" ".join(row) for row in rows if "pid=PID" in row or "minor=MINOR" in row]

    def is_there(self) -> bool:
        return self.pid in blktap.tapdisks()

    def files(self) -> "list[str]":
        """The names of its sockets and of its statistics."""
        found = [path.name for path in blktap.CONTROL.iterdir() if str(self.pid) in path.name]
        return sorted(found) + [path.name for path in blktap.SHARED_MEMORY.glob(f"td3-{self.pid}")]


@pytest.fixture(autouse=True)
def nothing_left(bench: Bench) -> "Iterator[None]":
    """No test may leave a process, a socket or a minor. A failed test's remains are removed before its disks."""
    assert blktap.leftovers() == []
    yield
    left = blktap.leftovers()
    blktap.sweep()
    assert left == []


@pytest.fixture
def file(bench: Bench) -> str:
    """A loop device, which accepts the same as a zvol."""
    return bench.loop(SIZE)


@pytest.fixture
def disk(bench: Bench) -> str:
    """The path of a zvol's device node."""
    pool = bench.pool()
    run("zfs", "create", "-s", "-V", str(SIZE), "-o", "volmode=dev", f"{pool}/{EXPORT}")
    return zvol.node(f"{pool}/{EXPORT}")


# --- states and the ways out of them


def allocated(path: str) -> Tapdisk:
    tapdisk = Tapdisk(path)
    tapdisk.spawn()
    wait_until(lambda: os.path.exists(str(blktap.CONTROL / f"ctl{tapdisk.pid}")), "the control socket", 10)
    return tapdisk


def attached(path: str) -> Tapdisk:
    tapdisk = Tapdisk(path)
    tapdisk.spawn()
    tapdisk.attach()
    return tapdisk


def opened(path: str) -> Tapdisk:
    tapdisk = attached(path)
    tapdisk.open()
    return tapdisk


def closed(path: str) -> Tapdisk:
    tapdisk = opened(path)
    tapdisk.does("close WHO")
    return tapdisk


def detached(path: str) -> Tapdisk:
    tapdisk = closed(path)
    tapdisk.does("detach WHO")
    blktap.wait_for_end(tapdisk.pid)
    return tapdisk


def killed(path: str) -> Tapdisk:
    tapdisk = opened(path)
    blktap.kill(tapdisk.pid)
    return tapdisk


def ended(tapdisk: Tapdisk) -> None:
    """Whatever state it is in, nothing of it remains afterwards."""
    if tapdisk.is_there():
        tapdisk.ctl("close WHO")
        tapdisk.ctl("detach WHO")
        try:
            blktap.kill(tapdisk.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    tapdisk.ctl("free -m MINOR")
    remove_remains(tapdisk.pid)


def remove_remains(pid: int) -> None:
    """Removes what a killed tapdisk leaves."""
    for path in blktap.CONTROL.iterdir():
        if re.match(rf"(ctl|nbd[a-z-]*){pid}(\.[0-9]+)?\Z", path.name):
            path.unlink()
    for path in blktap.SHARED_MEMORY.glob(f"td3-{pid}*"):
        run("rm", "-r", str(path))


# --- the answers in each state

MISSING = "aio:/dev/there-is-none"
LONG = "aio:/" + 251 * "x"

# One after the other. A command that fails changes nothing.
MATRIX: "list[tuple[Callable[[str], Tapdisk], list[tuple[str, int]]]]" = [
    (
        allocated,
        [
            ("attach -p PID -m 16000", 22),
            ("open WHO -a aio:PATH", 22),
            ("detach WHO", 22),
            ("close WHO", 19),
            ("free -m MINOR", 0),
            ("free -m MINOR", 2),
            ("attach WHO", 22),
        ],
    ),
    (
        attached,
        [
            ("attach WHO", 22),
            (f"open WHO -a {MISSING}", 2),
            (f"open WHO -a {LONG}", 36),
            ("open WHO", 22),
            ("free -m MINOR", 11),
            ("close WHO", 0),
            ("open WHO -a aio:PATH", 0),
        ],
    ),
    (
        opened,
        [
            ("open WHO -a aio:PATH", 114),
            ("detach WHO", 22),
            ("free -m MINOR", 11),
            ("close WHO -t 30", 0),
            ("close WHO", 0),
            ("close WHO -f", 0),
            ("free -m MINOR", 11),
            ("detach WHO", 0),
        ],
    ),
    (attached, [("detach WHO", 0)]),
    (
        detached,
        [
            ("attach WHO", 2),
            ("open WHO -a aio:PATH", 2),
            ("close WHO", 2),
            ("detach WHO", 2),
            ("list -p PID", 0),
            ("free -m MINOR", 0),
        ],
    ),
    (
        killed,
        [
            ("attach WHO", 111),
            ("open WHO -a aio:PATH", 111),
            ("close WHO", 111),
            ("detach WHO", 111),
            ("list -p PID", 0),
            ("free -m MINOR", 0),
        ],
    ),
]


@pytest.mark.parametrize(("state", "steps"), MATRIX, ids=[state.__name__ for state, _ in MATRIX])
def test_life_cycle(file: str, state: "Callable[[str], Tapdisk]", steps: "list[tuple[str, int]]") -> None:
    tapdisk = state(file)
    assert [(words, tapdisk.ctl(words)[0]) for words, _ in steps] == steps
    ended(tapdisk)


ROWS: "list[tuple[Callable[[str], Tapdisk], list[str]]]" = [
    (allocated, ["pid=PID", "minor=MINOR"]),
    (attached, ["pid=PID minor=MINOR state=0"]),
    (opened, ["pid=PID minor=MINOR state=0 args=aio:PATH"]),
    (closed, ["pid=PID minor=MINOR state=0x2"]),
    (detached, ["minor=MINOR"]),
    (killed, ["minor=MINOR"]),
]


@pytest.mark.parametrize(("state", "rows"), ROWS, ids=[state.__name__ for state, _ in ROWS])
def test_list(file: str, state: "Callable[[str], Tapdisk]", rows: "list[str]") -> None:
    tapdisk = state(file)
    assert tapdisk.rows() == rows
    one = tapdisk.does("list -p PID").splitlines()
    assert len(one) == sum("PID" in row for row in rows)
    assert tapdisk.does("list -m MINOR").splitlines() == [
        row for row in tapdisk.does("list").splitlines() if f"minor={tapdisk.minor}" in row.split()
    ]
    ended(tapdisk)


def test_detach_tells_why_it_failed(file: str) -> None:
    tapdisk = opened(file)
    assert tapdisk.ctl("detach WHO")[1] != ""
    ended(tapdisk)


class TestMinors:
    def test_the_lowest_that_is_free(self) -> None:
        first, second, third = (Tapdisk("") for _ in range(3))
        assert first.minor < second.minor < third.minor
        second.does("free -m MINOR")
        again = Tapdisk("")
        assert again.minor == second.minor
        assert os.path.exists(again.marker)
        for tapdisk in (first, again, third):
            tapdisk.does("free -m MINOR")
        assert not os.path.exists(again.marker)
        assert again.ctl("free -m MINOR")[0] == 2

    def test_nobody_gets_the_same(self) -> None:
        processes = [subprocess.Popen(["tap-ctl", "allocate"], stdout=subprocess.PIPE) for _ in range(8)]
        markers = {process.communicate()[0].decode().strip() for process in processes}
        assert len(markers) == 8
        for marker in markers:
            run("tap-ctl", "free", "-m", re.findall(r"[0-9]+\Z", marker)[0])

    @only_stand_in
    def test_blktap_3(self, file: str) -> None:
        with blktap.version_3():
            tapdisk = opened(file)
            assert tapdisk.marker == f"/dev/xen/blktap-2/tapdev{tapdisk.minor}"
            assert os.path.exists(tapdisk.marker)
            assert tapdisk.ctl("free -m MINOR")[0] == 16
            ended(tapdisk)
        assert not os.path.exists(tapdisk.marker)


class TestProcess:
    def test_of_its_own(self) -> None:
        tapdisk = Tapdisk("")
        tapdisk.spawn(A_VARIABLE="mine")
        assert b"A_VARIABLE=mine" in Path(f"/proc/{tapdisk.pid}/environ").read_bytes().split(b"\0")
        assert os.getsid(tapdisk.pid) == tapdisk.pid
        wait_until(tapdisk.is_there, "the process", 10)
        ended(tapdisk)

    @only_stand_in
    def test_it_has_no_socket_at_first(self) -> None:
        tapdisk = Tapdisk("")
        with blktap.faults({"command": "spawn", "late": 3, "times": 1}):
            tapdisk.spawn()
        assert tapdisk.ctl("attach WHO")[0] == 2
        tapdisk.attach()
        ended(tapdisk)

    def test_it_lives_without_an_image(self) -> None:
        tapdisk = allocated("")
        time.sleep(1)
        assert tapdisk.rows() == ["pid=PID", "minor=MINOR"]
        ended(tapdisk)

    def test_it_ends_with_its_last_image(self, bench: Bench) -> None:
        tapdisk, other = opened(bench.disk(SIZE)), Tapdisk(bench.disk(SIZE))
        other.pid = tapdisk.pid
        other.attach()
        other.open()
        assert sorted(blktap.serving()) == [tapdisk.pid]
        tapdisk.does("close WHO")
        tapdisk.does("detach WHO")
        assert other.rows() == ["pid=PID minor=MINOR state=0 args=aio:PATH"]
        with other.connect(Path(other.path).name) as client:
            assert client.size() == SIZE
        other.does("close WHO")
        other.does("detach WHO")
        blktap.wait_for_end(tapdisk.pid)
        assert tapdisk.files() == []
        for one in (tapdisk, other):
            assert os.path.exists(one.marker)
            one.does("free -m MINOR")

    def test_files_while_it_lives(self, file: str) -> None:
        tapdisk = opened(file)
        assert set(tapdisk.files()) == remains(tapdisk)
        tapdisk.does("close WHO")
        assert set(tapdisk.files()) == remains(tapdisk, "ctl", "nbdclient")
        ended(tapdisk)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_files_when_it_is_killed(self, file: str, number: int) -> None:
        tapdisk = opened(file)
        blktap.kill(tapdisk.pid, number)
        gone = {f"{kind}{tapdisk.pid}" for kind in ("ctl", "nbdclient")} if number == signal.SIGINT else set()
        assert set(tapdisk.files()) == remains(tapdisk) - gone
        assert tapdisk.rows() == ["minor=MINOR"]
        ended(tapdisk)

    def test_what_it_inherits(self, file: str) -> None:
        """It inherits descriptors as any child does; its own children get none of them."""
        reading, writing = os.pipe()
        tapdisk = Tapdisk(file)
        done = subprocess.run(["tap-ctl", "spawn"], stdout=subprocess.PIPE, pass_fds=[writing])
        os.close(writing)
        tapdisk.pid = int(done.stdout)
        tapdisk.attach()
        tapdisk.open()
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
        blktap.kill(tapdisk.pid)
        assert os.read(reading, 1) == b""
        os.close(reading)
        ended(tapdisk)


def remains(tapdisk: Tapdisk, *kinds: str) -> "set[str]":
    """The names of a tapdisk's sockets, and of its statistics."""
    of_process, of_image = ("ctl", "nbdclient"), ("nbd", "nbd-old", "nbdserver", "nbdserver-new")
    names = {f"td3-{tapdisk.pid}", *(f"{kind}{tapdisk.pid}" for kind in of_process)}
    return names if kinds else names | {f"{kind}{tapdisk.pid}.{tapdisk.minor}" for kind in of_image}


class TestData:
    def test_both_ways(self, disk: str) -> None:
        tapdisk = opened(disk)
        written = noise(1, MIB)
        with tapdisk.connect() as client:
            assert client.size() == SIZE
            client.write(512, written)
            assert client.read(512, MIB) == written
        assert device(disk, 512, MIB) == written
        zvol.write(f"tank/{EXPORT}", 4 * MIB, written)
        with tapdisk.connect() as client:
            assert client.read(4 * MIB, MIB) == written
        ended(tapdisk)
        assert device(disk, 512, MIB) == written

    def test_what_was_answered_survives_a_kill(self, disk: str) -> None:
        tapdisk = opened(disk)
        written = noise(2, 4 * MIB)
        client = tapdisk.connect()
        client.write(0, written)
        blktap.kill(tapdisk.pid)
        with pytest.raises(blktap.Lost):
            client.read(0, 512)
        client.close()
        assert device(disk, 0, 4 * MIB) == written
        ended(tapdisk)

    def test_readonly(self, disk: str) -> None:
        run("zfs", "set", "readonly=on", f"tank/{EXPORT}")
        Udev.settle()
        tapdisk = attached(disk)
        assert tapdisk.ctl("open WHO -a aio:PATH")[0] == 30
        tapdisk.open("-R")
        with tapdisk.connect() as client:
            assert client.read(0, 512) == bytes(512)
            with pytest.raises(blktap.Lost):
                client.write(0, b"x" * 512)
        ended(tapdisk)
        assert device(disk, 0, 512) == bytes(512)

    def test_readonly_of_what_may_be_written(self, disk: str) -> None:
        tapdisk = attached(disk)
        tapdisk.open("-R")
        with tapdisk.connect() as client, pytest.raises(blktap.Lost):
            client.write(0, b"x" * 512)
        ended(tapdisk)
        assert device(disk, 0, 512) == bytes(512)

    def test_two_may_open_it(self, disk: str) -> None:
        """Only the driver protects a disk from two writers."""
        first, second = opened(disk), opened(disk)
        with first.connect() as one, second.connect() as other:
            one.write(0, b"x" * 512)
            assert other.read(0, 512) == b"x" * 512
        ended(first)
        ended(second)

    def test_the_device_is_free_after_close(self, disk: str) -> None:
        tapdisk = opened(disk)
        run("zfs", "set", "volmode=none", f"tank/{EXPORT}")
        assert os.path.exists(disk)
        tapdisk.does("close WHO")
        wait_until(lambda: is_hidden(disk), "the node to vanish", 10)
        ended(tapdisk)

    def test_closed_under_a_client(self, disk: str) -> None:
        """The client learns nothing until the process ends; the device is free before."""
        tapdisk = opened(disk)
        client = tapdisk.connect()
        client.write(0, b"x" * 512)
        tapdisk.does("close WHO")
        assert not os.path.exists(tapdisk.socket("nbd"))
        wait_until(lambda: is_hidden(disk), "the node to vanish", 10)
        assert not client.answers(1)
        tapdisk.does("detach WHO")
        blktap.wait_for_end(tapdisk.pid)
        with pytest.raises(blktap.Lost):
            client.answers(5)
        client.close()
        run("zfs", "set", "volmode=dev", f"tank/{EXPORT}")
        assert device(zvol.node(f"tank/{EXPORT}"), 0, 512) == b"x" * 512
        ended(tapdisk)

    def test_an_ordinary_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a, file=1.raw"
        path.write_bytes(noise(3, MIB))
        tapdisk = attached(str(path))
        assert blktap.tap_ctl("open", "-p", tapdisk.pid, "-m", tapdisk.minor, "-a", f"aio:{path}")[0] == 0
        assert blktap.serving() == {tapdisk.pid: str(path)}
        with tapdisk.connect(path.name) as client:
            assert client.read(0, MIB) == noise(3, MIB)
        ended(tapdisk)


def device(path: str, offset: int, length: int) -> bytes:
    """The device's content, as another process sees it."""
    with open(path, "rb", buffering=0) as opened_file:
        opened_file.seek(offset)
        return opened_file.read(length)


def is_hidden(path: str) -> bool:
    """Whether the node is gone; udev may have it open when it should go."""
    run("zfs", "set", "volmode=none", f"tank/{EXPORT}")
    return not os.path.exists(path)


@only_stand_in
class TestFaults:
    def test_so_many_times(self, file: str) -> None:
        tapdisk = attached(file)
        began = len(blktap.log())
        with blktap.faults({"command": "open", "status": 16, "times": 2}, {"command": "free", "status": 1}):
            statuses = [tapdisk.ctl("open WHO -a aio:PATH")[0] for _ in range(3)]
            assert statuses == [16, 16, 0]
            assert tapdisk.ctl("free -m MINOR")[0] == 1
        assert tapdisk.ctl("free -m MINOR")[0] == 11
        logged = [(entry["argv"][0], entry["rc"]) for entry in blktap.log()[began:]]
        assert logged == [("open", 16), ("open", 16), ("open", 0), ("free", 1), ("free", 11)]
        assert blktap.log()[began]["argv"] == [
            "open", "-p", str(tapdisk.pid), "-m", str(tapdisk.minor), "-a", f"aio:{file}"
        ]  # fmt: skip
        ended(tapdisk)

    def test_what_an_exit_status_cannot_tell(self, file: str) -> None:
        """ERESTARTSYS is 512."""
        tapdisk = attached(file)
        with blktap.faults({"command": "open", "status": 512, "times": 1}):
            assert tapdisk.ctl("open WHO -a aio:PATH")[0] == 0
        assert tapdisk.rows() == ["pid=PID minor=MINOR state=0"]
        ended(tapdisk)

    def test_it_is_done_and_fails(self, file: str) -> None:
        tapdisk = attached(file)
        with blktap.faults({"command": "open", "status": 5, "after": True, "times": 1}):
            assert tapdisk.ctl("open WHO -a aio:PATH")[0] == 5
        assert tapdisk.rows() == ["pid=PID minor=MINOR state=0 args=aio:PATH"]
        ended(tapdisk)

    def test_spawn_fails(self) -> None:
        with blktap.faults({"command": "spawn", "status": 1, "times": 1}):
            assert blktap.tap_ctl("spawn") == (1, "")

    def test_spawn_succeeds_and_it_dies(self) -> None:
        tapdisk = Tapdisk("")
        with blktap.faults({"command": "spawn", "dies": True, "times": 1}):
            tapdisk.spawn()
        blktap.wait_for_end(tapdisk.pid)
        assert tapdisk.ctl("attach WHO")[0] == 2
        assert tapdisk.files() == []
        ended(tapdisk)

    def test_close_hangs(self, file: str) -> None:
        """It hangs before it takes effect; if it is killed, it never does."""
        tapdisk = opened(file)
        with blktap.faults({"command": "close", "hang": 1, "times": 1}):
            began = time.monotonic()
            tapdisk.does("close WHO")
            assert time.monotonic() - began > 1
        ended(tapdisk)

    @pytest.mark.parametrize("waits", [True, False], ids=["somebody waits", "nobody waits"])
    def test_close_hangs_until_it_is_asked_something(self, file: str, *, waits: bool) -> None:
        tapdisk = opened(file)
        with blktap.faults({"command": "close", "hang-until-poked": True, "times": 1}):
            process = subprocess.Popen(["tap-ctl", "close", "-p", str(tapdisk.pid), "-m", str(tapdisk.minor)])
            wait_until(lambda: blktap.faults_left() == 0, "the close", 60)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            if not waits:
                process.kill()
            # The device that it had open at that moment.
            assert tapdisk.rows() == ["pid=PID minor=MINOR state=0 args=aio:PATH"]
            assert process.wait(60) == (0 if waits else -signal.SIGKILL)
        wait_until(lambda: tapdisk.rows() == ["pid=PID minor=MINOR state=0x2"], "the close", 60)
        ended(tapdisk)

    def test_it_lingers(self, file: str) -> None:
        """It answers and has no image."""
        tapdisk = closed(file)
        with blktap.faults({"command": "detach", "lingers": 60, "times": 1}):
            tapdisk.does("detach WHO")
        time.sleep(0.5)
        assert tapdisk.rows() == ["pid=PID", "minor=MINOR"]
        ended(tapdisk)

    def test_it_is_stopped(self, file: str) -> None:
        tapdisk = opened(file)
        blktap.kill(tapdisk.pid, signal.SIGSTOP)
        process = subprocess.Popen(["tap-ctl", "list", "-p", str(tapdisk.pid)], stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        blktap.kill(tapdisk.pid, signal.SIGCONT)
        assert process.wait(5) == 0
        ended(tapdisk)


@only_stand_in
def test_domains() -> None:
    """It lists dom0 and the existing domains, or fails if nobody knows them."""

    def listed() -> "tuple[int, list[str], bool]":
        done = subprocess.run(
            ["xenstore-list", "/local/domain"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        return done.returncode, done.stdout.split(), bool(done.stderr)

    assert listed() == (1, [], True)
    with blktap.domains("7"):
        assert listed() == (0, ["0", "7"], False)
        with blktap.domains("8", "9"):
            assert listed() == (0, ["0", "8", "9"], False)
        assert listed() == (0, ["0", "7"], False)
    assert listed() == (1, [], True)
