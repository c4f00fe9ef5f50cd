# SPDX-License-Identifier: LGPL-2.1-only
"""For people at a shell: `python3 -m zfsvol`, see docs/care.md.

The functions of care take the same arguments as through xe (`sr-uuid=…`). `watch` shows the progress of a scrub,
resilver or trim; `check` and `identity` work on pools that hold no attached SR, too, and so take a dataset.
"""

import argparse
import json
import os
import sys
import time

from zfsvol.care import check, status
from zfsvol.errors import InvalidArgument, StorageError
from zfsvol.repository import identity
from zfsvol.wire import functions, picture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TextIO

_WELL, _WRONG, _FAILED = 0, 1, 2
_INTERRUPTED = 130

_INTERVAL = 2  # seconds between two looks of `watch`
_OF_DATASETS = ("check",)

_PICTURES: "dict[str, Callable[[Any], list[str]]]" = {
    "list": picture.listed,
    "get": picture.settings,
    "events": picture.events,
    "repair": picture.repair,
}


def main() -> int:
    """Runs the command line. Returns the exit status: 0 all is well, 1 something is wrong, 2 the command failed."""
    # zpool's children get no TZ, and print times in the host's time zone.
    os.environ.pop("TZ", None)
    time.tzset()
    options = _parser().parse_args()
    # The locale of a console, or of Python 3.6 without a locale, may lack the characters of the tree.
    stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the process ends
    try:
        return _run(options, stdout)
    except StorageError as error:
        sys.stderr.write(f"{error}\n")
        return _FAILED
    except KeyboardInterrupt:
        print(file=stdout)
        return _INTERRUPTED
    except BrokenPipeError:  # whoever reads it has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _FAILED
    finally:
        stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m zfsvol", description="Care of zfs-vol's SRs and their pools.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    checking = commands.add_parser(
        "check", help="list the disks of the SRs in a pool, their families, and everything that is wrong"
    )
    checking.add_argument("dataset", help="a pool, or a dataset in one: all SRs in it are checked")
    checking.add_argument("--repair", action="store_true", help="finish or undo what is half done")
    renewing = commands.add_parser("identity", help="give a copy of an SR and its disks new uuids")
    renewing.add_argument("dataset", help="the root of the copy: its dataset or pool; it must not be attached")
    watching = commands.add_parser("watch", help="show the progress of what a pool does for long until it ends")
    watching.add_argument("sr", help="the SR, by its uuid or its root dataset")
    for name, function in functions.FUNCTIONS.items():
        if name not in _OF_DATASETS:
            _add(commands, name, function)
    return parser


def _add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, function: "Any") -> None:
    told = [
        f"  {argument.name}={'|'.join(argument.choices) if argument.choices else '…'}"
        f"  {argument.told}{' (needed)' if argument.name in function.required else ''}"
        for argument in function.arguments.values()
    ]
    command = commands.add_parser(
        name,
        help=function.told,
        description=f"{name}: {function.told}.",
        epilog="\n".join(["arguments:", *told]) if told else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("words", nargs="*", metavar="NAME=VALUE", help="arguments; a uuid alone is the SR's")
    command.add_argument("--json", action="store_true", help="print the answer as the plugin gives it")


def _run(options: argparse.Namespace, stdout: "TextIO") -> int:
    def say(line: str) -> None:
        print(line, file=stdout)

    if options.command == "identity":
        say(f"The copy is now the SR {identity.renew(options.dataset)}.")
        return _WELL
    if options.command == "check":
        return _WELL if check.check(options.dataset, mend=options.repair, say=say) else _WRONG
    if options.command == "watch":
        return _watch(options.sr, stdout)
    answer = functions.call(options.command, _arguments(options.words))
    if options.json:
        say(json.dumps(answer, indent=2))
    elif options.command == "status":
        for found in answer if isinstance(answer, list) else [answer]:
            for line in [*picture.status(found), ""]:
                say(line)
    else:
        for line in _PICTURES.get(options.command, picture.plain)(answer):
            say(line)
    return _WELL if options.command != "repair" or answer["well"] else _WRONG


def _arguments(words: "list[str]") -> "dict[str, str]":
    found: "dict[str, str]" = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            name, value = "sr-uuid", word
        if name in found:
            raise InvalidArgument(f"{name} is given twice.")
        found[name] = value
    return found


def _watch(sr: str, stdout: "TextIO") -> int:
    """One line on what the pool is doing, renewed until it is done; then the pool's health."""
    width = 0
    while True:
        found = status.doing(sr)
        line = "; ".join(map(picture.progress, filter(picture.is_unfinished, picture.doing(found))))
        if not line:
            break
        print("\r" + line.ljust(width), end="", file=stdout, flush=True)
        width = len(line)
        time.sleep(_INTERVAL)
    if width:
        print(file=stdout)
    for record in picture.doing(found):
        print(picture.progress(record), file=stdout)
    print(found["health"], file=stdout)
    return _WELL
