# SPDX-License-Identifier: LGPL-2.1-only
"""Runs in a guest: random verbs and writes on an SR, one after another, for ever. It reports before and after each.

    workload.py SR SEED

Each line of stdout is a JSON list: ["begin", verb, arguments], then ["end", answer, code of the refusal or ""]. A write
is reported as a verb "write" and is one block, which ZFS writes whole or not at all.
"""

import json
import random
import sys
from typing import Any

from tests import zvol
from tests.client import VerbError, call_inside
from tests.model import BLOCK, GRANULE, noise

MOST = 10


def choose(chance: random.Random, vdis: "list[dict[str, Any]]") -> "tuple[str, dict[str, Any]]":
    """A verb that changes something, with its arguments."""
    text = "".join(chance.choice("aé\n💾") for _ in range(chance.choice((3, 3000))))
    if not vdis or (len(vdis) < MOST and chance.random() < 0.1):
        size = chance.randrange(1, 4) * GRANULE
        return "Volume.create", {"name": text, "description": text, "size": size, "sharable": False}
    key = chance.choice(vdis)["key"]
    disks = [vdi["key"] for vdi in vdis if vdi["read_write"]] or [key]
    snapshots = [vdi["key"] for vdi in vdis if not vdi["read_write"]] or [key]
    disk, block = chance.choice(disks), chance.randrange(GRANULE // BLOCK) * BLOCK
    choices: "list[tuple[int, str, dict[str, Any]]]" = [
        (5 if len(vdis) < MOST else 0, "Volume.snapshot", {"key": key}),
        (4 if len(vdis) < MOST else 0, "Volume.clone", {"key": key}),
        (6, "Volume.destroy", {"key": key}),
        (6, "Volume.revert", {"key": disk, "snapshot": chance.choice(snapshots)}),
        (4, "write", {"key": disk, "offset": block, "seed": chance.randrange(1 << 30)}),
        (1, "Volume.set_name", {"key": key, "new_name": text}),
        (1, "Volume.set_description", {"key": key, "new_description": text}),
        (1, "Volume.set", {"key": key, "k": "vdi-type", "v": text}),
        (1, "Volume.set", {"key": disk, "k": "clone-on-boot", "v": chance.choice(disks)}),
        (1, "Volume.unset", {"key": key, "k": "vdi-type"}),
        (2, "Volume.enable_cbt", {"key": disk}),
        (4, "Volume.data_destroy", {"key": chance.choice(snapshots)}),
        (1, "Volume.resize", {"key": key, "new_size": chance.randrange(1, 5) * GRANULE}),
    ]
    _, verb, arguments = chance.choices(choices, [weight for weight, _, _ in choices])[0]
    return verb, arguments


def main() -> None:
    """Never returns."""
    sr, chance = sys.argv[1], random.Random(int(sys.argv[2]))
    while True:
        vdis = sorted(call_inside("SR.ls", sr=sr), key=lambda vdi: str(vdi["key"]))
        verb, arguments = choose(chance, vdis)
        print(json.dumps(["begin", verb, arguments]), flush=True)
        answer, code = None, ""
        try:
            if verb == "write":
                zvol.write(f"{sr}/{arguments['key']}", arguments["offset"], noise(arguments["seed"], BLOCK))
            else:
                answer = call_inside(verb, sr=sr, **arguments)
        except VerbError as error:
            code = error.code
        print(json.dumps(["end", answer, code]), flush=True)


if __name__ == "__main__":
    main()
