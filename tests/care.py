# SPDX-License-Identifier: LGPL-2.1-only
"""Calls the functions of care within this process, with texts and answers as through xapi."""

import json
import subprocess
from typing import Any

import pytest

from zfsvol.errors import StorageError
from zfsvol.wire import functions

WRONG, IN_USE, UNAVAILABLE, NO_SPACE = (f"SR_BACKEND_FAILURE_{number}" for number in (1, 16, 47, 44))
LOCKED = "SR_BACKEND_FAILURE_37"
INVALID_DEVICE, NO_DISK, FAILED = "SR_BACKEND_FAILURE_91", "SR_BACKEND_FAILURE_46", "SR_BACKEND_FAILURE"


def call(name: str, sr: str = "", **arguments: str) -> Any:
    """Calls a function; `sr`: the SR's root dataset. Raises StorageError."""
    given = {argument.replace("_", "-"): value for argument, value in arguments.items()}
    if sr:
        given["sr-uuid"] = sr
    return json.loads(json.dumps(functions.call(name, given)))


def told(name: str, sr: str, **arguments: str) -> Any:
    """The answer of a dry run; checks that it has changed nothing."""
    before = state(sr)
    answer = call(name, sr, dry_run="true", **arguments)
    assert answer["done"] is False
    assert state(sr) == before
    return answer


def refused(code: str, name: str, sr: str, **arguments: str) -> str:
    """Calls a function that must fail with this code, and change nothing; returns its sentence."""
    before = state(sr)
    with pytest.raises(StorageError) as caught:
        call(name, sr, **arguments)
    assert caught.value.code == code, caught.value
    assert state(sr) == before
    return str(caught.value)


def risky(name: str, sr: str, **arguments: str) -> str:
    """Calls a function that must ask for force; checks that a dry run tells the same. Returns what would be lost."""
    sentence = refused(WRONG, name, sr, **arguments)
    (risk,) = told(name, sr, **arguments)["needs-force"]
    assert sentence == f"{risk} Nothing was changed; force=true does it all the same."
    return str(risk)


def state(sr: str) -> str:
    """The devices of the SR's pool, and all that is set on its datasets. What changes by itself is left out."""
    pool = sr.partition("/")[0]
    commands = (
        ["zpool", "list", "-vHP", "-o", "name,health", pool],
        ["zpool", "get", "-H", "-o", "property,value", "autotrim,autoexpand,ashift", pool],
        ["zfs", "get", "-rH", "-s", "local,received", "-o", "name,property,value", "all", pool],
    )
    printed = [subprocess.run(argv, stdout=subprocess.PIPE, universal_newlines=True).stdout for argv in commands]
    rows = [line.split("\t") for line in printed[0].splitlines()]
    return "".join([*(f"{row[1]} {row[-1]}\n" for row in rows if len(row) > 1), *printed[1:]])
