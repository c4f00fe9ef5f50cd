# SPDX-License-Identifier: LGPL-2.1-only
"""Runs a verb and records its child processes: children.py FILE VERB --json, with the request on stdin.

FILE gets a JSON list with a pair for each child, in the order of their starts: its argument list and its exit status.
"""

import json
import os
import sys

from zfsvol.host import command
from zfsvol.wire import protocol, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Runs the verb as its executable would, with every child noted."""
    path = sys.argv[1]
    del sys.argv[:2]
    started = []
    start = command.Child.__init__

    def noted_start(child: command.Child, argv: "list[str]", **how: "Any") -> None:
        start(child, argv, **how)
        started.append(child)

    command.Child.__init__ = noted_start  # type: ignore[assignment, method-assign]
    verb = os.path.basename(sys.argv[0])
    status = protocol.serve(table.DATAPATH if verb.startswith("Datapath.") else table.VOLUME, verb)
    with open(path, "w") as file:
        json.dump([[child.argv, child.returncode] for child in started], file)
    sys.exit(status)


main()
