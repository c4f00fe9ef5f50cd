# SPDX-License-Identifier: LGPL-2.1-only
"""Each verb that changes something, killed before and after each of its child processes.

Then either nothing has happened or all has, nothing is left behind, and the same call works when it is repeated.
"""

import json
from pathlib import Path
import random
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Iterator

import pytest

from tests import client
from tests.client import VerbError, call, new_uuid
from tests.zfs.conftest import GIB, Bench, pools, run, state_of

KILLED_VERB = str(Path(__file__).with_name("killed_verb.py"))


def kill_points(verb: str, arguments: Callable[[], "dict[str, Any]"]) -> "Iterator[tuple[str, int]]":
    """Runs the verb with a kill at each border in turn, until it has no more children.

    After each kill the caller looks; `arguments` makes what it needs for the next one.
    """
    number = 0
    killed = True
    while killed:
        number += 1
        killed = False
        for moment in ("before", "after"):
            request = json.dumps({"dbg": "kill", **arguments()}).encode()
            done = subprocess.run(
                [sys.executable, KILLED_VERB, moment, str(number), str(client.PLUGIN / verb)],
                input=request,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=client.environment(),
                timeout=client.LIMIT,
            )
            if done.returncode == -signal.SIGKILL:
                killed = True
                wait_for_children()
                yield moment, number
            else:
                client.understand(verb, done.returncode, done.stdout, done.stderr)
                yield "not killed", number
    assert number > 1, f"{verb} was never killed"


def wait_for_children() -> None:
    """A command that the killed verb had started runs to its end."""
    end = time.monotonic() + 60
    while (
        subprocess.run(["pgrep", "-x", "zfs|zpool|zdb"], stdout=subprocess.PIPE, stderr=subprocess.PIPE).returncode == 0
    ):
        assert time.monotonic() < end
        time.sleep(0.02)


def picture(sr: str) -> "tuple[Any, Any]":
    """All that the SR holds: its own names, and its VDIs."""
    stat = call("SR.stat", sr=sr)
    return (stat["name"], stat["description"]), call("SR.ls", sr=sr)


def raw_names(sr: str) -> "set[str]":
    """The datasets and snapshots below the SR's root, whatever they are."""
    return set(run("zfs", "list", "-H", "-o", "name", "-t", "all", "-r", sr).split()) - {sr}


def repeat(verb: str, done_already: str, **arguments: Any) -> None:
    """The call again: it works, or says with the code `done_already` that the killed one had done it."""
    try:
        call(verb, **arguments)
    except VerbError as error:
        if error.code != done_already:
            raise


@pytest.mark.parametrize("form", ["device", "zpool"])
def test_sr_create(bench: Bench, form: str) -> None:
    if form == "zpool":
        bench.pool()
    uuid = ""
    configuration: "dict[str, str]" = {}

    def arguments() -> "dict[str, Any]":
        nonlocal uuid, configuration
        uuid = new_uuid()
        configuration = {"zpool": "tank"} if form == "zpool" else {"device": bench.disk()}
        return {"uuid": uuid, "configuration": configuration, "name": "n", "description": "d"}

    for _ in kill_points("SR.create", arguments):
        repeat("SR.create", "SR_BACKEND_FAILURE_42", uuid=uuid, configuration=configuration, name="n", description="d")
        sr = call("SR.attach", configuration={**configuration, "sr_uuid": uuid})
        assert picture(sr) == (("n", "d"), [])
        call("SR.destroy", sr=sr)


@pytest.mark.parametrize("form", ["device", "zpool"])
def test_sr_attach_detach_and_probe(bench: Bench, form: str) -> None:
    sr = bench.sr(zpool=bench.pool()) if form == "zpool" else bench.sr()
    key = call("Volume.create", sr=sr, name="v", description="", size=GIB, sharable=False)["key"]
    configuration = {"sr_uuid": sr[-36:], **({"zpool": "tank"} if form == "zpool" else {})}
    expected = picture(sr)
    pool = sr.split("/")[0]

    def exported() -> "dict[str, Any]":
        if state_of(pool):
            run("zpool", "export", pool)
        run("zpool", "import", "-N", "-d", "/dev", pool)
        run("zfs", "create", "-s", "-V", "1G", f"{sr}/{new_uuid()}")  # what a power cut may leave
        run("zpool", "export", pool)
        return {"configuration": configuration}

    for _ in kill_points("SR.attach", exported):
        assert call("SR.attach", configuration=configuration) == sr
        assert picture(sr) == expected
        assert raw_names(sr) == {f"{sr}/{key}"}

    def attached() -> "dict[str, Any]":
        call("SR.attach", configuration=configuration)
        return {"sr": sr}

    for _ in kill_points("SR.detach", attached):
        call("SR.detach", sr=sr)
        assert (pool in pools()) == (form == "zpool")

    for _ in kill_points("SR.probe", exported):
        assert [found["sr"]["sr"] for found in call("SR.probe", configuration=configuration)] == [sr]
        assert state_of(pool) == ""
        assert call("SR.attach", configuration=configuration) == sr
        assert picture(sr) == expected


@pytest.mark.parametrize("form", ["device", "zpool"])
def test_sr_destroy(bench: Bench, form: str) -> None:
    if form == "zpool":
        bench.pool()
    sr = ""

    def arguments() -> "dict[str, Any]":
        nonlocal sr
        sr = bench.sr(zpool="tank") if form == "zpool" else bench.sr()
        call("Volume.create", sr=sr, name="", description="", size=GIB, sharable=False)
        return {"sr": sr}

    for _ in kill_points("SR.destroy", arguments):
        repeat("SR.destroy", "SR_BACKEND_FAILURE_47", sr=sr)
        if form == "zpool":
            assert raw_names("tank") == set()
        else:
            assert sr not in pools()


def test_sr_set_name_and_description(sr: str) -> None:
    for verb, argument in (("SR.set_name", "new_name"), ("SR.set_description", "new_description")):
        arguments = {"sr": sr, argument: "x" * 20000}
        for moment, _ in kill_points(verb, arguments.copy):
            stat = call("SR.stat", sr=sr)
            now = stat["name" if verb == "SR.set_name" else "description"]
            assert now == "x" * 20000 or (moment == "before" and now in ("", "sr", "old"))
            call(verb, sr=sr, **{argument: "old"})


def test_volume_create(sr: str) -> None:
    wanted = {"sr": sr, "name": "n", "description": "d" * 9000, "size": GIB, "sharable": True}
    for moment, number in kill_points("Volume.create", lambda: wanted):
        volumes = call("SR.ls", sr=sr)
        assert raw_names(sr) == {f"{sr}/{volume['key']}" for volume in volumes}
        assert len(volumes) <= 1, (moment, number)
        for volume in volumes:
            assert (volume["name"], volume["description"]) == ("n", "d" * 9000)
            call("Volume.destroy", sr=sr, key=volume["key"])
        call("Volume.destroy", sr=sr, key=call("Volume.create", **wanted)["key"])


def test_volume_destroy(sr: str) -> None:
    kept = call("Volume.create", sr=sr, name="kept", description="", size=GIB, sharable=False)["key"]
    key = ""

    def arguments() -> "dict[str, Any]":
        nonlocal key
        key = call("Volume.create", sr=sr, name="", description="", size=GIB, sharable=False)["key"]
        return {"sr": sr, "key": key}

    for _ in kill_points("Volume.destroy", arguments):
        call("Volume.destroy", sr=sr, key=key)
        assert raw_names(sr) == {f"{sr}/{kept}"}


@pytest.mark.parametrize(
    ("verb", "arguments", "member", "old", "new"),
    [
        ("Volume.resize", {"new_size": 2 * GIB}, "virtual_size", GIB, 2 * GIB),
        ("Volume.set_name", {"new_name": "n" * 9000}, "name", "old", "n" * 9000),
        ("Volume.set_description", {"new_description": "n" * 9000}, "description", "", "n" * 9000),
        ("Volume.set", {"k": "a", "v": "n" * 9000}, "keys", {}, {"a": "n" * 9000}),
        ("Volume.unset", {"k": "gone"}, "keys", {"gone": "v" * 9000}, {}),
    ],
)
def test_volume_changes(sr: str, verb: str, arguments: "dict[str, Any]", member: str, old: object, new: object) -> None:
    key = ""

    def fresh() -> "dict[str, Any]":
        nonlocal key
        key = call("Volume.create", sr=sr, name="old", description="", size=GIB, sharable=False)["key"]
        if verb == "Volume.unset":
            call("Volume.set", sr=sr, key=key, k="gone", v="v" * 9000)
        return {"sr": sr, "key": key, **arguments}

    def now() -> object:
        found = call("Volume.stat", sr=sr, key=key)[member]
        return {k: v for k, v in found.items() if k != "content_id"} if member == "keys" else found

    for moment, number in kill_points(verb, fresh):
        assert now() in (old, new), (moment, number)
        call(verb, sr=sr, key=key, **arguments)
        assert now() == new


def test_at_any_moment(sr: str) -> None:
    """Kills that do not wait for a border: in the interpreter's start, in a module's import, while a child runs."""
    chance = random.Random(0)
    arguments = {"sr": sr, "name": "n", "description": "d" * 9000, "size": GIB, "sharable": False}
    returned = set()
    for _ in range(25):
        process = client.start("Volume.create", **arguments)
        time.sleep(chance.random() * 0.4)
        process.kill()
        stdout, _ = process.communicate()
        if stdout:
            returned.add(json.loads(stdout)["key"])
    wait_for_children()
    volumes = call("SR.ls", sr=sr)
    assert returned <= {volume["key"] for volume in volumes}
    assert raw_names(sr) == {f"{sr}/{volume['key']}" for volume in volumes}
    for volume in volumes:
        assert (volume["name"], volume["description"], volume["virtual_size"]) == ("n", "d" * 9000, GIB)
