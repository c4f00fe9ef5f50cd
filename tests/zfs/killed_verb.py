# SPDX-License-Identifier: LGPL-2.1-only
"""Runs a verb as the client does, and kills it at a border between two of its child processes.

    killed_verb.py before|during|after NUMBER VERB-EXECUTABLE

SIGKILL comes just before child NUMBER (from 1) is started, while it runs, or just after it has ended. A child that was
running does its work DELAY seconds later, as in a busy pool. A verb with fewer children ends by itself. This is a
program of its own so that the driver needs no hook for tests.
"""

import os
import signal
import sys
from typing import Any

from zfsvol import command, protocol, verbs

DELAY = 1.5
SLOWLY = ("sh", "-c", f'sleep {DELAY}; exec "$0" "$@"')


def main() -> None:
    """Arms the kill and becomes the verb."""
    moment, number, executable = sys.argv[1], int(sys.argv[2]), sys.argv[3]

    def die_at(reached: str, child: int) -> None:
        if (reached, child) == (moment, number):
            os.kill(os.getpid(), signal.SIGKILL)

    class Child(command.Child):
        def __init__(self, argv: "list[str]", **how: Any) -> None:
            self.number = command.Count.started + 1
            die_at("before", self.number)
            runs_on = (moment, number) == ("during", self.number)
            super().__init__([*SLOWLY, *argv] if runs_on else argv, **how)
            die_at("during", self.number)

        def finish(self, *arguments: object) -> str:
            try:
                return super().finish(*arguments)  # type: ignore[arg-type]
            finally:
                die_at("after", self.number)

    command.Child = Child  # type: ignore[misc]
    sys.argv = [executable, "--json"]
    protocol.main(verbs.DATAPATH if "/Datapath." in executable else verbs.VOLUME)


if __name__ == "__main__":
    main()
