# SPDX-License-Identifier: LGPL-2.1-only
"""tapdisk, which serves a zvol to a guest's ring and over NBD: every command line of tap-ctl, and its pitfalls.

What is known of a tapdisk is a dictionary that the VDI's record keeps; each step writes it down first:

  token, device, readonly   from the beginning; the token is in the process's environment, so it is known whatever
                            became of whoever started it, and never mistaken for another
  minor, marker, inode      once the minor is allocated: its number, its file, and the file's inode
  pid                       once the process is there

A minor and a process that are not those of the record are not touched. A tapdisk is never paused (that can hang) and
never used for a second image. Facts: blktap 3.55 and 4.0, measured; error codes are exit statuses.
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
_CGCLASSIFY = "/usr/bin/cgclassify"
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - tapdisk's statistics are there
VARIABLE = "ZFSVOL_TAPDISK"

# Seconds. tap-ctl itself has limits of 10 for most answers, and waits for ever for some.
_LIMIT = 30
_CLOSE_LIMIT = 40
_START_LIMIT = 30
_EXIT_LIMIT = 10
_LISTEN_LIMIT = 1
_KILL_LIMIT = 5
_POLL = 0.005
_SPAWN_TRIES = 5

# tap-ctl's status for a tapdisk that is not there, or not any more; or not yet.
_NOBODY = (errno.ENOENT, errno.ECONNREFUSED)
# `free` of a minor that a process has yet: blktap 4 (flock) and 3 (its kernel module).
_HELD = (errno.EAGAIN, errno.EBUSY)
# What opening a zvol can answer while its node is looked at or other zvols come and go.
_OPEN_AGAIN = (errno.ENOENT, errno.EBUSY, errno.ENXIO, errno.EINTR)

_ROW = re.compile(r"pid=(\d+) minor=(\d+) state=(\S+)(?: args=aio:(.*))?\Z")


def new(device: str, *, readonly: bool) -> "State":
    """What there is of a tapdisk before `start`."""
    return {"token": os.urandom(16).hex(), "device": device, "readonly": readonly}


class Tapdisk:
    """A tapdisk, by what is known of it. `output`: a file for what tap-ctl says; `held`: locks that tap-ctl keeps."""

    def __init__(self, state: "State", output: str, held: "Sequence[int]" = ()) -> None:
        self.state = state
        self._output = output
        self._held = held

    def socket(self) -> str:
        """The Unix socket of its NBD server, which also is how tapback finds the process."""
        return "{}/nbd{}.{}".format(CONTROL, self.state["pid"], self.state["minor"])

    def start(self, save: "Callable[[], None]") -> None:
        """Starts a tapdisk that has the device open; `save` writes the dictionary down.

        Raises TapdiskFailed, CommandTimeout: then `stop` undoes what was done, as it does after a crash.
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
            # Whatever it answered (512, as the kernel may, looks like 0): what counts is what it has open.
            row = self._row()
            if row == (self.state["minor"], device):
                return
            if row is None:
                raise TapdiskFailed(f"tapdisk ended when it was to open {device}. /var/log/daemon.log may tell why.")
            if status not in (0, *_OPEN_AGAIN) or time.monotonic() > end:
                raise TapdiskFailed(f"tapdisk cannot open {device}: {said or os.strerror(status)}.")
            time.sleep(0.1)

    def is_serving(self) -> bool:
        """Whether the tapdisk of the record is there and has the device open.

        Raises TapdiskFailed and CommandTimeout where it is there and does not answer.
        """
        return "pid" in self.state and self._is_alive() and self._row() == (self.state["minor"], self.state["device"])

    def stop(self) -> None:
        """Closes the device, ends the process, and removes all that it leaves, however far it had come. Idempotent.

        Nothing that is gone already is an error. Raises TapdiskFailed and CommandTimeout where the process is there and
        cannot be made to let go: then it may still write, and the record must stay.
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
            if status != 1:  # the storage manager's own drivers have seen this one go away
                break
        raise TapdiskFailed(f"tapdisk cannot be started: {said or f'status {status}'}.")

    def _classify(self) -> None:
        """Gives it the control groups, and so the share of the processors, that the host's rules have for tapdisks.

        As the storage manager does. A tapdisk without works as well.
        """
        if os.path.exists(_CGCLASSIFY):
            try:
                command.run([_CGCLASSIFY, str(self.state["pid"])], _LIMIT)
            except (CommandFailed, CommandTimeout) as error:
                log.warning("tapdisk {}: {}".format(self.state["pid"], error))

    def _attach(self) -> None:
        # The pid is told before the process listens, and whether or not it will.
        end = time.monotonic() + _START_LIMIT
        while True:
            while not os.path.exists(self._control_socket()) and self._is_alive() and time.monotonic() < end:
                time.sleep(_POLL)
            status, said = self._try(["attach", *self._who()])
            if status == 0:
                return
            if not self._is_alive():
                raise TapdiskFailed(
                    "tapdisk ended as soon as it was started. /var/log/daemon.log tells why; a limit on locked memory "
                    "(RLIMIT_MEMLOCK) and a full memory are known reasons."
                )
            if status not in _NOBODY or time.monotonic() > end:
                raise TapdiskFailed(f"tapdisk takes no image: {said or os.strerror(status)}.")
            time.sleep(0.02)

    def _close(self) -> None:
        row = self._row()
        if row is not None:
            if row[1] not in ("", self.state["device"]):
                raise TapdiskFailed(
                    "The tapdisk {} has {} open at minor {}, and not {} as it was told: it is left alone.".format(
                        self.state["pid"], row[1], row[0], self.state["device"]
                    )
                )
            self._detach()
            if self._ends(_EXIT_LIMIT):
                return
        self._kill()

    def _detach(self) -> None:
        # Always both: a client of its NBD server would wait until the process ends. Either may hang until something
        # else wakes the tapdisk: being asked what it has open does.
        for limit in (_CLOSE_LIMIT, _LIMIT):
            try:
                self._try(["close", *self._who(), "-t", str(_LIMIT)], limit=limit)
                status, said = self._try(["detach", *self._who()])
            except CommandTimeout as error:
                status, said = errno.ETIMEDOUT, str(error)
            if status == 0 or not self._is_alive() or self._row() is None:
                return
        raise TapdiskFailed(
            "The tapdisk {} does not let go of {}: {}. The disk stays in use.".format(
                self.state["pid"], self.state["device"], said or os.strerror(status)
            )
        )

    def _kill(self) -> None:
        """Ends a process that has no image and stays. Raises TapdiskFailed where it has: it may be about to write."""
        import signal  # for a tapdisk that does not end by itself

        if process.open_devices(str(self.state["pid"])):
            raise TapdiskFailed("The tapdisk {} does not let go of {}.".format(self.state["pid"], self.state["device"]))
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._is_alive():
                return
            log.warning("tapdisk {} has nothing to serve and stays: signal {}".format(self.state["pid"], number))
            try:
                os.kill(self.state["pid"], number)
            except ProcessLookupError:
                pass
            if self._ends(_KILL_LIMIT):
                return
        raise TapdiskFailed("The tapdisk {} cannot be ended.".format(self.state["pid"]))

    def _kill_unattached(self) -> None:
        """Ends what a killed verb had begun to start. It has no minor: that comes once the pid is in the record."""
        import signal  # for a tapdisk that does not end by itself

        end = time.monotonic() + _KILL_LIMIT
        killed: "set[int]" = set()
        while True:
            found = self._processes()
            killed.update(found)
            if not found:
                break
            if time.monotonic() > end:
                raise TapdiskFailed(f"The tapdisk {found[0]} cannot be ended.")
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
            return  # somebody has freed it, and it may be another's by now
        for _ in range(10):
            status, said = self._try(["free", "-m", str(self.state["minor"])])
            if status not in _HELD:
                break
            time.sleep(0.1)
        if status in _HELD:
            raise TapdiskFailed("A process that is not known still has the minor {}.".format(self.state["minor"]))
        if status not in (0, *_NOBODY):
            log.warning("minor {} is not free: {}".format(self.state["minor"], said or os.strerror(status)))

    def _find_minor(self) -> None:
        """What tap-ctl allocate had answered when the verb was killed."""
        try:
            marker = files.text(self._output).strip()
        except FileNotFoundError:
            return
        if re.match(r"/\S*[0-9]\Z", marker) and _inode(marker) is not None:
            self.state.update(minor=_minor(marker), marker=marker, inode=_inode(marker))

    def _is_alive(self) -> bool:
        """One that is ending is waited for: what it has begun to write is written until it has ended."""
        pid = str(self.state["pid"])
        if _has_token(pid, self.state["token"]):
            return True
        end = time.monotonic() + _EXIT_LIMIT
        while process.is_ending(pid):
            if time.monotonic() > end:
                raise TapdiskFailed(
                    "The tapdisk {} of {} is ending and may write yet.".format(pid, self.state["device"])
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
        """All processes with the token: those of a tapdisk that is being started."""
        return [int(pid) for pid in process.pids() if _has_token(pid, self.state["token"])]

    def _row(self) -> "tuple[int, str] | None":
        """The tapdisk's minor and the path that it has open, "" for none; None if it has no minor of ours.

        Raises TapdiskFailed and CommandTimeout where it is there and does not answer.
        """
        end = time.monotonic() + _LISTEN_LIMIT
        lines = self._listed()
        # tap-ctl tells of one that answers, if only its pid. One without a socket was never told anything.
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
            # tap-ctl asks twice. Where the second answer is late it tells of the process alone, as of one without an
            # image.
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
        """The status of tap-ctl, and what it says. Raises CommandTimeout."""
        try:
            return 0, command.Child(["tap-ctl", *words], held=self._held, **how).finish(limit or _LIMIT).strip()
        except CommandFailed as error:
            if error.status == 127:
                raise TapdiskFailed(f"tap-ctl, of the package blktap, cannot be run: {error.stderr}.") from None
            return error.status, " ".join(error.stderr.split())


def _remove_sockets(pid: int) -> None:
    """What a killed tapdisk leaves."""
    if process.environment(str(pid)):
        return  # another has the number
    sockets = re.compile(rf"(ctl|nbdclient){pid}\Z|nbd(-old|server|server-new)?{pid}\.[0-9]+\Z")
    for directory, pattern in ((CONTROL, sockets), (_SHARED_MEMORY, re.compile(rf"td3-{pid}(\D.*)?\Z"))):
        for name in files.names(directory):
            path = os.path.join(directory, name)
            if pattern.match(name):
                if os.path.isdir(path):
                    import shutil  # many modules with it, for what is hardly ever there

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
