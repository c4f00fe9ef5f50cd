# SPDX-License-Identifier: LGPL-2.1-only
"""Guests of the lab, controlled by tests that run on the machine around them."""

import json
import os
import subprocess
from typing import Any

from tests.client import CHECKOUT, VerbError

VM = str(CHECKOUT / "lab" / "vm")
ZFS = os.environ.get("ZFSVOL_LAB_ZFS", "2.1")
# Seconds; booting takes three.
LIMIT = 180

_CALL = """
import json, sys
from tests import client
try:
    print(json.dumps(["ok", client.call(sys.argv[1], **json.loads(sys.argv[2]))]))
except client.VerbError as error:
    print(json.dumps(["refused", {"code": error.code, "params": ["", error.sentence, ""]}]))
"""


class Guest:
    """A guest by name; its disks stay when it is killed."""

    def __init__(self, name: str) -> None:
        self.name = f"test-{os.getpid()}-{name}"

    def _vm(self, verb: str, *words: str) -> str:
        argv = [VM, verb, "--name", self.name, *words]
        done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *options: str) -> None:
        """Boots it. Like a host it has the same host id each time, unless `options` say otherwise."""
        hostid = [] if "--hostid" in options else ["--hostid", "0badcafe"]
        self._vm("start", "--zfs", ZFS, *hostid, *options)

    def crash(self) -> None:
        """Cuts its power."""
        self._vm("crash")

    def remove(self) -> None:
        """Kills it and deletes its disks."""
        self._vm("remove")

    def run(self, *argv: str) -> str:
        """Runs a command in it and returns its stdout."""
        return self._vm("exec", "--", *argv)

    def begin(
        self, *argv: str, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        """Starts a command in it. Its stdout can be read while it runs."""
        return subprocess.Popen(
            [VM, "exec", "--name", self.name, "--", *argv],
            cwd=CHECKOUT,
            stdin=stdin,
            stdout=stdout,
            text=True,
        )

    def call(self, verb: str, **arguments: Any) -> Any:
        """Runs a verb in it; raises VerbError."""
        output = self.run("/usr/bin/python3", "-c", _CALL, verb, json.dumps(arguments))
        outcome, answer = json.loads(output)
        if outcome == "refused":
            raise VerbError(answer)
        return answer
