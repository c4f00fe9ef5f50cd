# SPDX-License-Identifier: LGPL-2.1-only
"""An SR's root dataset as the verbs find it: from the client's string to its properties. Reads only."""

from zfsvol import naming, zfs
from zfsvol.errors import SRUnavailable
from zfsvol.naming import Root


def find(sr: str) -> Root:
    """The root that the client's `sr` names, its pool imported and able to answer.

    Raises InvalidArgument (no SR of this driver), SRUnavailable. No child process; whether the dataset is there is
    for the command that follows to tell.
    """
    root = naming.parse_sr(sr)
    zfs.require_pool(root.pool)
    return root


def read(root: Root) -> "dict[str, str]":
    """The root's own properties. Raises SRUnavailable where the pool holds no such SR."""
    try:
        values = zfs.properties(root.dataset)
    except zfs.Missing:
        raise missing(root) from None
    return require(root, values)


def below(dataset: str) -> "list[Root]":
    """The roots of all SRs in a pool, or below a dataset. Raises zfs.Missing."""
    rows = zfs.datasets(dataset, types="filesystem", columns=("name", naming.SR_UUID))
    return [Root(name) for name, uuid in rows if naming.is_root(name) and Root(name).uuid == uuid]


def require(root: Root, values: "dict[str, str]") -> "dict[str, str]":
    """`values`, if they are those of the root of this SR. Raises SRUnavailable."""
    if values.get(naming.SR_UUID) != root.uuid:
        raise missing(root)
    return values


def missing(root: Root) -> SRUnavailable:
    """The error for a root that is not there, or is not the root of this SR."""
    return SRUnavailable(f"The pool {root.pool} holds no SR {root.uuid}.")
