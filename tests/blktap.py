# SPDX-License-Identifier: LGPL-2.1-only
"""tap-ctl and tapdisk for tests: the genuine ones if installed, else the stand-ins of tests/fakes.

`faults` makes the stand-in fail. A fault is a dictionary: its `command`, how many `times` (without: always), and what
goes wrong:

  status             the exit status; the command does nothing
  hang               seconds before it begins
  after: True        with the two above: it does its work first
  dies: True         spawn: the process ends before it has a socket
  late               spawn: seconds until it has a socket
  lingers            detach: seconds that the process stays after the last detach
  mute: True         list: tapdisks answer late; tap-ctl then lists a tapdisk as one without images
  hang-until-poked   close: hangs until the next `list`

For a tapdisk that answers nothing at all, send it SIGSTOP.
"""

from contextlib import contextmanager
import fcntl
from importlib import import_module
import json
import os
from pathlib import Path
import re
import shutil
import signal as signals
import subprocess
import time
from typing import Any, Iterator

from zfsvol.host import files, process

CONTROL = Path("/run/blktap-control")
MARKERS = CONTROL / "tapdisk"
DEVICES = Path("/dev/xen/blktap-2")
SHARED_MEMORY = Path("/dev/shm")
OWN = Path("/run/fake-blktap")

_DOMAINS = Path("/run/fake-xen/domains")
_STORE = Path("/run/fake-xen/store")
_READS = Path("/run/fake-xen/reads")
_FAKES = Path(__file__).resolve().parent / "fakes"
_STAND_INS = {
    "tap-ctl": _FAKES / "blktap" / "tap-ctl",
    "xenstore-list": _FAKES / "xen" / "xenstore-list",
    "xenstore-read": _FAKES / "xen" / "xenstore-read",
}
_PLACES = (Path("/usr/sbin"), Path("/usr/bin"))
_LIMIT = 30


def _is_stand_in(path: Path) -> bool:
    # Of any checkout.
    return path.resolve().parts[-4:] == _STAND_INS[path.name].parts[-4:]


def _genuine(name: str) -> "Path | None":
    paths = [place / name for place in _PLACES]
    return next((path for path in paths if path.exists() and not _is_stand_in(path)), None)


GENUINE: bool = _genuine("tap-ctl") is not None

# What existed before the tests, on a host with other tapdisks.
_others: "set[str]" = set()


def install() -> None:
    """Installs stand-ins for the programs that the machine lacks."""
    for name, stand_in in _STAND_INS.items():
        link = _PLACES[0] / name
        if _genuine(name) is None:
            if link.is_symlink():
                link.unlink()
            link.symlink_to(stand_in)
    if GENUINE:
        _others.update(_found())


def uninstall() -> None:
    """Removes them."""
    for name in _STAND_INS:
        link = _PLACES[0] / name
        if link.is_symlink() and _is_stand_in(link):
            link.unlink()
    _set_domains(None)


def which() -> str:
    """A description of the tap-ctl in use."""
    genuine = _genuine("tap-ctl")
    return f"tap-ctl: the genuine {genuine}" if genuine else "tap-ctl: a stand-in (tests/fakes/blktap)"


def tap_ctl(*words: object, **variables: str) -> "tuple[int, str]":
    """Runs one command with these variables in its environment; returns its status and standard output."""
    done = subprocess.run(
        ["tap-ctl", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **variables},
        universal_newlines=True,
        timeout=_LIMIT,
    )
    return done.returncode, done.stdout


# --- the stand-in's faults and log


def _set_faults(faults: "list[dict[str, Any]]") -> None:
    OWN.mkdir(exist_ok=True)
    with (OWN / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if faults:
            (OWN / "faults.json").write_text(json.dumps(faults))
        elif (OWN / "faults.json").exists():
            (OWN / "faults.json").unlink()


@contextmanager
def faults(*dicts: "dict[str, Any]") -> "Iterator[None]":
    """Makes commands of the stand-in fail, within a `with`."""
    _set_faults(list(dicts))
    try:
        yield
    finally:
        _set_faults([])


def faults_left() -> int:
    """How often commands will still fail."""
    return sum(int(fault["times"]) for fault in json.loads((OWN / "faults.json").read_text()))


def log() -> "list[dict[str, Any]]":
    """The commands that have ended, as dictionaries of `argv` and `rc`."""
    path = OWN / "log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def version_3() -> "Iterator[None]":
    """Makes the stand-in allocate minors as blktap 3 does."""
    OWN.mkdir(exist_ok=True)
    (OWN / "major").write_text("3")
    try:
        yield
    finally:
        (OWN / "major").unlink()


# --- Xen's domains, for the stand-in of xenstore-list


class domains:  # noqa: N801 - a function that can be undone
    """From now on Xen has exactly these domains; as a context manager, until its end.

    Before the first use it seems that no xenstored runs.
    """

    def __init__(self, *ids: str) -> None:
        self._before = {path.name for path in _DOMAINS.iterdir()} if _DOMAINS.exists() else None
        _set_domains(set(ids))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        _set_domains(self._before)


def _set_domains(ids: "set[str] | None") -> None:
    if _DOMAINS.exists():
        shutil.rmtree(str(_DOMAINS))
    if ids is not None:
        _DOMAINS.mkdir(parents=True)
        for one in ids:
            (_DOMAINS / one).touch()


class xenstore:  # noqa: N801 - a function that can be undone
    """Within a `with`, xenstore has these values by path, and nothing else but domains."""

    def __init__(self, values: "dict[str, str]") -> None:
        self._values = values

    def __enter__(self) -> None:
        self.__exit__()
        for path, value in self._values.items():
            file = Path(f"{_STORE}{path}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(str(_STORE), ignore_errors=True)
        if _READS.exists():
            _READS.unlink()


def xenstore_reads() -> int:
    """How often the stand-in of xenstore-read was started within this `with`."""
    return len(_READS.read_text().splitlines()) if _READS.exists() else 0


# --- processes and what they leave


# Threads of the kernel, which has a hundred of them for pools, that earlier calls have met.
_kernel: "set[str]" = set()


def _processes() -> "list[tuple[int, int, str]]":
    """The pid, parent and name of every process that has not ended."""
    found = []
    for pid in process.pids():
        if pid in _kernel:
            continue
        try:
            stat = files.text(f"/proc/{pid}/stat")
        except OSError:
            continue
        # Names may contain anything, but these do not.
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        state, parent = stat[stat.rindex(")") + 1 :].split()[:2]
        if parent == "2":
            _kernel.add(pid)
        elif state not in "ZX":
            found.append((int(pid), int(parent), name))
    return found


def tapdisks() -> "list[int]":
    """The pids of all tapdisks."""
    return [pid for pid, _, name in _processes() if name == "tapdisk"]


def serving() -> "dict[int, str]":
    """The paths that tapdisks have open, by the tapdisks' pids."""
    found = re.findall(r"^pid=(\d+) minor=\d+ state=\S+ args=aio:(.*)$", tap_ctl("list")[1], re.MULTILINE)
    return {int(pid): path for pid, path in found}


def _found() -> "list[str]":
    paths = [path for path in CONTROL.rglob("*") if path.is_symlink() or not path.is_dir()]
    paths += [*SHARED_MEMORY.glob("td3-*"), *DEVICES.glob("tapdev*")]
    running = [f"{name} {pid}" for pid, _, name in _processes() if name in ("tapdisk", "qemu-nbd")]
    return [*sorted(map(str, paths)), *running]


def leftovers() -> "list[str]":
    """Files and processes of tapdisks; none if everything is detached."""
    owners = set(tapdisks())
    # The NBD server of a killed tapdisk ends a moment later.
    servers = [pid for pid, parent, name in _processes() if name == "qemu-nbd" and parent not in owners]
    wait_for_end(*(pid for pid in servers if f"qemu-nbd {pid}" not in _others))
    return [thing for thing in _found() if thing not in _others]


def kill(pid: int, signal: int = signals.SIGKILL) -> None:
    """Sends a tapdisk a signal. If that ends it, waits until it and its NBD servers have ended."""
    servers = [child for child, parent, _ in _processes() if parent == pid]
    os.kill(pid, signal)
    if signal in (signals.SIGSTOP, signals.SIGCONT):
        for server in servers:
            os.kill(server, signal)
    else:
        wait_for_end(pid, *servers)


def wait_for_end(*pids: int) -> None:
    """Waits, with a limit, until these processes have ended."""
    end = time.monotonic() + _LIMIT
    while {pid for pid, _, _ in _processes()} & set(pids):
        assert time.monotonic() < end, f"{pids} have not ended"
        time.sleep(0.01)


def sweep() -> None:
    """Removes the stand-in's leftovers after a failed test."""
    _set_faults([])
    if GENUINE:
        return
    for pid in tapdisks():
        kill(pid)
    for thing in _found():
        path = Path(thing)
        if path.is_dir():
            shutil.rmtree(thing)
        elif path.is_symlink() or path.exists():
            path.unlink()


# --- a client


class Lost(OSError):
    """There is no NBD server, or not any more, or it refuses a request."""


class Client:
    """A client of a tapdisk's NBD server; offsets and lengths are multiples of 512. Raises Lost."""

    def __init__(self, path: str, export: str) -> None:
        # Not every machine has the module, and it has no types.
        self._library: Any = import_module("nbd")
        self._handle = self._library.NBD()
        self._call("set_export_name", export)
        self._call("connect_unix", path)

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._handle, name)(*arguments)
        except self._library.Error as error:
            raise Lost(str(error)) from None

    def size(self) -> int:
        """The size in bytes."""
        return int(self._call("get_size"))

    def read(self, offset: int, length: int) -> bytes:
        """Reads bytes."""
        return bytes(self._call("pread", length, offset))

    def write(self, offset: int, data: bytes) -> None:
        """Writes without a flush, which tapdisk does not offer."""
        self._call("pwrite", data, offset)

    def answers(self, limit: float) -> bool:
        """Whether a read is answered within this many seconds. If not, later requests wait behind it."""
        cookie = self._call("aio_pread", self._library.Buffer(512), 0)
        end = time.monotonic() + limit
        while not self._call("aio_command_completed", cookie):
            left = int((end - time.monotonic()) * 1000)
            if left <= 0 or self._call("poll", left) == 0:
                return False
        return True

    def close(self) -> None:
        """Ends the connection without a disconnect request: tapdisk answers one with a new greeting, others hang up."""
        self._handle = None

    def __enter__(self) -> "Client":  # noqa: PYI034 - Python 3.6 has no Self
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(uri: str) -> Client:
    """A client of the server that Datapath.attach returned; may be used as a context manager."""
    found = re.match(r"nbd:unix:([^:]+):exportname=([^:]+)\Z", uri)
    assert found, uri
    return Client(found.group(1), found.group(2))
