# SPDX-License-Identifier: LGPL-2.1-only
"""Runs verbs and kills them with SIGKILL, at the border between two of their changes.

Each verb runs in a fork of this process. That is several times faster than a new interpreter, and needs no hook in the
driver.
"""

import os
import random
import signal
import time
import traceback
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

from tests import client
from zfsvol.host import command, files

# Commands that verbs start, and that may still change a pool after the verb is gone.
COMMANDS = {"zfs", "zpool", "zdb", "tap-ctl"}
# Commands that change nothing. A kill between two changes leaves the same as a kill right after the first one.
_READING = [("zfs", "get"), ("zfs", "list"), ("zfs", "send"), ("zfs", "version"), ("zpool", "get"), ("zpool", "list")]
_READING += [("zpool", "status"), ("zdb", "-l"), ("blkid", "-p"), ("tap-ctl", "list")]

# If the verb is killed during a child, the child does its work this many seconds later, as in a busy pool.
DELAY = 1.5
_SLOWLY = ("sh", "-c", f'sleep {DELAY}; exec "$0" "$@"')

# All borders take minutes more: ZFSVOL_STEPS=200 is for who has them.
STRIDE = 1 if int(os.environ.get("ZFSVOL_STEPS", "0")) >= 200 else 5

_REFUSED, _FAILED = 1, 2


def _changes(argv: "List[str]") -> bool:
    searches = argv[:2] == ["zpool", "import"] and "-N" not in argv
    return not searches and "-n" not in argv and tuple(argv[:2]) not in _READING


def _arm(moment: str, number: int, die: "Callable[[], None]") -> None:
    """Makes this process die "before" or "after" its change `number`, or "during" its child `number`, counted from 1.

    A change is a child that changes something, or a file that is written or removed; children that only read do not
    count.
    """
    changes = children = 0

    def reached(where: str, change: int) -> None:
        if (where, change) == (moment, number):
            die()

    def next_change() -> int:
        nonlocal changes
        changes += 1
        reached("before", changes)
        return changes

    class Child(command.Child):
        def __init__(self, argv: "List[str]", **how: Any) -> None:
            nonlocal children
            self.change = 0
            if _changes(argv):
                self.change = next_change()
                children += 1
            runs_on = self.change and (moment, number) == ("during", children)
            super().__init__([*_SLOWLY, *argv] if runs_on else argv, **how)
            if runs_on:
                die()

        def chunks(self, *arguments: Any) -> "Iterator[bytes]":
            try:
                yield from super().chunks(*arguments)
            finally:
                reached("after", self.change)

    def changing(function: "Callable[..., None]", happens: "Callable[..., bool]") -> "Callable[..., None]":
        def changed(*arguments: Any) -> None:
            if not happens(*arguments):
                return function(*arguments)
            change = next_change()
            function(*arguments)
            return reached("after", change)

        return changed

    command.Child = Child  # type: ignore[misc]
    files.write = changing(files.write, lambda path, content: True)
    files.link = changing(files.link, lambda target, path: not os.path.lexists(path))
    files.remove = changing(files.remove, os.path.lexists)


def _run(verb: str, arguments: "Dict[str, Any]", arm: "Callable[[], None]") -> int:
    """Runs the verb in a fork of this process; returns its wait status."""
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
    """Runs the verb and kills it at a moment (see `_arm`). False if the verb succeeds without reaching it.

    If the verb is killed "during" a child, the child runs on.
    """
    status = _run(verb, arguments, lambda: _arm(moment, number, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    if not os.WIFSIGNALED(status):
        assert status == 0, f"{verb} has failed: see above"
        return False
    if moment != "during":
        wait_for_children()
    return True


def kill_group(verb: str, number: int, *, after: bool, **arguments: Any) -> None:
    """Kills the verb with all that it has started, like its control group. The verb may be refused before that."""
    status = _run(verb, arguments, lambda: _arm("after" if after else "before", number, _die_with_all))
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) != _FAILED, f"{verb} has failed: see above"
    wait_for_children()


def _die_with_all() -> None:
    os.killpg(0, signal.SIGKILL)


def kill_points(
    verb: str, arguments: "Callable[[], Dict[str, Any]]", *, twice: bool = False
) -> "Iterator[Tuple[str, int]]":
    """Runs the verb once for each border and kills it there, until a run makes all its changes.

    The caller checks the state after each kill; `arguments` prepares the next run. The state "before" a change is that
    "after" the previous one. `twice`: kills at both, so that each of two calls can be the first to meet that state.

    Behind the first two it takes one in STRIDE, by chance: the next run of the tests may take others.
    """
    number, taken = 1, random.randrange(STRIDE)
    while True:
        while number > 2 and number % STRIDE != taken:
            number += 1
        for moment in ("before", "after") if twice or number == 1 else ("after",):
            if not kill(verb, moment, number, arguments()):
                assert number > 1, f"{verb} was never killed"
                yield "not killed", number
                return
            yield moment, number
        number += 1


def wait_for_children() -> None:
    """Waits until the commands that the killed verb had started have ended."""
    end = time.monotonic() + 60
    while COMMANDS & _running():
        assert time.monotonic() < end
        time.sleep(0.01)


def _running() -> "Set[str]":
    """The names of all processes. Starts no process itself: it runs after each kill.

    Not of those that have ended, as a child may have that an earlier test's verb in this process left behind.
    """
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(") ")
        except OSError:
            continue  # it has just ended
        if not rest.startswith("Z"):
            found.add(name)
    return found
