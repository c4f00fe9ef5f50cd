# SPDX-License-Identifier: LGPL-2.1-only
"""Files and links. Writes are atomic; reads accept any bytes; others may remove a file at any moment."""

import os
import re

_UNFINISHED = ".new"


class Mount:
    """A line of /proc/self/mounts: what is mounted (`source`), where (`path`), its kind and its options."""

    def __init__(self, fields: "list[str]") -> None:
        self.source, self.path = map(_unescaped, fields[:2])
        self.kind = fields[2]
        self.options = fields[3].split(",")


def text(path: str) -> str:
    """The text of a file. Accepts any bytes, whatever the locale. Raises OSError."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def proc_text(path: str) -> str:
    """The text of a small file of /proc or /sys, in four system calls, a third of those of `text`. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # A short read of such a file does not mean that this is all.
        pieces = list(iter(lambda: os.read(descriptor, 1 << 16), b""))
    finally:
        os.close(descriptor)
    return b"".join(pieces).decode("utf-8", "surrogateescape")


def new_uuid() -> str:
    """A random uuid from the kernel: the import of Python's uuid module would take longer than the verb."""
    return text("/proc/sys/kernel/random/uuid").strip()


def mounts() -> "list[Mount]":
    """The mounts that this process sees."""
    rows = [line.split(" ") for line in text("/proc/self/mounts").split("\n")]
    return [Mount(fields) for fields in rows if len(fields) >= 4]


def swaps() -> "list[str]":
    """The files and devices in use as swap space."""
    return [_unescaped(line.split(" ")[0].split("\t")[0]) for line in text("/proc/swaps").split("\n")[1:] if line]


def _unescaped(field: str) -> str:
    # The kernel writes blanks, tabs, line breaks, backslashes and '#' as octal numbers.
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), field)


def unfinished(path: str) -> str:
    """The path of the temporary file that is written first and then renamed to `path`. A crash may leave it behind."""
    return path + _UNFINISHED


def write(path: str, content: str) -> None:
    """Writes a file and makes its directory. After a crash the file has its old content or the new one."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = unfinished(path)
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(content)
    os.rename(temporary, path)


def link(target: str, path: str) -> None:
    """Makes `path` a symbolic link to `target`, unless it is one already, and makes its directory."""
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
    """Removes a file or link, and its temporary file if a crash left one. Idempotent."""
    for name in (path, unfinished(path)):
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass


def names(directory: str) -> "list[str]":
    """The names in a directory, sorted; empty if there is no such directory."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def real_path(path: str) -> str:
    """As os.path.realpath, but returns `path` itself if a link vanishes while it is resolved."""
    try:
        return os.path.realpath(path)
    except OSError:
        return path
