# SPDX-License-Identifier: LGPL-2.1-only
"""Several clients at once on one family: their answers and the final state are as if they had come one after another,
in some order. ZFSVOL_ROUNDS sets the number of rounds.
"""

import copy
import itertools
import os
import random
import time
from typing import Any, Dict, List, Optional, Tuple

from tests import client, zvol
from tests.client import VerbError, call_inside
from tests.model import GRANULE, Model, Refused, noise, observed
from tests.zfs.conftest import Bench, Udev, run
from zfsvol.host import lock
from zfsvol.repository import family, repair
from zfsvol.repository.sr import SR

ROUNDS = int(os.environ.get("ZFSVOL_ROUNDS", "8"))
SEED = int(os.environ.get("ZFSVOL_SEED", str(random.randrange(1 << 32))))
AT_ONCE = 4

Call = Tuple[str, Dict[str, Any]]


def choose(chance: random.Random, model: Model) -> Call:
    """A verb for the family, mostly for one of two VDIs, so that clients collide."""
    snapshots = [key for key, vdi in model.vdis.items() if vdi.is_snapshot]
    key = chance.choice([*[*model.vdis][:2], *model.vdis])
    calls: "List[Call]" = [
        ("Volume.snapshot", {"key": key}),
        ("Volume.clone", {"key": key}),
        ("Volume.clone", {"key": chance.choice(snapshots or [key])}),
        ("Volume.destroy", {"key": key}),
        ("Volume.revert", {"key": key, "snapshot": chance.choice(snapshots or [key])}),
        ("Volume.resize", {"key": key, "new_size": 3 * GRANULE}),
        ("Volume.set", {"key": key, "k": "vdi-type", "v": str(chance.random())}),
        ("SR.ls", {}),
    ]
    return chance.choice(calls)


def one_after_another(order: "Tuple[Tuple[Call, Any], ...]", before: Model) -> "Optional[List[Model]]":
    """The states before and after each call in this order; None if a call would have got another answer."""
    states = [before]
    for (verb, arguments), answer in order:
        model = copy.deepcopy(states[-1])
        refusal = ""
        try:
            model.carry_out(verb, answer, **arguments)
        except Refused as refused:
            refusal = refused.code
        if refusal != (answer.code if isinstance(answer, VerbError) else ""):
            return None
        states.append(model)
    return states


def may_list(answer: "List[Dict[str, Any]]", states: "List[Model]") -> bool:
    """Whether SR.ls can have seen this. It need not be the state at one moment.

    Each VDI must be in one of its states, and VDIs that exist all the time must be there.
    """
    known = [{key: {**vdi, "content": None} for key, vdi in state.summary().items()} for state in states]
    listed = {record["key"]: observed(record, None) for record in answer}
    always = set.intersection(*map(set, known))
    return always <= set(listed) and all(record in [vdis.get(key) for vdis in known] for key, record in listed.items())


def test_some_order_explains_it(bench: Bench) -> None:
    print(f"ZFSVOL_SEED={SEED}")
    chance = random.Random(SEED)
    sr = bench.sr()
    run("zfs", "set", "volmode=dev", sr)
    model = Model()
    longest = 0.0
    for number in range(ROUNDS):
        if not model.vdis:
            arguments = {"name": "disk", "description": "", "size": GRANULE, "sharable": False}
            model.carry_out("Volume.create", call_inside("Volume.create", sr=sr, **arguments), **arguments)
        for key in [key for key, vdi in model.vdis.items() if not vdi.is_snapshot][:2]:
            data = noise(chance.randrange(1 << 30), 65536)
            zvol.write(f"{sr}/{key}", 0, data)
            model.write(key, 0, data)
        Udev.settle()
        calls = [choose(chance, model) for _ in range(AT_ONCE)]
        began = time.monotonic()
        started = [client.start(verb, sr=sr, **arguments) for verb, arguments in calls]
        answers: "List[Any]" = []
        for (verb, _), process in zip(calls, started):
            try:
                answers.append(client.finish(verb, process))
            except VerbError as error:
                answers.append(error)
        longest = max(longest, time.monotonic() - began)
        records = {record["key"]: record for record in call_inside("SR.ls", sr=sr)}
        contents = zvol.checksums({f"{sr}/{key}": record["virtual_size"] for key, record in records.items()})
        after = {key: observed(record, contents[f"{sr}/{key}"]) for key, record in records.items()}
        lists = [answer for (verb, _), answer in zip(calls, answers) if verb == "SR.ls"]
        changes = [one for one in zip(calls, answers) if one[0][0] != "SR.ls"]
        orders = [one_after_another(order, model) for order in itertools.permutations(changes)]
        explaining = [
            states
            for states in orders
            if states and states[-1].summary() == after and all(may_list(answer, states) for answer in lists)
        ]
        assert explaining, (number, calls, answers)
        model = explaining[0][-1]
        assert [finding.text for finding in repair.inspect(family.read(SR(sr)))] == []
    assert longest < lock.SR_LIMIT
