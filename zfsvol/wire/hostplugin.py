# SPDX-License-Identifier: LGPL-2.1-only
"""The functions of care for `xe host-call-plugin plugin=zfs-vol fn=…`, and for XO.

XCP-ng's own module XenAPIPlugin reads the call, and prints the answer or the failure. Arguments and answers are texts;
an answer is JSON in ASCII.
"""

import json

from zfsvol.errors import StorageError
from zfsvol.wire import functions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


def table(failure: "Callable[[str, list[str]], Exception]") -> "dict[str, Callable[[object, dict[str, str]], str]]":
    """The table for XenAPIPlugin.dispatch. `failure`: the class XenAPIPlugin.Failure, for every error."""
    return {name: _served(name, failure) for name in functions.FUNCTIONS}


def _served(name: str, failure: "Callable[[str, list[str]], Exception]") -> "Callable[[object, dict[str, str]], str]":
    def serve(_session: object, arguments: "dict[str, Any]") -> str:
        try:
            return json.dumps(functions.call(name, arguments))
        except StorageError as error:
            raise failure(error.code, list(map(_ascii, error.params))) from None
        except Exception as error:  # noqa: BLE001 - a bug in the driver: xapi must get an answer in any case
            raise failure(StorageError.code, [type(error).__name__, _ascii(str(error))]) from None

    return serve


def _ascii(text: str) -> str:
    """The text without control characters, which XML cannot hold, and others that a C locale cannot print."""
    return text.encode("unicode_escape").decode("ascii")
