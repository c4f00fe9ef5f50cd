# SPDX-License-Identifier: LGPL-2.1-only
"""Files and links that are there whole or not at all, that others may remove at any moment, and that hold any bytes."""

import os
import re

_UNFINISHED = ".new"
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount:
    """A line of /proc/self/mounts: what is mounted (`source`), where (`path`), its kind and its options."""

    def __init__(self, fields: "list[str]") -> None:
        self.source, self.path = map(_unescaped, fields[:2])
        self.kind = fields[2]
        self.options = fields[3].split(",")


def text(path: str) -> str:
    """A file of /proc or /sys. Any byte may be in it, whatever the locale says. Raises OSError."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def mounts() -> "list[Mount]":
    """What is mounted, as this process sees it."""
    rows = [line.split(" ") for line in text("/proc/self/mounts").split("\n")]
    return [Mount(fields) for fields in rows if len(fields) >= 4]


def swaps() -> "list[str]":
    """The files and devices that are swap space."""
    return [_unescaped(line.split(" ")[0].split("\t")[0]) for line in text("/proc/swaps").split("\n")[1:] if line]


def _unescaped(field: str) -> str:
    # The kernel writes blanks, tabs, line breaks, backslashes and '#' as octal numbers.
    return _ESCAPE.sub(lambda found: chr(int(found.group(1), 8)), field)


def unfinished(path: str) -> str:
    """Where a file is written before it is renamed to `path`; a crash leaves it there."""
    return path + _UNFINISHED


def write(path: str, content: str) -> None:
    """Writes a file, with its directory; a crash leaves it as it was or as it is."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = unfinished(path)
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(content)
    os.rename(temporary, path)


def link(target: str, path: str) -> None:
    """Makes `path` a symbolic link that contains `target`, with its directory, if it is not one."""
    try:
        if os.readlink(path) == target:
            return
    except OSError:
        pass
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = unfinished(path)
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass
    os.symlink(target, temporary)
    os.rename(temporary, path)


def remove(path: str) -> None:
    """Removes a file or link, and what a crash has left of it. Idempotent."""
    for name in (path, unfinished(path)):
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass


def names(directory: str) -> "list[str]":
    """The names in a directory, sorted; none where it is not there."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def real_path(path: str) -> str:
    """As os.path.realpath, which fails where a link that it looks at vanishes: then the path itself."""
    try:
        return os.path.realpath(path)
    except OSError:
        return path
