# SPDX-License-Identifier: LGPL-2.1-only
"""Files and links that are there whole or not at all, and that others may take away at any moment."""

import os

_UNFINISHED = ".new"


def unfinished(path: str) -> str:
    """Where a file is written before it is renamed to `path`; a crash leaves it there."""
    return path + _UNFINISHED


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


def real_path(path: str) -> str:
    """As os.path.realpath, which fails where a link vanishes that it is looking at: then the path itself."""
    try:
        return os.path.realpath(path)
    except OSError:
        return path
