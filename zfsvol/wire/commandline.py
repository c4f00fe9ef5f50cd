# SPDX-License-Identifier: LGPL-2.1-only
"""Verbs called by people and by static-vdis, through the command line of xapi-storage's own library.

The library is generated from the interface: `SR.attach DBG --configuration zpool tank --configuration sr_uuid …`,
`Volume.stat DBG SR KEY`; `--help` shows the rest. It prints the answer as JSON. Only this mode imports it.
"""

import importlib
import sys

from zfsvol.errors import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_LIBRARY = "xapi.storage.api.v5."
_MODULES = {"Plugin": "plugin", "Datapath": "datapath", "Data": "datapath"}  # all others are in volume


def run(verb: str, function: "Callable[..., Any]") -> int:
    """Runs the verb's function with the arguments in sys.argv. Returns the exit status."""
    namespace = verb.partition(".")[0]
    method = verb.partition(".")[2].lower()
    try:
        library = importlib.import_module(_LIBRARY + _MODULES.get(namespace, "volume"))
    except ImportError as error:
        sys.stderr.write(f"{verb} without --json needs the package python3-xapi-storage: {error}.\n")
        return 1
    skeleton = getattr(library, namespace + "_skeleton")
    body = {method: staticmethod(_for_people(verb, function))}
    implementation = type("Implementation", (skeleton,), body)
    getattr(getattr(library, namespace + "_commandline")(implementation()), method)()
    return 0


def _for_people(verb: str, function: "Callable[..., Any]") -> "Callable[..., Any]":
    """The verb's function, which reports an error as a sentence and not, like the library, as a traceback."""

    def carry_out(*arguments: "Any") -> "Any":
        try:
            return function(*arguments)
        except StorageError as error:
            sys.stderr.write(f"{verb}: {error} ({error.code})\n")
            raise SystemExit(1) from None

    return carry_out
