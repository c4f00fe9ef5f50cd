# SPDX-License-Identifier: LGPL-2.1-only
"""The protocol between xapi-storage-script and a verb: one JSON object in, one JSON value out.

The client runs `<verb> --json`, sends the named arguments as one JSON object and reads both pipes to their end. The
verb writes its result to stdout and exits with 0, or writes `{code, params, backtrace}` and exits with 1. Any other
byte on stdout would break the call. Without --json a verb is a command for people: see `commandline`.
"""

import importlib
import json
import os
import sys
import time

from zfsvol import log
from zfsvol.errors import InvalidArgument, StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from zfsvol.wire.table import Verbs


def main(verbs: "Verbs") -> None:
    """Runs the verb named by argv[0]. Never returns."""
    verb = os.path.basename(sys.argv[0])
    if verb not in verbs:
        sys.exit("{}: call it by the name of a verb: {}.".format(verb, ", ".join(verbs)))
    if "--json" in sys.argv[1:]:
        status = serve(verbs, verb)
        try:
            sys.stdout.flush()
        finally:
            os._exit(status)  # the answer is out: the user need not wait until Python has removed all modules
    from zfsvol.wire import commandline  # only needed for people

    function = implementation(verbs, verb)
    sys.exit(commandline.run(verb, function))


def implementation(verbs: "Verbs", verb: str) -> "Callable[..., Any]":
    """The function that runs a verb. Imports only that verb's module."""
    module, function, _ = verbs[verb]
    found = getattr(importlib.import_module("zfsvol.verbs." + module), function)
    return found  # type: ignore[no-any-return]


def serve(verbs: "Verbs", verb: str) -> int:
    """Answers the request on stdin and returns the exit status: 0, or 1 if the answer is an error."""
    # stdout is for the answer alone: anything else printed goes to stderr, which the client logs.
    answer_pipe = os.dup(1)
    os.dup2(2, 1)
    os.chdir("/")  # children that are left behind keep it in use
    began = time.monotonic()
    arguments: "dict[str, Any]" = {}
    try:
        arguments = _arguments(verbs, verb, sys.stdin.buffer.read())
        answer = implementation(verbs, verb)(**arguments)
        status = 0
    except Exception as error:  # noqa: BLE001 - the client must get an answer in any case
        answer = _failure(error)
        status = 1
    _log(verb, arguments, time.monotonic() - began, answer if status else None)
    data = json.dumps(answer).encode("ascii")
    try:
        while data:
            data = data[os.write(answer_pipe, data) :]
    except BrokenPipeError:
        log.warning(f"{verb}: the client went away before it got the answer")
    return status


def _arguments(verbs: "Verbs", verb: str, data: bytes) -> "dict[str, Any]":
    """The verb's arguments, with their types checked; drops arguments that the interface does not define."""
    try:
        request = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidArgument(f"{verb}: the request is not UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{verb}: the request is not JSON: {error}.") from None
    if not isinstance(request, dict):
        raise InvalidArgument(f"{verb}: the request is not a JSON object.")
    wanted: "dict[str, type]" = {"dbg": str}
    wanted.update(verbs[verb][2])
    for name, kind in wanted.items():
        if name not in request:
            raise InvalidArgument(f"{verb}: the argument '{name}' is missing.")
        if not _is_of(kind, request[name]):
            kinds = {
                str: "a text",
                int: "a whole number",
                bool: "true or false",
                dict: "an object of texts",
                list: "a list of texts",
            }
            raise InvalidArgument(f"{verb}: the argument '{name}' is not {kinds[kind]}.")
    return {name: request[name] for name in wanted}


def _is_of(kind: type, value: object) -> bool:
    if isinstance(value, (dict, list)):
        texts = value.values() if isinstance(value, dict) else value
        return type(value) is kind and all(isinstance(text, str) for text in texts)
    return type(value) is kind  # a bool is an int to isinstance


def _failure(error: Exception) -> "dict[str, object]":
    files = []
    lines = []
    trace = error.__traceback__
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        lines.append(trace.tb_lineno)
        trace = trace.tb_next
    if isinstance(error, StorageError):
        code, params = error.code, error.params
    else:  # a bug in the driver: reported as the client's own library reports unknown exceptions
        code, params = StorageError.code, [type(error).__name__, str(error)]
    return {"code": code, "params": params, "backtrace": {"error": str(error), "files": files, "lines": lines}}


def _log(verb: str, arguments: "dict[str, Any]", seconds: float, failure: "dict[str, Any] | None") -> None:
    words = [verb]
    for name in ("dbg", "uuid", "sr", "key", "k", "uri", "domain", "remote", "operation"):
        if name in arguments:
            words.append(f"{name}={arguments[name]}")
    words.append(f"{seconds * 1000:.0f} ms")
    if failure is None:
        log.info("{}: ok".format(" ".join(words)))
        return
    trace = failure["backtrace"]
    place = "{}:{}".format(trace["files"][-1], trace["lines"][-1])
    log.warning("{}: failed: {} {} at {}".format(" ".join(words), failure["code"], failure["params"], place))
