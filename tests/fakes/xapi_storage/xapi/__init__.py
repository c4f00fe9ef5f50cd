# SPDX-License-Identifier: LGPL-2.1-only
"""Stand-in for the package `xapi` of python3-xapi-storage, for tests on machines without it.

The genuine package is made while xapi is built: rpclib's pythongen generates the modules below `xapi.storage.api.v5`
from the interface description, and this package holds their common code. The stand-in makes the same classes from the
table in tests/contract.py. It behaves like the generated code, even where that is surprising:

* results are checked as the plugin's Python values: an absent mandatory member is a KeyError, an optional member must
  be left out rather than None, a pair must be a tuple, a boolean passes for an integer, null is not checked at all;
* in JSON mode one line is read from the standard input, and an exception becomes the client's error object on the
  standard output, with the exception's own `code` and `params` if it has them, and exit status 1;
* in command-line mode arguments are positional, in the order of the interface, dictionaries are repeated options
  (`--configuration key value`), and an exception is printed as a traceback and raised again.
"""

import argparse
import json
import sys
import traceback


class XenAPIException(Exception):
    """An error with a XenAPI code and parameters."""

    def __init__(self, code, params):
        super().__init__()
        if not isinstance(code, str):
            raise TypeError("string", repr(code))
        if not isinstance(params, list):
            raise TypeError("list", repr(params))
        self.code = code
        self.params = params


class Rpc_light_failure(Exception):
    """Base of the errors that the interface declares. It has no `code`: the client sees SR_BACKEND_FAILURE."""

    def __init__(self, name, args):
        super().__init__()
        self.name = name
        self.args = args

    def failure(self):
        """Return the error as an RPC response."""
        arguments = list(self.args)
        return {
            "Status": "Failure",
            "ErrorDescription": [self.name, arguments[0] if len(arguments) == 1 else arguments],
        }


class Unimplemented(Rpc_light_failure):
    """The verb is not implemented."""

    def __init__(self, name):
        super().__init__("Unimplemented", [name])


class InternalError(Rpc_light_failure):
    """The generated code itself found an error."""

    def __init__(self, error):
        super().__init__("Internal_error", [error])


class UnmarshalException(InternalError):
    """The arguments are not an object, or one of them is missing."""

    def __init__(self, thing, ty, desc):
        super().__init__(f"UnmarshalException thing={thing} ty={ty} desc={desc}")


class TypeError(InternalError):
    """An argument or a result has the wrong type."""

    def __init__(self, expected, actual):
        super().__init__(f"TypeError expected={expected} actual={actual}")


class UnknownMethod(InternalError):
    """The interface has no such verb."""

    def __init__(self, name):
        super().__init__("Unknown method " + name)


class ListAction(argparse.Action):
    """Collects `--name key value` options into a dictionary."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Add one key and its value."""
        collected = dict(getattr(namespace, self.dest, None) or {})
        collected[values[0]] = values[1]
        setattr(namespace, self.dest, collected)


def success(result):
    """Return a result as an RPC response."""
    return {"Status": "Success", "Value": result}


def handle_exception(error):
    """Print the exception being handled as the client's error object, and exit."""
    kind, value, trace = sys.exc_info()
    frames = traceback.extract_tb(trace)
    answer = {
        "code": getattr(error, "code", "SR_BACKEND_FAILURE"),
        "params": getattr(error, "params", [kind.__name__, str(value)]),
        "backtrace": {
            "error": str(value),
            "files": [frame[0] for frame in frames],
            "lines": [frame[1] for frame in frames],
        },
    }
    print(json.dumps(answer))
    sys.exit(1)
