# SPDX-License-Identifier: LGPL-2.1-only
"""The channel programs: ZFS runs each in one transaction, which checks everything before it changes anything.

`remove.lua` and `set.lua` describe their arguments and answers at the top.
"""

import errno
import json
import os
import time

from zfsvol import log, naming
from zfsvol.errors import NoSpace, StorageError
from zfsvol.properties import key_property
from zfsvol.zfs import changes, datasets
from zfsvol.zfs.pool import Busy, Missing, Pool, when_idle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_REMOVE, _SET = (os.path.join(os.path.dirname(os.path.abspath(__file__)), name) for name in ("remove.lua", "set.lua"))

# Datasets in one transaction: the pool's other changes wait meanwhile.
_PRUNED_AT_ONCE = 100
_SET_AT_ONCE = 1000

_BOOKMARK_TRIES = 3


class Left:
    """What a removal leaves.

    `reserved`: the removed zvols that stay, with their reservations in bytes. `foreign`: those of them with others'
    snapshots. `bases`: the properties VDI_METADATA of the removed VDIs.
    """

    def __init__(self, reserved: "dict[str, int]", foreign: "Sequence[str]" = (), bases: "Sequence[str]" = ()) -> None:
        self.reserved = reserved
        self.foreign = foreign
        self.bases = bases


def remove(pool: Pool, root: str, name: str, action: str = "remove", *, bookmark: "str | None" = None) -> Left:
    """Removes the VDI `name` below `root`, its clone-on-boot temporary, and what only these needed, in one transaction.

    That is the action "remove", which also removes what a killed Volume.revert left for the VDI; "replace" does not.
    "discard" removes any zvol. `bookmark`: the name of a bookmark, without its zvol's, of the ZFS snapshot that the VDI
    was made from; it is made in the same transaction.

    A zvol that others were made from, or that has snapshots of other programs, stays: it is marked as removed and keeps
    only the data that they need. Raises Missing, Busy (its text is the open zvol), NoSpace, and StorageError with ZFS's
    own reason; then nothing has changed.
    """
    words = [action, name] + ([] if bookmark is None else [bookmark])
    answer = _remove(pool, root, words)
    for _ in range(_BOOKMARK_TRIES):
        if "bookmarks" not in answer:
            break
        _destroy_newest_bookmarks(pool, answer["bookmarks"])
        answer = _remove(pool, root, words)
    if "bookmarks" in answer:
        raise StorageError("{} cannot be removed: somebody keeps making bookmarks.".format(answer["bookmarks"]))
    if "missing" in answer:
        raise Missing(answer["missing"])
    if "error" in answer:
        raise _refused(answer["error"], "{} cannot be removed".format(answer["at"]))
    stuck = _listed(answer["stuck"])
    if stuck:
        try:
            prune(pool, root, stuck)
        except StorageError as error:  # the VDI is removed nevertheless; SR.attach tries again
            log.warning(f"{root}: bookmarks keep space of removed disks: {error}")
    return Left(dict(answer["kept"]), _listed(answer["foreign"]), _listed(answer["bases"]))


def _listed(table: "dict[str, str]") -> "list[str]":
    """The values of a table of Lua's; an empty one becomes an empty JSON object, too."""
    return list(table.values())


def _destroy_newest_bookmarks(pool: Pool, zvol: str) -> None:
    """Destroys the bookmarks that are newer than the zvol's newest snapshot and so prevent a rollback to it.

    They hold no data, and are useless to their owners, since the zvol will get no newer content. Replication can
    continue from the other bookmarks. The driver's own are useless, too: nothing that is left was made after them.
    """
    rows = datasets.listing(pool, zvol, types="snapshot,bookmark", columns=("name", "createtxg"))
    made = {name: int(txg) for name, txg in rows}
    newest = max((txg for name, txg in made.items() if "@" in name), default=0)
    for name, txg in made.items():
        if "#" in name and txg > newest:
            try:
                changes.destroy(pool, name)
            except Missing:
                pass  # its owner has destroyed it


def open_below(pool: Pool, root: str) -> "list[str]":
    """The zvols and snapshots below a root that a program or the kernel has open.

    It changes nothing, and still waits for a transaction group: in a read-only channel program, `zfs.check.rollback`
    answers 0 for an open zvol (2.1 and 2.3), and no other check finds an open zvol with snapshots.
    """
    found = json.loads(pool.read(_removal(root, "open")))["return"]["open"]
    return sorted(_listed(found))


def _refused(number: int, sentence: str) -> StorageError:
    """The error for an errno from a channel program."""
    kind = NoSpace if number == errno.ENOSPC else StorageError
    return kind(f"{sentence}: {os.strerror(number)}.")


def _remove(pool: Pool, root: str, words: "list[str]") -> "dict[str, Any]":
    def attempt() -> "dict[str, Any]":
        answer: "dict[str, Any]" = json.loads(pool.change(_removal(root, *words)))["return"]
        if "busy" in answer:
            raise Busy(answer["busy"])
        return answer

    return when_idle(attempt)


def prune(pool: Pool, root: str, names: "list[str]") -> None:
    """Destroys those of the removed zvols and of the driver's snapshots that nothing was made from.

    It also destroys what only these needed. It rolls a removed zvol that is still needed back to its newest snapshot,
    and destroys the bookmarks that prevent it. It touches no other zvols and snapshots. A hundred datasets in one
    transaction.
    """
    todo = names
    for _ in range(_BOOKMARK_TRIES):
        stuck: "list[str]" = []
        for start in range(0, len(todo), _PRUNED_AT_ONCE):
            output = pool.change(_removal(root, "prune", *todo[start : start + _PRUNED_AT_ONCE]))
            stuck += _listed(json.loads(output)["return"]["stuck"])
        for zvol in stuck:
            _destroy_newest_bookmarks(pool, zvol)
        todo = stuck


def _removal(root: str, *words: str) -> "list[str]":
    removed = time.strftime(naming.DATE, time.gmtime())
    temporary = key_property(naming.TEMPORARY)
    own = [root, naming.VDI_NAME, naming.VDI_REMOVED, removed, temporary, naming.VDI_METADATA]
    return ["zfs", "program", "-j", root.partition("/")[0], _REMOVE, *own, *words]


def set_on_vdis(pool: Pool, names: "list[str]", values: "dict[str, str]", unset: "Sequence[str]" = ()) -> int:
    """Sets and unsets user properties of VDIs, a thousand VDIs in one transaction; returns how many were changed.

    Skips datasets that do not exist or are removed VDIs; `zfs set` would change the remains of a removed one. What is
    to be unset need not be set. Raises NoSpace.
    """
    pairs = [word for pair in values.items() for word in pair]
    words = [str(len(values)), str(len(unset)), *pairs, *unset]
    changed = 0
    for start in range(0, len(names), _SET_AT_ONCE):
        some = names[start : start + _SET_AT_ONCE]
        argv = ["zfs", "program", "-j", pool.name, _SET, naming.VDI_NAME, naming.VDI_REMOVED, *words, *some]
        answer = json.loads(pool.change(argv))["return"]
        if "error" in answer:
            raise _refused(answer["error"], f"The properties of {some[0]} cannot be changed")
        changed += answer["changed"]
    return changed
