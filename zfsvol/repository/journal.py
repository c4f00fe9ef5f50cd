# SPDX-License-Identifier: LGPL-2.1-only
"""The journal of an SR: which alarms are not over, what has happened, which messages xapi has not got yet.

It outlives the service and the host's restarts, so that nothing is told twice. It is not in the pool, which may not
take it when there is something to tell; an SR that moves to another host begins a new journal there.
"""

import json
import os
import threading

from zfsvol import log
from zfsvol.host import files
from zfsvol.naming import Root
from zfsvol.repository.sr import LASTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

DIRECTORY = LASTING

_MOST = 500  # of what has happened


class Message:
    """Something that people have to know. `name`: for programs. `priority`: xapi's, 1 to 5. `time`: since 1970."""

    def __init__(self, time: float, name: str, priority: int, text: str) -> None:
        self.time = time
        self.name = name
        self.priority = priority
        self.text = text


class Journal:
    """The journal of the SR `root` on the pool with this guid. Several threads may use it.

    `open`: the alarms that are not over, by their keys: level, name, and what to say at the end. `known`: what was told
    once and is no alarm, by key: the end of the last scrub. A damaged file counts as none: what is still wrong is told
    again.
    """

    def __init__(self, root: Root, guid: str) -> None:
        self.path = os.path.join(DIRECTORY, f"{guid}-{root.uuid}.json")
        content = self._content()
        self.open: "dict[str, dict[str, Any]]" = content.get("open", {})
        self.known: "dict[str, str]" = content.get("known", {})
        self._happened = [Message(**values) for values in content.get("happened", [])]
        self._unsent: int = content.get("unsent", 0)  # the last ones of these
        self._lock = threading.Lock()
        self._saved = ""

    def _content(self) -> "dict[str, Any]":
        try:
            found = json.loads(files.text(self.path))
            return found if isinstance(found, dict) else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning(f"{self.path} cannot be read, and begins anew: {error}")
            return {}

    @property
    def happened(self) -> "list[Message]":
        """What has happened, the latest last."""
        return list(self._happened)

    @property
    def unsent(self) -> "list[Message]":
        """The messages that xapi has not got yet, in the order in which it has to get them."""
        with self._lock:
            return self._happened[len(self._happened) - self._unsent :]

    def note(self, messages: "Iterable[Message]") -> None:
        """Adds messages, and stores them together with `open` and `known`."""
        with self._lock:
            for message in messages:
                self._happened.append(message)
                self._unsent += 1
            del self._happened[:-_MOST]
            self._unsent = min(self._unsent, _MOST)
            self._save()

    def note_sent(self) -> None:
        """Xapi has got the first of the unsent messages. After a crash before this it gets that message again."""
        with self._lock:
            self._unsent = max(0, self._unsent - 1)
            self._save()

    def _save(self) -> None:
        content = {
            "open": self.open,
            "known": self.known,
            "happened": [vars(message) for message in self._happened],
            "unsent": self._unsent,
        }
        text = json.dumps(content)
        if text == self._saved:
            return
        try:
            files.write(self.path, text)
            self._saved = text
        except OSError as error:  # a full or read-only disk of the host must not silence the alarms
            log.warning(f"{self.path} cannot be written: {error}")
