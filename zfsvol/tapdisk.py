# SPDX-License-Identifier: LGPL-2.1-only
"""tapdisk, which serves a zvol to a guest's ring and over NBD: every command line of tap-ctl, and its pitfalls.

What is known of a tapdisk is a dictionary that the VDI's record keeps; `save` writes it before each step:

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
import stat
import time

from zfsvol import command, log
from zfsvol.command import CommandFailed, CommandTimeout
from zfsvol.errors import TapdiskFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
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

_PF_EXITING = 0x4  # proc(5) and linux/sched.h: of a process that has begun to end

_ROW = re.compile(r"pid=(\d+) minor=(\d+) state=(\S+)(?: args=aio:(.*))?\Z")


def new(device: str, *, readonly: bool) -> "State":
    """What there is of a tapdisk before `start`."""
    return {"token": os.urandom(16).hex(), "device": device, "readonly": readonly}


def socket(state: "State") -> str:
    """The Unix socket of its NBD server, which also is how tapback finds the process."""
    return "{}/nbd{}.{}".format(CONTROL, state["pid"], state["minor"])


def start(state: "State", output: str, save: "Callable[[], None]") -> None:
    """Starts a tapdisk that has the device open; `output` is a file for what tap-ctl says.

    Raises TapdiskFailed, CommandTimeout: then `stop` undoes what was done, as it does after a crash.
    """
    device = state["device"]
    marker = _run(["allocate"], output=output).strip()
    state.update(minor=_minor(marker), marker=marker, inode=_inode(marker))
    save()
    state["pid"] = _spawn(state, output)
    save()
    os.unlink(output)
    _classify(state["pid"])
    _attach(state)
    opening = ["open", *_who(state), "-a", f"aio:{device}", *(["-R"] if state["readonly"] else [])]
    end = time.monotonic() + _START_LIMIT
    while True:
        status, said = _try(opening)
        # Whatever it answered (512, as the kernel may, looks like 0): what counts is what it has open.
        row = _row(state)
        if row == (state["minor"], device):
            return
        if row is None:
            raise TapdiskFailed(f"tapdisk ended when it was to open {device}. /var/log/daemon.log may tell why.")
        if status not in (0, *_OPEN_AGAIN) or time.monotonic() > end:
            raise TapdiskFailed(f"tapdisk cannot open {device}: {said or os.strerror(status)}.")
        time.sleep(0.1)


def is_serving(state: "State") -> bool:
    """Whether the tapdisk of the record is there and has the device open.

    Raises TapdiskFailed and CommandTimeout where it is there and does not answer.
    """
    return "pid" in state and _is_alive(state) and _row(state) == (state["minor"], state["device"])


def stop(state: "State", output: str) -> None:
    """Closes the device, ends the process, and removes all that it leaves, however far it had come. Idempotent.

    Nothing that is gone already is an error. Raises TapdiskFailed and CommandTimeout where the process is there and
    cannot be made to let go: then it may still write, and the record must stay.
    """
    if "minor" not in state:
        _find_minor(state, output)
    if "pid" in state:
        if _is_alive(state):
            _close(state)
        _remove_sockets(state["pid"])
    else:
        _kill_unattached(state)
    _free(state)
    if os.path.exists(output):
        os.unlink(output)


# --- the steps


def _spawn(state: "State", output: str) -> int:
    for _ in range(_SPAWN_TRIES):
        status, said = _try(["spawn"], output=output, daemon={VARIABLE: state["token"]})
        if status == 0 and said.isdigit():
            return int(said)
        _kill_unattached(state)
        if status != 1:  # the storage manager's own drivers have seen this one go away
            break
    raise TapdiskFailed(f"tapdisk cannot be started: {said or f'status {status}'}.")


def _classify(pid: int) -> None:
    """Gives it the control groups, and so the share of the processors, that the host's rules have for tapdisks.

    As the storage manager does. A tapdisk without works as well.
    """
    if os.path.exists(_CGCLASSIFY):
        try:
            command.run([_CGCLASSIFY, str(pid)], _LIMIT)
        except (CommandFailed, CommandTimeout) as error:
            log.warning(f"tapdisk {pid}: {error}")


def _attach(state: "State") -> None:
    # The pid is told before the process listens, and whether or not it will.
    end = time.monotonic() + _START_LIMIT
    while True:
        while not os.path.exists(_control_socket(state)) and _is_alive(state) and time.monotonic() < end:
            time.sleep(_POLL)
        status, said = _try(["attach", *_who(state)])
        if status == 0:
            return
        if not _is_alive(state):
            raise TapdiskFailed(
                "tapdisk ended as soon as it was started. /var/log/daemon.log tells why; a limit on locked memory "
                "(RLIMIT_MEMLOCK) and a full memory are known reasons."
            )
        if status not in _NOBODY or time.monotonic() > end:
            raise TapdiskFailed(f"tapdisk takes no image: {said or os.strerror(status)}.")
        time.sleep(0.02)


def _close(state: "State") -> None:
    row = _row(state)
    if row is not None:
        if row[1] not in ("", state["device"]):
            raise TapdiskFailed(
                "The tapdisk {} has {} open at minor {}, and not {} as it was told: it is left alone.".format(
                    state["pid"], row[1], row[0], state["device"]
                )
            )
        _detach(state)
        if _ends(state, _EXIT_LIMIT):
            return
    _kill(state)


def _detach(state: "State") -> None:
    # Always both: a client of its NBD server would wait until the process ends. Either may hang until something else
    # wakes the tapdisk: being asked what it has open does.
    for limit in (_CLOSE_LIMIT, _LIMIT):
        try:
            _try(["close", *_who(state), "-t", str(_LIMIT)], limit=limit)
            status, said = _try(["detach", *_who(state)])
        except CommandTimeout as error:
            status, said = errno.ETIMEDOUT, str(error)
        if status == 0 or not _is_alive(state) or _row(state) is None:
            return
    raise TapdiskFailed(
        "The tapdisk {} does not let go of {}: {}. The disk stays in use.".format(
            state["pid"], state["device"], said or os.strerror(status)
        )
    )


def _kill(state: "State") -> None:
    """Ends a process that has no image and stays. Raises TapdiskFailed where it has: it may be about to write."""
    import signal

    if _has_open(state["pid"]):
        raise TapdiskFailed("The tapdisk {} does not let go of {}.".format(state["pid"], state["device"]))
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _is_alive(state):
            return
        log.warning("tapdisk {} has nothing to serve and stays: signal {}".format(state["pid"], number))
        try:
            os.kill(state["pid"], number)
        except ProcessLookupError:
            pass
        if _ends(state, _KILL_LIMIT):
            return
    raise TapdiskFailed("The tapdisk {} cannot be ended.".format(state["pid"]))


def _kill_unattached(state: "State") -> None:
    """Ends what a killed verb had begun to start. It has no minor: one is attached once the pid is in the record."""
    import signal

    end = time.monotonic() + _KILL_LIMIT
    killed: "set[int]" = set()
    while True:
        found = _processes(state)
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


def _free(state: "State") -> None:
    if "minor" not in state or _inode(state["marker"]) != state["inode"]:
        return  # somebody has freed it, and it may be another's by now
    for _ in range(10):
        status, said = _try(["free", "-m", str(state["minor"])])
        if status not in _HELD:
            break
        time.sleep(0.1)
    if status in _HELD:
        raise TapdiskFailed("A process that is not known still has the minor {}.".format(state["minor"]))
    if status not in (0, *_NOBODY):
        log.warning("minor {} is not free: {}".format(state["minor"], said or os.strerror(status)))


def _find_minor(state: "State", output: str) -> None:
    """What tap-ctl allocate had answered when the verb was killed."""
    try:
        with open(output) as file:
            marker = file.read().strip()
    except FileNotFoundError:
        return
    if re.match(r"/\S*[0-9]\Z", marker) and _inode(marker) is not None:
        state.update(minor=_minor(marker), marker=marker, inode=_inode(marker))


def _remove_sockets(pid: int) -> None:
    """What a killed tapdisk leaves."""
    if _environment(str(pid)):
        return  # another has the number
    sockets = re.compile(rf"(ctl|nbdclient){pid}\Z|nbd(-old|server|server-new)?{pid}\.[0-9]+\Z")
    for directory, pattern in ((CONTROL, sockets), (_SHARED_MEMORY, re.compile(rf"td3-{pid}(\D.*)?\Z"))):
        for name in os.listdir(directory) if os.path.isdir(directory) else ():
            path = os.path.join(directory, name)
            if pattern.match(name):
                if os.path.isdir(path):
                    import shutil  # many modules with it, for what is hardly ever there

                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)


# --- what there is


def _is_alive(state: "State") -> bool:
    """One that is ending is waited for: what it has begun to write is written until it has ended."""
    pid = str(state["pid"])
    if _has_token(pid, state["token"]):
        return True
    end = time.monotonic() + _EXIT_LIMIT
    while _is_ending(pid):
        if time.monotonic() > end:
            raise TapdiskFailed("The tapdisk {} of {} is ending and may write yet.".format(pid, state["device"]))
        time.sleep(_POLL)
    return False


def _ends(state: "State", seconds: float) -> bool:
    end = time.monotonic() + seconds
    while _is_alive(state):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL)
    return True


def _has_open(pid: int) -> bool:
    """Whether the process has any block device open: one of ours never has another than its zvol."""
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return False  # it has just ended
    for name in names:
        try:
            if stat.S_ISBLK(os.stat(os.path.join(directory, name)).st_mode):
                return True
        except OSError:
            pass  # it has just closed this one
    return False


def _processes(state: "State") -> "list[int]":
    """All processes with the token: those of a tapdisk that is being started."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _has_token(pid, state["token"])]


def _has_token(pid: str, token: str) -> bool:
    return f"{VARIABLE}={token}".encode() in _environment(pid).split(b"\0")


def _is_ending(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in "ZX" and bool(int(fields[6]) & _PF_EXITING)


def _environment(pid: str) -> bytes:
    """Empty where no process has the number, or one that has ended or is ending: its memory is the first to go."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""
    except OSError as error:  # short of memory: it must not be taken for gone
        raise TapdiskFailed(f"Whether the process {pid} is a tapdisk cannot be told: {error}.") from None


def _row(state: "State") -> "tuple[int, str] | None":
    """The tapdisk's minor and the path that it has open, "" for none; None if it has no minor of ours.

    Raises TapdiskFailed and CommandTimeout where it is there and does not answer.
    """
    end = time.monotonic() + _LISTEN_LIMIT
    lines = _listed(state)
    # tap-ctl tells of one that answers, if only its pid. One without a socket was never told anything.
    while not lines and _is_alive(state) and os.path.exists(_control_socket(state)):
        if time.monotonic() > end:
            raise _mute(state)
        time.sleep(0.02)  # it may be about to listen
        lines = _listed(state)
    for line in lines:
        found = _ROW.match(line)
        if found and (int(found.group(1)), int(found.group(2))) == (state["pid"], state["minor"]):
            return state["minor"], found.group(4) or ""
    if _has_open(state["pid"]):
        # tap-ctl asks twice. Where the second answer is late it tells of the process alone, as of one without image.
        raise _mute(state)
    return None


def _listed(state: "State") -> "list[str]":
    return _run(["list", "-p", str(state["pid"])]).splitlines()


def _mute(state: "State") -> TapdiskFailed:
    return TapdiskFailed("The tapdisk {} of {} does not answer.".format(state["pid"], state["device"]))


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


def _control_socket(state: "State") -> str:
    return "{}/ctl{}".format(CONTROL, state["pid"])


def _who(state: "State") -> "list[str]":
    return ["-p", str(state["pid"]), "-m", str(state["minor"])]


# --- tap-ctl


def _run(words: "list[str]", **how: "Any") -> str:
    status, said = _try(words, **how)
    if status:
        raise TapdiskFailed("tap-ctl {} failed: {}.".format(" ".join(words), said or os.strerror(status)))
    return said


def _try(words: "list[str]", *, limit: int = 0, **how: "Any") -> "tuple[int, str]":
    """The status of tap-ctl, and what it says. Raises CommandTimeout."""
    try:
        return 0, command.Child(["tap-ctl", *words], **how).finish(limit or _LIMIT).strip()
    except CommandFailed as error:
        if error.status == 127:
            raise TapdiskFailed(f"tap-ctl, of the package blktap, cannot be run: {error.stderr}.") from None
        return error.status, " ".join(error.stderr.split())
