# SPDX-License-Identifier: LGPL-2.1-only
"""An SR's state as the client sees it: sizes, names, and one sentence on the health of its pool."""

from zfsvol import naming, properties
from zfsvol.errors import SRUnavailable
from zfsvol.naming import Root
from zfsvol.repository import family
from zfsvol.repository.sr import SR
from zfsvol.zfs import datasets, text
from zfsvol.zfs.pool import Missing, Pool


def kept(sr: SR) -> str:
    """How much space of deleted disks other programs' snapshots keep, in a sentence; "" if none."""
    return family.kept_sentence(*family.graves(sr))


def stat(pool: Pool, dataset: str, root: Root, notes: "list[str]") -> "dict[str, object]":
    """The interface's `sr_stat` of the SR `root`, whose root dataset in `pool` is called `dataset` now.

    `notes`: sentences to add to its health. Raises SRUnavailable.
    """
    try:
        values, status = datasets.properties_and_status(pool, dataset)
    except Missing:
        values, status = {}, ""
    if values.get(naming.SR_UUID) != root.uuid:
        raise SRUnavailable(f"The pool {root.pool} holds no SR {root.uuid}.")
    free = int(values["available"])
    sentences = [text.read(status)[0].health(), *notes]
    return _sr_stat(
        root,
        name=properties.text(values, naming.SR_NAME),
        description=properties.text(values, naming.SR_DESCRIPTION),
        free=free,
        total=free + int(values["used"]),
        # Always Healthy: xapi refuses to scan an SR with any other word, and a degraded pool works. The text says more.
        health=["Healthy", "; ".join(sentences)],
    )


def unreadable(root: Root, obstacle: str) -> "dict[str, object]":
    """The `sr_stat` of an SR whose pool cannot be imported for a look, so that its sizes are unknown."""
    return _sr_stat(root, name=root.dataset, description=obstacle, free=0, total=0, health=["Unavailable", obstacle])


def _sr_stat(
    root: Root, *, name: str, description: str, free: int, total: int, health: "list[str]"
) -> "dict[str, object]":
    return {
        "sr": root.dataset,
        "uuid": root.uuid,
        "name": name,
        "description": description,
        "free_space": free,
        "total_space": total,
        "datasources": [],
        "clustered": False,
        "health": health,
    }
