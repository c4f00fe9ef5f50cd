# SPDX-License-Identifier: LGPL-2.1-only
"""Runs the host plugin `zfs-vol` as xapi does for `xe host-call-plugin`."""

import json
import os
from pathlib import Path
import subprocess
from typing import Any, List
import xmlrpc.client

from tests import client

PLUGIN = Path(os.environ.get("ZFSVOL_XAPI_PLUGIN", str(client.CHECKOUT / "plugins" / "zfs-vol")))
STAND_IN = str(client.CHECKOUT / "tests" / "fakes" / "xapi_plugin")


def argv(*words: str) -> "List[str]":
    return [os.environ.get("ZFSVOL_PYTHON", "/usr/bin/python3"), *words]


def environment() -> "dict[str, str]":
    """Without a locale, as dom0's services; with the stand-in for XCP-ng's module unless that is installed."""
    env = {**client.environment(), "LC_ALL": "C"}
    if subprocess.run(argv("-c", "import XenAPIPlugin"), stderr=subprocess.PIPE, timeout=60).returncode:
        env["PYTHONPATH"] += ":" + STAND_IN
    return env


def as_xapi(function: str, **arguments: str) -> Any:
    """Runs the plugin as xapi does; returns its answer. Raises AssertionError with the failure."""
    given = {name.replace("_", "-"): value for name, value in arguments.items()}
    done = subprocess.run(
        argv(str(PLUGIN), xmlrpc.client.dumps(("OpaqueRef:session", given), function)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=client.LIMIT,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    answer: Any = xmlrpc.client.loads(done.stdout)[0][0]
    assert answer["Status"] == "Success", answer
    return json.loads(answer["Value"])
