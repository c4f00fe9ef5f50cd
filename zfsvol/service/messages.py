# SPDX-License-Identifier: LGPL-2.1-only
"""Hands messages to xapi, which shows them to XO's and XenCenter's users. A thread of its own: xapi may hang.

Each is a XenAPI message of the SR (`message.create`, class SR), by dom0's own XenAPI module on the local socket. While
xapi is away they wait in the journal, and are sent in their order when it is back.
"""

import socket
import threading

from zfsvol import log
from zfsvol.repository.journal import Journal, Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Seconds.
_PAUSE = 15  # after a failure
_LIMIT = 60  # for one answer

# What xapi answers about an SR that it does not know (somebody attached the SR by hand), and if it cannot write.
_UNKNOWN = "UUID_INVALID"
_NOT_WRITTEN = "OpaqueRef:NULL"


class Sender:
    """Sends the unsent messages of the journals that it is given."""

    def __init__(self) -> None:
        self._journals: "dict[str, Journal]" = {}  # by the SR's uuid
        self._wake = threading.Event()
        self._is_away = False

    def start(self, stop: threading.Event) -> None:
        """Sends until `stop` is set."""
        threading.Thread(target=self._run, args=(stop,), name="messages", daemon=True).start()

    def send(self, uuid: str, journal: Journal) -> None:
        """Has the unsent messages of this SR's journal sent soon. Returns at once."""
        self._journals[uuid] = journal
        self._wake.set()

    def _run(self, stop: threading.Event) -> None:
        socket.setdefaulttimeout(_LIMIT)  # XenAPI's module sets none, and no other part of the service uses sockets
        while not stop.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                self._send_all()
                self._is_away = False
            except Exception as error:  # noqa: BLE001 - of many kinds: whatever it is, xapi may be back later
                if not self._is_away:
                    log.warning(f"messages wait until xapi takes them: {error!r}")
                self._is_away = True
                self._wake.set()
                stop.wait(_PAUSE)

    def _send_all(self) -> None:
        todo = [(uuid, journal) for uuid, journal in list(self._journals.items()) if journal.unsent]
        if not todo:
            return
        import XenAPI  # only a Xen host has it

        session = XenAPI.xapi_local()
        session.xenapi.login_with_password("root", "", "1.0", "zfs-vol")
        try:
            for uuid, journal in todo:
                for message in journal.unsent:
                    _create(session, XenAPI.Failure, uuid, message)
                    journal.note_sent()
        finally:
            session.xenapi.session.logout()


def _create(session: "Any", failure: "type[Exception]", uuid: str, message: Message) -> None:
    text = "".join(character if character.isprintable() else "?" for character in message.text)  # XML cannot hold all
    try:
        made = session.xenapi.message.create(message.name, str(message.priority), "SR", uuid, text)
        if made == _NOT_WRITTEN:
            raise OSError("xapi could not write the message: is its disk full?")
    except failure as error:
        details: "list[str]" = getattr(error, "details", [])
        if not details or details[0] != _UNKNOWN:
            raise
        log.warning(f"xapi does not know the SR {uuid}, and does not take: {message.text}")
