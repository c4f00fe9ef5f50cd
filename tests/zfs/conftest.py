# SPDX-License-Identifier: LGPL-2.1-only
"""Disks, faults and SRs for the tests that run on genuine OpenZFS, in the lab or on a host that has it.

Disks are loop devices on sparse files, so the same tests run wherever ZFS does. No test leaves a pool, loop device or
device-mapper target behind.
"""

from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import subprocess
import time
from typing import Any, Callable, Iterator

import pytest

from tests import blktap, client
from zfsvol.repository import sr as srs

MIB = 1 << 20
GIB = 1 << 30


def pytest_report_header() -> str:
    """Names the tap-ctl in use."""
    return blktap.which()


@pytest.fixture(scope="session", autouse=True)
def tap_ctl() -> "Iterator[None]":
    """Makes tap-ctl, the genuine one or its stand-in, available to the driver."""
    blktap.install()
    yield
    blktap.uninstall()


def run(*argv: str, check: bool = True, stdin: str = "") -> str:
    """Runs a command as an administrator would; returns its stdout."""
    done = subprocess.run(
        argv, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=120
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def state_of(pool: str) -> str:
    """The pool's state in the kernel; "" if it is not imported."""
    path = Path("/proc/spl/kstat/zfs") / pool / "state"
    return path.read_text().strip() if path.exists() else ""


@contextmanager
def device_node(zvol: str) -> "Iterator[str]":
    """Gives an idle zvol a device node within the `with`, as an attach does; yields the node's path."""
    run("zfs", "set", "volmode=dev", zvol)
    node = f"/dev/zvol/{zvol}"
    # The kernel makes the device a moment later, and udev has nothing to settle until then.
    wait_until(lambda: os.path.exists(node), node)
    Udev.settle()
    yield node

    def is_hidden() -> bool:
        # ZFS leaves the device, without an error, while udev or blkid have it open.
        run("zfs", "inherit", "volmode", zvol)
        return not os.path.exists(node)

    wait_until(is_hidden, f"{node} to go")
    Udev.settle()


def wait_until(condition: "Callable[[], object]", what: str, limit: float = 60) -> None:
    """Polls until the condition is true; fails after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"waited {limit} s for {what}"
        time.sleep(0.05)


class Disk:
    """A disk of the host that can be made to fail: a device that the driver takes for multipath, on a loop device."""

    def __init__(self, loop: str) -> None:
        self.loop = loop
        self.name = name = f"zfsvoltest-{os.path.basename(loop)}"
        self.sectors = int(Path(f"/sys/class/block/{os.path.basename(loop)}/size").read_text())
        table = f"0 {self.sectors} linear {loop} 0"
        run("dmsetup", "create", "--noudevsync", name, "--uuid", f"mpath-{name}", "--table", table)
        (made,) = [path for path in Path("/sys/block").glob("dm-*/dm/name") if path.read_text().strip() == name]
        self.path = f"/dev/{made.parent.parent.name}"
        self.is_well = True
        wait_until(lambda: os.path.exists(self.path), self.path)
        Udev.settle()

    def _load(self, table: str) -> None:
        self.is_well = False
        run("dmsetup", "suspend", "--noflush", "--nolockfs", self.name)
        run("dmsetup", "load", self.name, "--table", table)
        run("dmsetup", "resume", "--noudevsync", self.name)

    def fail(self) -> None:
        """Makes every read and write fail from now on."""
        self._load(f"0 {self.sectors} error")

    def be_flaky(self, good: int, bad: int) -> None:
        """Makes it work for so many seconds, then fail for so many, then work again, from now on."""
        self._load(f"0 {self.sectors} flakey {self.loop} 0 {good} {bad}")

    def be_slow(self, milliseconds: int) -> None:
        """Makes every read and write take so much longer from now on."""
        self._load(f"0 {self.sectors} delay {self.loop} 0 {milliseconds}")

    def hang(self) -> None:
        """Makes every read and write hang from now on, without an error."""
        self.is_well = False
        run("dmsetup", "suspend", "--noflush", "--nolockfs", self.name)

    def mend(self) -> None:
        """Makes it work again, with its old content."""
        if not self.is_well:
            self._load(f"0 {self.sectors} linear {self.loop} 0")
            self.is_well = True

    def remove(self) -> None:
        """Removes it from the host; its content stays."""
        wait_for("dmsetup", "remove", "--noudevsync", self.name)


class Bench:
    """Provides a test with disks, and cleans up after it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loops: "list[str]" = []
        self.there: "list[Disk]" = []
        self.mine = set(pools())  # imported before the test: left alone

    def disk(self, size: int = GIB) -> str:
        """A new empty disk of `size` bytes."""
        return self.faulty_disk(size).path

    def take_away(self, path: str) -> None:
        """Removes a disk from the host."""
        (disk,) = [disk for disk in self.there if disk.path == os.path.realpath(path)]
        self.there.remove(disk)
        disk.remove()

    def loop(self, size: int = GIB) -> str:
        """A new empty loop device of `size` bytes; the driver does not take it for a disk of the host."""
        path = self.directory / f"disk{len(self.loops)}"
        with path.open("wb") as file:
            file.truncate(size)
        loop = run("losetup", "--find", "--show", str(path)).strip()
        self.loops.append(loop)
        return loop

    def disks(self, number: int, size: int = GIB) -> "list[str]":
        """Several new disks."""
        return [self.disk(size) for _ in range(number)]

    def faulty_disk(self, size: int = GIB) -> Disk:
        """A new disk that can be made to fail."""
        disk = Disk(self.loop(size))
        self.there.append(disk)
        return disk

    def sr(self, **configuration: str) -> str:
        """A new SR, attached. Unless device-config names a place, it is on a new disk.

        It has no autotrim, whose thread delays each export and destruction of a pool by a second.
        """
        if not {"device", "vdev", "zpool"} & set(configuration):
            configuration["device"] = self.disk()
        if "zpool" not in configuration:
            configuration.setdefault("autotrim", "off")
        answer = client.call_inside(
            "SR.create", uuid=client.new_uuid(), configuration=configuration, name="sr", description=""
        )
        return str(client.call_inside("SR.attach", configuration=answer))

    def pool(self, *vdevs: str, name: str = "tank") -> str:
        """A pool like an administrator's."""
        run("zpool", "create", "-f", "-o", "cachefile=none", "-m", "none", name, *(vdevs or (self.disk(),)))
        return name

    NOWHERE = ("-R", "/run/zfsvol-guest", "-m", "none")

    def write_pool(self, node: str, name: str, sr_uuid: str, *options: str) -> None:
        """Writes a pool with an SR, of any name and uuid, to a disk, as a guest can. The disk has at most 128 MiB."""
        image = self.loop(128 * MIB)
        run("zpool", "create", "-f", "-t", f"guest{os.getpid()}", *self.NOWHERE, *options, name, image)
        if name != f"sr-{sr_uuid}":
            run("zfs", "create", "-o", f"zfsvol:sr-uuid={sr_uuid}", f"guest{os.getpid()}/sr-{sr_uuid}")
        run("zpool", "export", f"guest{os.getpid()}")
        run("dd", f"if={image}", f"of={node}", "bs=1M", "conv=fsync,sparse", "status=none")
        run("losetup", "--detach", image)
        self.loops.remove(image)
        Udev.settle()
        assert f"pool: {name}" in run("zpool", "import", "-d", node)

    def close(self) -> None:
        """Removes everything that the test made."""
        for disk in self.there:
            disk.mend()
        for pool in set(pools()) - self.mine:
            if state_of(pool) == "SUSPENDED":
                run("zpool", "clear", pool, check=False)
            wait_for("zpool", "destroy", "-f", pool)
            shutil.rmtree(os.path.join(srs.DIRECTORY, pool), ignore_errors=True)  # of SRs that were not detached
        for disk in self.there:
            disk.remove()
        for loop in self.loops:
            run("losetup", "--detach", loop)


def wait_for(*argv: str) -> None:
    """Repeats a command until it succeeds: its target may be busy for a moment after use."""
    wait_until(lambda: run_status(*argv) == 0, " ".join(argv))


class Udev:
    """The host's udev."""

    _stopped = False

    @classmethod
    def stop(cls) -> None:
        """Has it keep events for later."""
        cls.settle()
        cls._stopped = True
        cls._control("--stop-exec-queue", lambda: not cls._handles_events(0.3))

    @classmethod
    def start(cls) -> None:
        """Has it handle events again, those first that it has kept: there may be hundreds."""
        cls._control("--start-exec-queue", lambda: cls._handles_events(2))
        cls._stopped = False

    @classmethod
    @contextmanager
    def stopped(cls) -> "Iterator[None]":
        """Inside the `with` it keeps events for later."""
        cls.stop()
        try:
            yield
        finally:
            cls.start()

    @classmethod
    def settle(cls) -> None:
        """Returns when it has handled all events so far; at once while it is stopped."""
        if not cls._stopped:
            cls._udevadm("settle")

    @classmethod
    def _control(cls, option: str, is_done: "Callable[[], bool]") -> None:
        # Until it shows, since udevd loses, without an error, a message that comes between its accept of the connection
        # and its request for the sender's credentials. On a busy machine one of a hundred starts was lost.
        def told() -> bool:
            cls._udevadm("control", option)
            return is_done()

        wait_until(told, f"udevadm control {option}")

    @classmethod
    def _handles_events(cls, limit: float) -> bool:
        """Whether it handles a new event, and all that it has, within `limit` seconds."""
        Path("/sys/class/mem/null/uevent").write_text("change")
        end = time.monotonic() + limit
        time.sleep(limit / 10)  # until udevd knows of the event
        while os.path.exists("/run/udev/queue"):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    @staticmethod
    def _udevadm(*arguments: str) -> None:
        # Again if udevd drops the connection ("Broken pipe": seen, but rare).
        wait_for("udevadm", *arguments)


def run_status(*argv: str) -> int:
    """Runs a command that may fail; returns its exit status."""
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120).returncode


def pools() -> "list[str]":
    """The imported pools."""
    return run("zpool", "list", "-H", "-o", "name").splitlines()


@pytest.fixture(scope="module")
def without_udev() -> "Iterator[None]":
    """Stops udev, which would open the nodes of many short-lived zvols and keep them busy."""
    with Udev.stopped():
        yield


@pytest.fixture
def bench(tmp_path: Path) -> "Iterator[Bench]":
    """Disks, pools and SRs for one test."""
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def sr(bench: Bench) -> str:
    """An attached SR on one disk."""
    return bench.sr()


@pytest.fixture(scope="module")
def shared_sr(tmp_path_factory: "pytest.TempPathFactory") -> "Iterator[str]":
    """An SR for all tests of a module that need nothing special."""
    made = Bench(tmp_path_factory.mktemp("sr"))
    yield made.sr()
    made.close()


@pytest.fixture
def emptied_sr(shared_sr: str) -> "Iterator[str]":
    """The same, emptied after each test."""
    yield shared_sr
    for name in run("zfs", "list", "-H", "-o", "name", "-t", "volume", "-r", shared_sr).splitlines():
        wait_for("zfs", "destroy", "-R", name)


@pytest.fixture
def disk(shared_sr: str) -> "Any":
    """A VDI in it, as a tests.zfs.disk.Disk."""
    from tests.zfs.disk import new_disk

    return new_disk(shared_sr)


@pytest.fixture
def nothing_left() -> "Iterator[None]":
    """Checks that the test leaves no process, socket, node, link or record."""
    from tests.zfs.disk import clear, left

    yield
    try:
        assert left() == []
    finally:
        clear()


@pytest.fixture
def new_volume(sr: str) -> "Callable[..., dict[str, Any]]":
    """Makes volumes in `sr`."""

    def make(size: int = 10 * GIB, name: str = "disk", description: str = "") -> "dict[str, Any]":
        answer = client.call("Volume.create", sr=sr, name=name, description=description, size=size, sharable=False)
        assert isinstance(answer, dict)
        return answer

    return make
