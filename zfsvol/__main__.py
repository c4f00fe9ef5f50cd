# SPDX-License-Identifier: LGPL-2.1-only
"""For administrators: `python3 -m zfsvol check|identity <pool or dataset>`, see docs/administration.md."""

import argparse
import sys

from zfsvol.errors import StorageError
from zfsvol.repository import identity
from zfsvol.verbs import check


def main() -> int:
    """Runs the command line. Returns the exit status: 0 all is well, 1 something is wrong, 2 the command failed."""
    parser = argparse.ArgumentParser(prog="python3 -m zfsvol", description="Maintenance of zfs-vol's SRs.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    checking = commands.add_parser(
        "check", help="list the disks of the SRs in a pool, their families, and everything that is wrong"
    )
    checking.add_argument("dataset", help="a pool, or a dataset in one: all SRs in it are checked")
    checking.add_argument("--repair", action="store_true", help="finish or undo what is half done")
    renewing = commands.add_parser("identity", help="give a copy of an SR and its disks new uuids")
    renewing.add_argument("dataset", help="the root of the copy: its dataset or pool; it must not be attached")
    options = parser.parse_args()
    # The locale of a console, or of Python 3.6 without a locale, may lack the characters of the tree.
    stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the process ends
    try:
        if options.command == "identity":
            print(f"The copy is now the SR {identity.renew(options.dataset)}.", file=stdout)
            return 0
        is_well = check.check(options.dataset, mend=options.repair, say=lambda line: print(line, file=stdout))
    except StorageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    finally:
        stdout.flush()
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
