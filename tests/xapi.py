# SPDX-License-Identifier: LGPL-2.1-only
"""A stand-in for xapi, which needs a Xen host: XML-RPC over HTTP on a Unix socket, for sessions and messages.

It checks what xapi's `message.create` checks (ocaml/xapi/xapi_message.ml): the session, the number and form of the
arguments, where integers are decimal strings, the priority's and the class's range, that the body is text that XML
can carry, and that the object exists. It does not check who logs in: on this socket xapi does not, either.
"""

import os
from pathlib import Path
import re
import socketserver
import threading
from typing import Any, Callable, Dict, List, NamedTuple, Set
import uuid as uuids
from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCRequestHandler

# Where dom0's XenAPI module looks for it.
SOCKET = Path("/var/lib/xcp/xapi")

_CLASSES = ("VM", "Host", "SR", "Pool", "VMPP", "VMSS", "PVS_proxy", "VDI", "Certificate")
_NOT_IN_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Message(NamedTuple):
    """A message that it has taken."""

    name: str
    priority: int
    cls: str
    obj_uuid: str
    body: str


class _Failure(Exception):
    pass


class _Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/", "/RPC2")
    disable_nagle_algorithm = False  # there is none on a Unix socket

    def address_string(self) -> str:
        return "a Unix socket"


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer, SimpleXMLRPCDispatcher):
    daemon_threads = True
    logRequests = False  # noqa: N815 - the handler's name for it

    def __init__(self, path: str) -> None:
        SimpleXMLRPCDispatcher.__init__(self, allow_none=False, encoding="utf-8")
        socketserver.UnixStreamServer.__init__(self, path, _Handler)


class Xapi:
    """Runs from `start` until `stop`. `messages`: what it has taken. `srs`: the SRs that it knows."""

    def __init__(self) -> None:
        self.messages: "List[Message]" = []
        self.srs: "Set[str]" = set()
        self.sessions: "Set[str]" = set()
        self.can_write = True
        self._server: "_Server | None" = None

    def start(self) -> None:
        SOCKET.parent.mkdir(parents=True, exist_ok=True)
        SOCKET.unlink() if SOCKET.exists() else None
        self._server = _Server(str(SOCKET))
        functions: "Dict[str, Callable[..., Any]]" = {
            "session.login_with_password": self._login,
            "session.logout": self._logout,
            "message.create": self._create,
        }
        for name, function in functions.items():
            self._server.register_function(self._answering(function), name)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """It goes away, as at a toolstack restart: with its sessions."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            os.unlink(SOCKET)
            self._server = None
        self.sessions.clear()

    def _answering(self, function: "Callable[..., Any]") -> "Callable[..., Dict[str, Any]]":
        def answer(*arguments: Any) -> "Dict[str, Any]":
            try:
                return {"Status": "Success", "Value": function(*arguments)}
            except _Failure as failure:
                return {"Status": "Failure", "ErrorDescription": list(failure.args)}
            except TypeError:
                return {"Status": "Failure", "ErrorDescription": ["MESSAGE_PARAMETER_COUNT_MISMATCH"]}

        return answer

    def _login(self, user: str, password: str, version: str, originator: str) -> str:
        session = f"OpaqueRef:{uuids.uuid4()}"
        self.sessions.add(session)
        return session

    def _logout(self, session: str) -> str:
        self._require_session(session)
        self.sessions.remove(session)
        return ""

    def _require_session(self, session: str) -> None:
        if session not in self.sessions:
            raise _Failure("SESSION_INVALID", session)

    def _create(self, session: str, name: str, priority: str, cls: str, obj_uuid: str, body: str) -> str:
        self._require_session(session)
        texts = {"name": name, "priority": priority, "cls": cls, "obj_uuid": obj_uuid, "body": body}
        for field, value in texts.items():
            if not isinstance(value, str):
                raise _Failure("FIELD_TYPE_ERROR", field)
        if not re.match(r"-?\d+\Z", priority):
            raise _Failure("FIELD_TYPE_ERROR", "priority")
        if cls not in _CLASSES:
            raise _Failure("INVALID_VALUE", "cls", cls)
        if _NOT_IN_XML.search(body):
            raise _Failure("INVALID_VALUE", "UTF8 expected")
        if cls != "SR" or obj_uuid not in self.srs:
            raise _Failure("UUID_INVALID", cls, obj_uuid)
        if not self.can_write:
            return "OpaqueRef:NULL"
        self.messages.append(Message(name, int(priority), cls, obj_uuid, body))
        return f"OpaqueRef:{uuids.uuid4()}"
