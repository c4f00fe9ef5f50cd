# SPDX-License-Identifier: LGPL-2.1-only
"""tapdisk, which serves a zvol to a guest's ring and over NBD: every command line of tap-ctl, and its pitfalls.

The state of a tapdisk is a dictionary in the VDI's record. It is saved before the next step begins:

  token, device, readonly   from the beginning; the token is in the process's environment, so the process can be found
                            even if its starter was killed, and is never taken for another
  minor, marker, inode      once the minor is allocated: its number, its file, and the file's inode
  pid                       once the process runs

The driver never touches a minor or process that is not in the record. It never pauses a tapdisk (that can hang) and
never uses one for a second image. Facts: blktap 3.55 and 4.0, measured; error codes are exit statuses.
"""

import errno
import os
import re
import time

from zfsvol import log
from zfsvol.errors import TapdiskFailed
from zfsvol.host import command, files, process
from zfsvol.host.command import CommandFailed, CommandTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable

    State = dict[str, Any]

CONTROL = "/run/blktap-control"
_CONNECTED = "03"  # in /proc/net/unix (SS_CONNECTED of linux/net.h)
_CGCLASSIFY = "/usr/bin/cgclassify"
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - tapdisk's statistics are there
VARIABLE = "ZFSVOL_TAPDISK"

# Seconds. tap-ctl's own limit is 10 for most answers; for some it waits for ever.
_LIMIT = 30
_CLOSE_LIMIT = 40
_START_LIMIT = 30
_EXIT_LIMIT = 10
_LISTEN_LIMIT = 1
_KILL_LIMIT = 5
_POLL = 0.005
_SPAWN_TRIES = 5

# tap-ctl's status if there is no tapdisk, no longer or not yet.
_NOBODY = (errno.ENOENT, errno.ECONNREFUSED)
# The status of `free` while a process still holds the minor: blktap 4 (flock) and 3 (its kernel module).
_HELD = (errno.EAGAIN, errno.EBUSY)
# Opening a zvol may fail so while something looks at its node, or while other zvols come and go.
_OPEN_AGAIN = (errno.ENOENT, errno.EBUSY, errno.ENXIO, errno.EINTR)

_ROW = re.compile(r"pid=(\d+) minor=(\d+) state=(\S+)(?: args=aio:(.*))?\Z")


def new(device: str, *, readonly: bool) -> "State":
    """The state of a tapdisk before `start`."""
    return {"token": os.urandom(16).hex(), "device": device, "readonly": readonly}


class Tapdisk:
    """A tapdisk, by its state. `output`: a file for tap-ctl's output; `held`: locks that tap-ctl inherits."""

    def __init__(self, state: "State", output: str, held: "Sequence[int]" = ()) -> None:
        self.state = state
        self._output = output
        self._held = held

    def socket(self) -> str:
        """The Unix socket of its NBD server. tapback finds the process by it, too."""
        return "{}/nbd{}.{}".format(CONTROL, self.state["pid"], self.state["minor"])

    def start(self, save: "Callable[[], None]") -> None:
        """Starts a tapdisk and lets it open the device; `save` saves the state.

        Raises TapdiskFailed, CommandTimeout. Then `stop` undoes the steps taken, as it does after a crash.
        """
        device = self.state["device"]
        marker = self._run(["allocate"], output=self._output).strip()
        self.state.update(minor=_minor(marker), marker=marker, inode=_inode(marker))
        save()
        self.state["pid"] = self._spawn()
        save()
        os.unlink(self._output)
        self._classify()
        self._attach()
        opening = ["open", *self._who(), "-a", f"aio:{device}", *(["-R"] if self.state["readonly"] else [])]
        end = time.monotonic() + _START_LIMIT
        while True:
            status, said = self._try(opening)
            # The answer proves nothing (the kernel's 512 looks like 0): look whether the device is open.
            row = self._row()
            if row == (self.state["minor"], device):
                return
            if row is None:
                raise TapdiskFailed(f"tapdisk ended while it opened {device}. /var/log/daemon.log may say why.")
            if status not in (0, *_OPEN_AGAIN) or time.monotonic() > end:
                raise TapdiskFailed(f"tapdisk cannot open {device}: {said or os.strerror(status)}.")
            time.sleep(0.1)

    def is_serving(self) -> bool:
        """Whether the tapdisk of the record runs and has the device open.

        Raises TapdiskFailed and CommandTimeout if it runs but does not answer.
        """
        return "pid" in self.state and self._is_alive() and self._row() == (self.state["minor"], self.state["device"])

    def has_clients(self) -> bool:
        """Whether anybody is connected to one of its NBD servers, but for those whose connections were handed to it.

        A connection that a server has accepted shows the server's path, in the words in which that was bound: releases
        of tapdisk differ in where the directory is.
        """
        server = re.compile(r".*/nbd(-old)?{}\.{}\Z".format(self.state["pid"], self.state["minor"]))
        rows = [line.split() for line in files.text("/proc/net/unix").splitlines()]
        return any(server.match(row[7]) for row in rows if len(row) == 8 and row[5] == _CONNECTED)

    def stop(self) -> None:
        """Closes the device, ends the process and removes its remains, however far the start had come. Idempotent.

        Raises TapdiskFailed and CommandTimeout if the process runs and cannot be made to close the device: then it may
        still write, and the record must stay.
        """
        if "minor" not in self.state:
            self._find_minor()
        if "pid" in self.state:
            if self._is_alive():
                self._close()
            _remove_sockets(self.state["pid"])
        else:
            self._kill_unattached()
        self._free()
        if os.path.exists(self._output):
            os.unlink(self._output)

    def _spawn(self) -> int:
        for _ in range(_SPAWN_TRIES):
            status, said = self._try(["spawn"], output=self._output, daemon={VARIABLE: self.state["token"]})
            if status == 0 and said.isdigit():
                return int(said)
            self._kill_unattached()
            if status != 1:  # by the experience of the storage manager's own drivers, 1 is transient
                break
        raise TapdiskFailed(f"tapdisk cannot be started: {said or f'status {status}'}.")

    def _classify(self) -> None:
        """Moves it to the control groups that the host's rules set for tapdisks, and so to their share of the CPUs.

        The storage manager does the same. A tapdisk works without it, too.
        """
        if os.path.exists(_CGCLASSIFY):
            try:
                command.run([_CGCLASSIFY, str(self.state["pid"])], _LIMIT)
            except (CommandFailed, CommandTimeout) as error:
                log.warning("tapdisk {}: {}".format(self.state["pid"], error))

    def _attach(self) -> None:
        # `spawn` prints the pid before the process listens, and even if it never will.
        end = time.monotonic() + _START_LIMIT
        while True:
            while not os.path.exists(self._control_socket()) and self._is_alive() and time.monotonic() < end:
                time.sleep(_POLL)
            status, said = self._try(["attach", *self._who()])
            if status == 0:
                return
            if not self._is_alive():
                raise TapdiskFailed(
                    "tapdisk ended right after its start. /var/log/daemon.log says why; known reasons are a limit on "
                    "locked memory (RLIMIT_MEMLOCK) and a lack of memory."
                )
            if status not in _NOBODY or time.monotonic() > end:
                raise TapdiskFailed(f"tapdisk cannot be attached: {said or os.strerror(status)}.")
            time.sleep(0.02)

    def _close(self) -> None:
        row = self._row()
        if row is not None:
            if row[1] not in ("", self.state["device"]):
                raise TapdiskFailed(
                    "The tapdisk {} has {} open at minor {} instead of {}: it is left alone.".format(
                        self.state["pid"], row[1], row[0], self.state["device"]
                    )
                )
            self._detach()
            if self._ends(_EXIT_LIMIT):
                return
        self._kill()

    def _detach(self) -> None:
        # Always both: a client of its NBD server would wait until the process ends. Either may hang until something
        # wakes the tapdisk; `_row` does.
        for limit in (_CLOSE_LIMIT, _LIMIT):
            try:
                self._try(["close", *self._who(), "-t", str(_LIMIT)], limit=limit)
                status, said = self._try(["detach", *self._who()])
            except CommandTimeout as error:
                status, said = errno.ETIMEDOUT, str(error)
            if status == 0 or not self._is_alive() or self._row() is None:
                return
        raise TapdiskFailed(
            "The tapdisk {} does not close {}: {}. The disk stays in use.".format(
                self.state["pid"], self.state["device"], said or os.strerror(status)
            )
        )

    def _kill(self) -> None:
        """Kills a process that has no image but stays. Raises TapdiskFailed if it has one: it may be about to write."""
        import signal  # for a tapdisk that does not end by itself

        if process.open_devices(str(self.state["pid"])):
            raise TapdiskFailed("The tapdisk {} does not close {}.".format(self.state["pid"], self.state["device"]))
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._is_alive():
                return
            log.warning("tapdisk {} serves nothing and does not end: signal {}".format(self.state["pid"], number))
            try:
                os.kill(self.state["pid"], number)
            except ProcessLookupError:
                pass
            if self._ends(_KILL_LIMIT):
                return
        raise TapdiskFailed("The tapdisk {} cannot be killed.".format(self.state["pid"]))

    def _kill_unattached(self) -> None:
        """Kills a tapdisk whose start a killed verb left unfinished. It has no minor yet: first its pid is recorded."""
        import signal  # for a tapdisk that does not end by itself

        end = time.monotonic() + _KILL_LIMIT
        killed: "set[int]" = set()
        while True:
            found = self._processes()
            killed.update(found)
            if not found:
                break
            if time.monotonic() > end:
                raise TapdiskFailed(f"The tapdisk {found[0]} cannot be killed.")
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.01)
        for pid in killed:
            _remove_sockets(pid)

    def _free(self) -> None:
        if "minor" not in self.state or _inode(self.state["marker"]) != self.state["inode"]:
            return  # it has been freed, and may be another's by now
        for _ in range(10):
            status, said = self._try(["free", "-m", str(self.state["minor"])])
            if status not in _HELD:
                break
            time.sleep(0.1)
        if status in _HELD:
            raise TapdiskFailed("An unknown process still holds the minor {}.".format(self.state["minor"]))
        if status not in (0, *_NOBODY):
            log.warning("minor {} is not free: {}".format(self.state["minor"], said or os.strerror(status)))

    def _find_minor(self) -> None:
        """Reads the answer of tap-ctl allocate that a killed verb did not save."""
        try:
            marker = files.text(self._output).strip()
        except FileNotFoundError:
            return
        if re.match(r"/\S*[0-9]\Z", marker) and _inode(marker) is not None:
            self.state.update(minor=_minor(marker), marker=marker, inode=_inode(marker))

    def _is_alive(self) -> bool:
        """Whether it runs. Waits while it is ending: until it has ended, its last writes may not be done."""
        pid = str(self.state["pid"])
        if _has_token(pid, self.state["token"]):
            return True
        end = time.monotonic() + _EXIT_LIMIT
        while process.is_ending(pid):
            if time.monotonic() > end:
                raise TapdiskFailed(
                    "The tapdisk {} of {} is ending and may still write.".format(pid, self.state["device"])
                )
            time.sleep(_POLL)
        return False

    def _ends(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self._is_alive():
            if time.monotonic() > end:
                return False
            time.sleep(_POLL)
        return True

    def _processes(self) -> "list[int]":
        """All processes with the token: several while a tapdisk starts."""
        return [int(pid) for pid in process.pids() if _has_token(pid, self.state["token"])]

    def _row(self) -> "tuple[int, str] | None":
        """The tapdisk's minor and the path that it has open, "" for none; None if it does not have our minor.

        Raises TapdiskFailed and CommandTimeout if it runs but does not answer.
        """
        end = time.monotonic() + _LISTEN_LIMIT
        lines = self._listed()
        # tap-ctl lists each tapdisk that answers, if only its pid. One without a socket never got a command.
        while not lines and self._is_alive() and os.path.exists(self._control_socket()):
            if time.monotonic() > end:
                raise self._mute()
            time.sleep(0.02)  # it may be about to listen
            lines = self._listed()
        for line in lines:
            found = _ROW.match(line)
            if found and (int(found.group(1)), int(found.group(2))) == (self.state["pid"], self.state["minor"]):
                return self.state["minor"], found.group(4) or ""
        if process.open_devices(str(self.state["pid"])):
            # tap-ctl asks twice. If the second answer is late it lists the process alone, like one without an image.
            raise self._mute()
        return None

    def _listed(self) -> "list[str]":
        return self._run(["list", "-p", str(self.state["pid"])]).splitlines()

    def _mute(self) -> TapdiskFailed:
        return TapdiskFailed("The tapdisk {} of {} does not answer.".format(self.state["pid"], self.state["device"]))

    def _control_socket(self) -> str:
        return "{}/ctl{}".format(CONTROL, self.state["pid"])

    def _who(self) -> "list[str]":
        return ["-p", str(self.state["pid"]), "-m", str(self.state["minor"])]

    def _run(self, words: "list[str]", **how: "Any") -> str:
        status, said = self._try(words, **how)
        if status:
            raise TapdiskFailed("tap-ctl {} failed: {}.".format(" ".join(words), said or os.strerror(status)))
        return said

    def _try(self, words: "list[str]", *, limit: int = 0, **how: "Any") -> "tuple[int, str]":
        """The exit status and the output of tap-ctl. Raises CommandTimeout."""
        try:
            held = () if "daemon" in how else self._held
            return 0, command.Child(["tap-ctl", *words], held=held, **how).finish(limit or _LIMIT).strip()
        except CommandFailed as error:
            if error.status == 127:
                raise TapdiskFailed(f"tap-ctl, of the package blktap, cannot be run: {error.stderr}.") from None
            return error.status, " ".join(error.stderr.split())


def _remove_sockets(pid: int) -> None:
    """Removes the sockets and the shared memory that a killed tapdisk leaves."""
    if process.environment(str(pid)):
        return  # another process has the pid now
    sockets = re.compile(rf"(ctl|nbdclient){pid}\Z|nbd(-old|server|server-new)?{pid}\.[0-9]+\Z")
    for directory, pattern in ((CONTROL, sockets), (_SHARED_MEMORY, re.compile(rf"td3-{pid}(\D.*)?\Z"))):
        for name in files.names(directory):
            path = os.path.join(directory, name)
            if pattern.match(name):
                if os.path.isdir(path):
                    import shutil  # it imports many modules, and is hardly ever needed

                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)


def _has_token(pid: str, token: str) -> bool:
    return f"{VARIABLE}={token}".encode() in process.environment(pid)


def _minor(marker: str) -> int:
    found = re.search(r"([0-9]+)\Z", marker)
    if not found:
        raise TapdiskFailed(f"tap-ctl allocate answered '{marker}', which names no minor.")
    return int(found.group(1))


def _inode(marker: str) -> "int | None":
    try:
        return os.stat(marker).st_ino
    except OSError:
        return None
