# SPDX-License-Identifier: LGPL-2.1-only
"""Which VM has a disk: when xenstore is asked, and when not. The answers of the tests come at once."""

import threading
from typing import Any

import pytest

from zfsvol.errors import StorageError
from zfsvol.host import xen
from zfsvol.host.xen import Guest
from zfsvol.service.guests import Guests

NODE, OTHER = "/dev/zd0", "/dev/zd16"


class Immediate:
    """A thread that has run when it is started."""

    def __init__(self, target: Any, args: "tuple[Any, ...]", name: str, daemon: bool) -> None:
        self._run = lambda: target(*args)

    def start(self) -> None:
        self._run()

    def is_alive(self) -> bool:
        return False


class Xenstore:
    """The VMs by domain id, and the ids that were asked for."""

    def __init__(self) -> None:
        self.vms: "dict[str, Guest]" = {}
        self.asked: "list[str]" = []

    def guest(self, domid: str) -> Guest:
        self.asked.append(domid)
        if domid not in self.vms:
            raise StorageError("not there yet")
        return self.vms[domid]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Xenstore:
    made = Xenstore()
    monkeypatch.setattr(xen, "guest", made.guest)
    monkeypatch.setattr(threading, "Thread", Immediate)
    return made


def test_asked_once(store: Xenstore) -> None:
    store.vms["7"] = Guest("vm7", {NODE: "xvda", OTHER: "xvdb"})
    one = Guests()
    assert one.of(0, [("7", NODE), ("7", OTHER)]) == {}
    for now in (5, 10, 1000):
        assert one.of(now, [("7", NODE), ("7", OTHER)]) == {("7", NODE): ("vm7", "xvda"), ("7", OTHER): ("vm7", "xvdb")}
    assert store.asked == ["7"]


def test_a_new_disk_is_asked_for_at_once(store: Xenstore) -> None:
    one = Guests()
    store.vms = {"7": Guest("vm7", {NODE: "xvda"}), "8": Guest("vm8", {OTHER: "xvda"})}
    one.of(0, [("7", NODE)])
    one.of(5, [("7", NODE), ("8", OTHER)])
    assert one.of(6, [("7", NODE), ("8", OTHER)])["8", OTHER] == ("vm8", "xvda")
    assert store.asked == ["7", "8"]


def test_again_and_again_until_it_is_there_less_and_less_often(store: Xenstore) -> None:
    one = Guests()
    for now in range(0, 3600, 5):
        assert one.of(now, [("7", NODE)]) == {}
    first = store.asked[:]
    assert 10 < len(first) < 20
    store.vms["7"] = Guest("vm7", {NODE: "xvda"})
    assert any(one.of(now, [("7", NODE)]) for now in range(3600, 4000, 5))
    assert len(store.asked) == len(first) + 1


def test_device_is_not_there_yet(store: Xenstore) -> None:
    one = Guests()
    store.vms["7"] = Guest("vm7", {})
    one.of(0, [("7", NODE)])
    assert one.of(1, [("7", NODE)]) == {}
    store.vms["7"] = Guest("vm7", {NODE: "xvdc"})
    one.of(5, [("7", NODE)])
    assert one.of(6, [("7", NODE)]) == {("7", NODE): ("vm7", "xvdc")}


def test_forgotten_when_it_is_gone(store: Xenstore) -> None:
    """The same id and node may be another VM's later."""
    one = Guests()
    store.vms["7"] = Guest("vm7", {NODE: "xvda"})
    one.of(0, [("7", NODE)])
    assert one.of(5, [("7", NODE)])
    assert one.of(10, []) == {}
    store.vms["7"] = Guest("another", {NODE: "xvda"})
    one.of(15, [("7", NODE)])
    assert one.of(20, [("7", NODE)]) == {("7", NODE): ("another", "xvda")}
