# SPDX-License-Identifier: LGPL-2.1-only
"""A stand-in for XCP-ng's module XenAPIPlugin, which is on no package index. Not the genuine one.

It keeps to what plugins and xapi see of it: the call is XML-RPC in argv[1], (session, {argument: text}), its method the
function's name. The answer on stdout is an XML-RPC response with a dictionary: Status Success and Value, or Status
Failure and ErrorDescription, a list of texts that begins with the code. The genuine one makes a XenAPI session, which
has not logged in, from the first parameter; here it is passed as it is.
"""

import sys
import xmlrpc.client


class Failure(Exception):
    """What a function raises to fail with a code and texts."""

    def __init__(self, code, params):
        super().__init__()
        self.params = [code, *params]

    def __str__(self):
        return str(self.params)


def dispatch(table):
    """Calls the function that argv[1] names."""
    if len(sys.argv) != 2:
        sys.exit("Incorrect number of commandline arguments")
    (session, arguments), name = xmlrpc.client.loads(sys.argv[1])
    answer = {"Status": "Failure"}
    if name in table:
        try:
            answer = {"Status": "Success", "Value": table[name](session, arguments)}
        except Failure as error:
            answer["ErrorDescription"] = error.params
        except Exception as error:
            answer["ErrorDescription"] = ["XENAPI_PLUGIN_FAILURE", name, type(error).__name__, str(error)]
    else:
        answer["ErrorDescription"] = ["UNKNOWN_XENAPI_PLUGIN_FUNCTION", name]
    print(xmlrpc.client.dumps((answer,), "", True))
