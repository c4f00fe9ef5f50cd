# SPDX-License-Identifier: LGPL-2.1-only
"""The model of the Datapath verbs: who has a VDI attached and activated, and what serves them. Pure.

A VDI has many readers or one writer, by domain; a sharable VDI may have many of both. A snapshot has only readers. A VM
that is gone gives way to others, and so does a storage migration while nobody is connected to the tapdisk.
"""

from typing import Any, Dict, List, Optional, Set

from tests.model import IN_USE, MISSING, Model, Refused

READ, WRITE = "ro", "rw"
NODE, TAPDISK = "node", "tapdisk"


def way(domain: str) -> str:
    """How a domain accesses a VDI: dom0 by the zvol's node, a VM and a storage migration by a tapdisk."""
    return NODE if domain.startswith("u0_") else TAPDISK


def is_migration(domain: str) -> bool:
    return domain.startswith("MIR")


class Attachment:
    """One VDI's users."""

    def __init__(self) -> None:
        self.attached: Set[str] = set()
        self.active: Dict[str, str] = {}  # domain: READ or WRITE
        self.has_node = False
        self.tapdisk: Optional[str] = None  # how it has the zvol open
        self.is_dead = False  # the tapdisk
        self.is_connected = False  # somebody, to this tapdisk

    def users(self, how: str) -> "List[str]":
        """The domains that have activated it and access it in this way."""
        return [domain for domain in self.active if way(domain) == how]

    def drop_dead(self) -> None:
        """Ends the leases of a dead tapdisk's users."""
        if self.is_dead:
            for domain in self.users(TAPDISK):
                self.deactivate(domain)

    def deactivate(self, domain: str) -> None:
        if self.active.pop(domain, None) is not None and not self.users(TAPDISK):
            self.tapdisk, self.is_dead, self.is_connected = None, False, False

    def drop_ended_migrations(self, domains: "List[str]") -> None:
        if not self.is_connected:
            for domain in filter(is_migration, domains):
                self.detach(domain)

    def detach(self, domain: str) -> None:
        self.deactivate(domain)
        self.attached.discard(domain)


class Datapath(Model):
    """The SR and its VDIs' users. Its methods are the Volume and Datapath verbs, and other events."""

    def __init__(self) -> None:
        super().__init__()
        self.attachments: Dict[str, Attachment] = {}
        self.gone: Set[str] = set()  # VMs that ended without a detach

    def users_of(self, key: str) -> Attachment:
        """The VDI's users, for reading only."""
        return self.attachments.get(key, Attachment())

    def attach(self, key: str, domain: str) -> Attachment:
        if key not in self.vdis:
            self.attachments.pop(key, None)
            raise Refused(MISSING)
        found = self.attachments.setdefault(key, Attachment())
        if domain not in found.attached:
            self._drop_gone(found, sorted(found.attached.difference(found.active)))
        found.attached.add(domain)
        found.has_node = True
        return found

    def activate(self, key: str, domain: str) -> None:
        self._activate(key, domain, WRITE)

    def activate_readonly(self, key: str, domain: str) -> None:
        self._activate(key, domain, READ)

    def _activate(self, key: str, domain: str, mode: str) -> None:
        found, vdi = self.attach(key, domain), self.vdis[key]
        found.drop_dead()
        if vdi.is_snapshot:
            mode = READ
        elif found.active.get(domain) == WRITE:
            mode = WRITE
        if not vdi.sharable:
            others = [other for other in found.active if other != domain and WRITE in (mode, found.active[other])]
            self._drop_gone(found, others)
            found.drop_ended_migrations(others)
            if any(other in found.active for other in others):
                raise Refused(IN_USE)
        found.active[domain] = mode
        if way(domain) == TAPDISK:
            reads = vdi.is_snapshot or (mode == READ and not vdi.sharable)
            serves = WRITE if found.tapdisk == WRITE or not reads else READ
            if serves != found.tapdisk:
                found.tapdisk, found.is_connected = serves, False

    def deactivate(self, key: str, domain: str) -> None:
        found = self.users_of(key)
        for known in self._addressed(found, domain):
            found.deactivate(known)

    def detach(self, key: str, domain: str) -> None:
        found = self.users_of(key)
        for known in self._addressed(found, domain):
            found.detach(known)
        self._forget_unused(key)

    def _addressed(self, found: Attachment, domain: str) -> "List[str]":
        return [domain] if domain else sorted(found.attached & self.gone)

    def _drop_gone(self, found: Attachment, domains: "List[str]") -> None:
        for domain in self.gone.intersection(domains):
            found.detach(domain)

    def _forget_unused(self, key: str) -> None:
        if not self.users_of(key).attached:
            self.attachments.pop(key, None)

    def recover(self) -> None:
        """The effect of SR.attach."""
        for key, found in list(self.attachments.items()):
            found.drop_dead()
            self._drop_gone(found, list(found.attached))
            self._forget_unused(key)

    def require_idle(self, key: str, *, served_by: "List[str]" = [NODE, TAPDISK]) -> None:  # noqa: B006
        """Raises Refused."""
        super().require_idle(key)
        found = self.users_of(key)
        if any(found.users(how) for how in served_by):
            found.drop_dead()
            self._drop_gone(found, list(found.attached))
            found.drop_ended_migrations(list(found.active))
        self._forget_unused(key)
        if any(found.users(how) for how in served_by):
            raise Refused(IN_USE)

    def destroy(self, key: str) -> None:
        doomed = [key, *([self._temporary(key)] if key in self.vdis else [])]
        self.require_idle(key)
        super().destroy(key)
        for removed in doomed:
            self.attachments.pop(removed, None)

    def revert(self, snapshot: str, key: str) -> None:
        temporary = self._temporary(key) if key in self.vdis else ""
        super().revert(snapshot, key)
        self.attachments.pop(temporary, None)
        if key in self.attachments:
            # Domains that have it attached get the new content's node when they activate it.
            self.attachments[key].has_node = False

    def resize(self, key: str, new_size: int) -> None:
        vdi = self.find(key)
        if not vdi.is_snapshot and new_size > len(vdi.content):
            self.require_idle(key, served_by=[TAPDISK])
        super().resize(key, new_size)

    def kill_tapdisk(self, key: str) -> None:
        """Not a verb: the VDI's tapdisk dies."""
        self.attachments[key].is_dead = True

    def in_use(self) -> "Dict[str, Any]":
        """The users of each VDI, in the form of the driver's records."""
        return {
            key: {"attached": sorted(found.attached), "active": found.active} for key, found in self.attachments.items()
        }
