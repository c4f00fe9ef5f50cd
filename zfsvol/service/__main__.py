# SPDX-License-Identifier: LGPL-2.1-only
"""`python3 -m zfsvol.service`: starts the service, detached unless told otherwise."""

import argparse
import sys

from zfsvol.service import life
from zfsvol.service.supervisor import Supervisor


def main() -> int:
    """Runs the service until it is told to stop. Returns the exit status: 0, or 1 if it runs already."""
    parser = argparse.ArgumentParser(prog="python3 -m zfsvol.service", description="Looks after zfs-vol's SRs.")
    parser.add_argument("--foreground", action="store_true", help="do not detach; for systemd")
    options = parser.parse_args()
    try:
        life.run(Supervisor().run, detached=not options.foreground)
    except life.RunsAlready as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
