# SPDX-License-Identifier: LGPL-2.1-only
"""Runs in a guest: random verbs on an SR, one after another, for ever; tells before and after each what it does.

    workload.py SR SEED

Each line of stdout is a JSON list: ["begin", verb, arguments], then ["end", answer].
"""

import json
import random
import sys
from typing import Any

from tests import client

MIB = 1 << 20


def choose(chance: random.Random, sr: str, keys: "list[str]") -> "tuple[str, dict[str, Any]]":
    """A verb that changes something, with its arguments."""
    text = "".join(chance.choice("aé\n💾") for _ in range(chance.choice((3, 3000))))
    if not keys or (len(keys) < 8 and chance.random() < 0.3):
        size = chance.randrange(1, 64) * 2 * MIB
        return "Volume.create", {"sr": sr, "name": text, "description": text, "size": size, "sharable": False}
    key = chance.choice(keys)
    choices: "list[tuple[str, dict[str, Any]]]" = [
        ("Volume.destroy", {"sr": sr, "key": key}),
        ("Volume.set_name", {"sr": sr, "key": key, "new_name": text}),
        ("Volume.set_description", {"sr": sr, "key": key, "new_description": text}),
        ("Volume.set", {"sr": sr, "key": key, "k": chance.choice("abc"), "v": text}),
        ("Volume.unset", {"sr": sr, "key": key, "k": chance.choice("abc")}),
        ("Volume.resize", {"sr": sr, "key": key, "new_size": 128 * MIB + chance.randrange(1, 64) * 2 * MIB}),
        ("SR.set_name", {"sr": sr, "new_name": text}),
    ]
    return chance.choice(choices)


def main() -> None:
    """Never returns."""
    sr, chance = sys.argv[1], random.Random(int(sys.argv[2]))
    while True:
        keys = sorted(volume["key"] for volume in client.call("SR.ls", sr=sr))
        verb, arguments = choose(chance, sr, keys)
        print(json.dumps(["begin", verb, arguments]), flush=True)
        try:
            answer = client.call(verb, **arguments)
        except client.VerbError as error:
            if error.code != "SR_BACKEND_FAILURE_79":  # a size below the one it has
                raise
            answer = None
        print(json.dumps(["end", answer]), flush=True)


main()
