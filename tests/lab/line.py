# SPDX-License-Identifier: LGPL-2.1-only
"""Runs in a guest: joins a Unix socket with standard input and output, which lab/vm carries to the machine around it.

    line.py listen|connect PATH

Guests have no network. Two of these, with their pipes crossed, are one connection between two of them.
"""

import os
import select
import socket
import sys

CHUNK = 64 << 10


def main() -> None:
    """Ends with the connection, or with standard input."""
    how, path = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as first:
        if how == "listen":
            first.bind(path)
            first.listen(1)
            end = first.accept()[0]
        else:
            first.connect(path)
            end = first
        while True:
            for ready in select.select([0, end.fileno()], [], [])[0]:
                data = os.read(ready, CHUNK)
                if not data:
                    return
                while data:
                    data = data[os.write(end.fileno() if ready == 0 else 1, data) :]


if __name__ == "__main__":
    main()
