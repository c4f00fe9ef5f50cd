# SPDX-License-Identifier: LGPL-2.1-only
"""Runs verbs and kills them at a border between two of their child processes, with SIGKILL.

Each runs in a child of this process, which is several times faster than a Python of its own, and needs no hook in the
driver.
"""

import os
import signal
import time
import traceback
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

from tests import client
from zfsvol.host import command

# What verbs start, and what may change a pool after the verb is gone.
COMMANDS = {"zfs", "zpool", "zdb", "tap-ctl"}

# A child that the verb is killed under does its work so many seconds later, as in a busy pool.
DELAY = 1.5
_SLOWLY = ("sh", "-c", f'sleep {DELAY}; exec "$0" "$@"')

_REFUSED, _FAILED = 1, 2


def _arm(moment: str, number: int, die: "Callable[[], None]") -> None:
    """From now on this process dies before, during or after its child `number`, from 1."""
    started: List[int] = []

    def reached(where: str, child: int) -> None:
        if (where, child) == (moment, number):
            die()

    class Child(command.Child):
        def __init__(self, argv: "List[str]", **how: Any) -> None:
            started.append(1)
            self.number = len(started)
            reached("before", self.number)
            runs_on = (moment, number) == ("during", self.number)
            super().__init__([*_SLOWLY, *argv] if runs_on else argv, **how)
            reached("during", self.number)

        def finish(self, *arguments: Any) -> str:
            try:
                return super().finish(*arguments)
            finally:
                reached("after", self.number)

    command.Child = Child  # type: ignore[misc]


def _run(verb: str, arguments: "Dict[str, Any]", arm: "Callable[[], None]") -> int:
    """The status of the process that the verb was run in."""
    pid = os.fork()
    if pid == 0:
        status = _FAILED
        try:
            os.setpgid(0, 0)
            arm()
            client.call_inside(verb, **arguments)
            status = 0
        except client.VerbError as error:
            os.write(2, f"{verb}: {error}\n".encode())
            status = _REFUSED
        except BaseException:  # noqa: BLE001 - nothing may go on in this process
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    end = time.monotonic() + client.LIMIT
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
            raise AssertionError(f"{verb} hangs")
        time.sleep(0.005)


def kill(verb: str, moment: str, number: int, arguments: "Dict[str, Any]") -> bool:
    """Runs the verb and kills it "before", "during" or "after" its child `number`; False if it has none, and ends well.

    In the midst: the child runs on.
    """
    status = _run(verb, arguments, lambda: _arm(moment, number, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    if not os.WIFSIGNALED(status):
        assert status == 0, f"{verb} has failed: see above"
        return False
    if moment != "during":
        wait_for_children()
    return True


def kill_group(verb: str, number: int, *, after: bool, **arguments: Any) -> None:
    """The same with all that the verb has started, as when its control group is killed; it may be refused before."""
    status = _run(verb, arguments, lambda: _arm("after" if after else "before", number, _die_with_all))
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) != _FAILED, f"{verb} has failed: see above"
    wait_for_children()


def _die_with_all() -> None:
    os.killpg(0, signal.SIGKILL)


def kill_points(verb: str, arguments: "Callable[[], Dict[str, Any]]") -> "Iterator[Tuple[str, int]]":
    """Runs the verb with a kill at each border in turn, until it has no more children.

    After each kill the caller looks; `arguments` makes what it needs for the next one.
    """
    number = 1
    # Without a child of this number there is no "after" it either.
    while kill(verb, "before", number, arguments()):
        yield "before", number
        assert kill(verb, "after", number, arguments()), f"{verb} has no child {number} the second time"
        yield "after", number
        number += 1
    yield "not killed", number
    assert number > 1, f"{verb} was never killed"


def wait_for_children() -> None:
    """A command that the killed verb had started runs to its end."""
    end = time.monotonic() + 60
    while COMMANDS & _running():
        assert time.monotonic() < end
        time.sleep(0.01)


def _running() -> "Set[str]":
    """The names of all processes. Without a child process: this is asked after each kill."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as file:
                found.add(file.read().rstrip("\n"))
        except OSError:
            continue  # it has just ended
    return found
