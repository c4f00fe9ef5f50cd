# SPDX-License-Identifier: LGPL-2.1-only
"""Calls verbs as xapi-storage-script does: argv, --json, one JSON object on stdin, both pipes read to their ends."""

import json
import os
from pathlib import Path
import subprocess
from typing import Any
import uuid as uuids

from tests import contract
from zfsvol.errors import StorageError
from zfsvol.wire import protocol, table

CHECKOUT = Path(__file__).resolve().parent.parent
PLUGIN = Path(os.environ.get("ZFSVOL_PLUGIN", str(CHECKOUT / "volume" / "org.xen.xapi.storage.zfs-vol")))
DATAPATH = PLUGIN.parent.parent / "datapath" / "zvol"
# Seconds. The client waits for ever, but a verb that takes longer than this counts as hung.
LIMIT = 300


class VerbError(Exception):
    """A verb's answer with status 1."""

    def __init__(self, answer: "dict[str, Any]") -> None:
        super().__init__(answer["code"], answer["params"])
        self.code: str = answer["code"]
        self.sentence: str = answer["params"][1]


def environment() -> "dict[str, str]":
    """A verb's environment: the path of the library, which an installed verb finds by itself."""
    return {**os.environ, "PYTHONPATH": os.environ.get("ZFSVOL_LIBRARY", str(CHECKOUT))}


def executable(verb: str) -> str:
    """The verb's program; for Plugin.Query, that of the volume plugin."""
    return str((DATAPATH if verb.startswith("Data") else PLUGIN) / verb)


def verbs_beside(verb: str) -> "table.Verbs":
    """All verbs of this verb's plugin."""
    return table.DATAPATH if verb.startswith("Data") else table.VOLUME


def argv(verb: str) -> "list[str]":
    """The verb's command line, under the interpreter of ZFSVOL_PYTHON if that is set."""
    python = os.environ.get("ZFSVOL_PYTHON")
    return [*([python, "-S"] if python else []), executable(verb), "--json"]


def start(verb: str, **arguments: Any) -> "subprocess.Popen[bytes]":
    """Starts a verb and sends its arguments; `finish` reads the answer."""
    request = {"dbg": "test", **arguments}
    process = subprocess.Popen(
        argv(verb), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
    except BrokenPipeError:
        pass
    process.stdin = None
    return process


def finish(verb: str, process: "subprocess.Popen[bytes]") -> Any:
    """The verb's answer, checked against the contract; raises VerbError."""
    stdout, stderr = process.communicate(timeout=LIMIT)
    return understand(verb, process.returncode, stdout, stderr)


def understand(verb: str, status: int, stdout: bytes, stderr: bytes) -> Any:
    """The client's interpretation of a verb's status and output; raises VerbError."""
    answer = json.loads(stdout)
    assert stderr == b"", stderr.decode()
    if status == 0:
        contract.check_result(verb, answer)
        return answer
    assert status == 1
    contract.check_error(answer)
    raise VerbError(answer)


def call(verb: str, **arguments: Any) -> Any:
    """Runs a verb with arguments as the client sends them; raises VerbError."""
    contract.check_arguments(verb, {"dbg": "test", **arguments})
    return finish(verb, start(verb, **arguments))


def call_inside(verb: str, **arguments: Any) -> Any:
    """The same within this process, several times as fast: for tests of many steps. Raises VerbError."""
    arguments = {"dbg": "test", **arguments}
    contract.check_arguments(verb, arguments)
    try:
        answer = protocol.implementation(verbs_beside(verb), verb)(**arguments)
    except StorageError as error:
        raise VerbError({"code": error.code, "params": error.params}) from None
    contract.check_result(verb, json.loads(json.dumps(answer)))
    return answer


def refused(code: str, verb: str, **arguments: Any) -> str:
    """Calls a verb within this process that must fail with this code; returns its sentence."""
    try:
        call_inside(verb, **arguments)
    except VerbError as error:
        refusal = error
    else:
        raise AssertionError(f"{verb} was not refused")
    assert refusal.code == code, refusal
    return refusal.sentence


def call_badly(verb: str, **arguments: Any) -> Any:
    """The same with arguments that no client should send."""
    return finish(verb, start(verb, **arguments))


def raw(verb: str, request: bytes) -> Any:
    """Runs a verb with exactly these bytes on its stdin; raises VerbError."""
    done = subprocess.run(
        argv(verb), input=request, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), timeout=LIMIT
    )
    return understand(verb, done.returncode, done.stdout, done.stderr)


def keys_of_snapshot(source: "dict[str, Any]", made: "dict[str, Any]") -> "list[tuple[str, str]]":
    """The keys that xapi sets on a snapshot after Volume.snapshot, in its order (contract 3.1)."""
    return [
        ("is_a_snapshot", "true"),
        ("snapshot_of", source["key"]),
        ("vdi-type", "user"),
        ("content_id", source["keys"]["content_id"]),
        ("snapshot_time", made["keys"]["snapshot_time"]),
    ]


def new_uuid() -> str:
    """A random uuid in xapi's format."""
    return str(uuids.uuid4())
