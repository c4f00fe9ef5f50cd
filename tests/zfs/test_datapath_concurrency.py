# SPDX-License-Identifier: LGPL-2.1-only
"""Many Datapath verbs at once, each in its own process: leases exclude each other, and nothing is left behind."""

import os
import random
import time
from typing import Any, Dict, List, Tuple

from tests import attached, blktap, client
from tests.client import VerbError
from tests.leases import NODE, READ, WRITE, way
from tests.model import GRANULE
from zfsvol.naming import Root

SEED = int(os.environ.get("ZFSVOL_SEED", str(random.randrange(1 << 32))))
IN_USE = "SR_BACKEND_FAILURE_24"
VDIS = 10
CALLS = 30
READERS = 12
DOMAINS = ("7", "8", "u0_a", "u0_b", "MIRabc")
# More verbs that make something than verbs that remove it, so that they collide.
VERBS = ("attach", "activate", "activate", "activate_readonly", "activate_readonly", "deactivate", "detach")

Call = Tuple[str, str, str]  # a verb, a VDI and a domain


def at_once(sr: str, calls: "List[Call]") -> "List[Any]":
    """Runs verbs at the same time; returns "" for a success and the code for a refusal."""
    root = Root(sr)
    started = [client.start("Datapath." + verb, uri=root.uri(key), domain=domain) for verb, key, domain in calls]
    answers: "List[Any]" = []
    for (verb, _, _), process in zip(calls, started):
        try:
            answers.append(client.finish("Datapath." + verb, process) or "")
        except VerbError as error:
            answers.append(error.code)
    return answers


def create(sr: str) -> str:
    answer = client.call("Volume.create", sr=sr, name="disk", description="", size=GRANULE, sharable=False)
    return str(answer["key"])


def check(sr: str) -> None:
    """Each VDI has readers or one writer, and the nodes and tapdisks that they need."""
    nodes, served = attached.nodes(sr), {}
    for key, record in attached.records(sr).items():
        modes = list(record["active"].values())
        assert set(modes) == {READ} or len(modes) <= 1, record
        assert record["attached"], record
        assert record["node"] == nodes[key]
        assert (record["tapdisk"] is None) == all(way(domain) == NODE for domain in record["active"]), record
        if record["tapdisk"] is not None:
            assert record["tapdisk"]["readonly"] == (WRITE not in modes)
            served[key] = record["tapdisk"]["pid"]
    assert set(nodes) == set(attached.records(sr))
    assert set(attached.links(attached.SERVERS, sr)) == set(served)
    assert sorted(blktap.tapdisks()) == sorted(served.values())


def test_many_verbs_at_once(sr: str) -> None:
    print(f"ZFSVOL_SEED={SEED}")
    chance = random.Random(SEED)
    keys = [create(sr) for _ in range(VDIS)]
    calls = [(chance.choice(VERBS), key, chance.choice(DOMAINS)) for key in keys for _ in range(CALLS // VDIS)]
    chance.shuffle(calls)
    began = time.monotonic()
    answers = at_once(sr, calls)
    print(f"{CALLS} verbs: {time.monotonic() - began:.0f} s")
    refused: "Dict[Tuple[str, str], int]" = {}
    for (verb, _, _), answer in zip(calls, answers):
        if isinstance(answer, str) and answer:
            refused[verb, answer] = refused.get((verb, answer), 0) + 1
    print(refused)
    assert all(verb.startswith("activate") and code == IN_USE for verb, code in refused)
    check(sr)
    # A VDI was free for the first that came.
    for key in keys:
        mine = [answer for (verb, of, _), answer in zip(calls, answers) if of == key and verb.startswith("activate")]
        assert not mine or "" in mine
    began = time.monotonic()
    assert set(at_once(sr, [("detach", key, domain) for key in keys for domain in DOMAINS])) == {""}
    print(f"{VDIS * len(DOMAINS)} detaches: {time.monotonic() - began:.0f} s")
    assert attached.left(sr) == []
    assert blktap.leftovers() == []


def test_many_readers_at_once(sr: str) -> None:
    key = create(sr)
    readers = [f"u0_{number}" for number in range(READERS)]
    answers = at_once(sr, [("attach", key, reader) for reader in readers])
    (path,) = {dict(answer["implementations"])["BlockDevice"]["path"] for answer in answers}
    assert attached.nodes(sr) == {key: path}
    assert set(at_once(sr, [("activate_readonly", key, reader) for reader in readers])) == {""}
    assert at_once(sr, [("activate", key, "7"), ("activate", key, readers[0])]) == [IN_USE, IN_USE]
    assert attached.records(sr)[key]["active"] == dict.fromkeys(readers, READ)
    with open(path, "rb", buffering=0) as file:
        assert file.read(GRANULE + 1) == bytes(GRANULE)
    assert set(at_once(sr, [("detach", key, reader) for reader in [*readers, "7"]])) == {""}
    assert attached.left(sr) == []
    assert blktap.leftovers() == []
    client.call("SR.detach", sr=sr)
    assert attached.directories(sr) == []
