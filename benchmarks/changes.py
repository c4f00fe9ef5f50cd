# SPDX-License-Identifier: LGPL-2.1-only
"""What it costs to tell what changed between two snapshots, beside a bare `zfs send` of the same increment."""

import json
import os
import statistics
import subprocess

from benchmarks.measuring import Bench
from benchmarks.pools import GIB, MIB, run
from tests import client, zvol
from zfsvol.repository import allocation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIZES = (16, 256, 1024)  # MiB that changed
DEPTHS = (1, 10, 100)  # clones of snapshots of clones ... between the two
LARGE = 1 << 40
_BLOCK = 16 << 10

# Runs the verb, if it is given more than `dbg`, and prints the largest size of the process in KiB. The lab's kernel
# does not tell that to a parent.
_MEMORY = """
import json, re, sys
from zfsvol.verbs import volume_changes
arguments = json.loads(sys.argv[1])
if len(arguments) > 1:
    volume_changes.list_changed_blocks(**arguments)
with open("/proc/self/status") as file:
    print(re.search(r"VmHWM:\\s*(\\d+)", file.read()).group(1))
"""

# The same for all: ZFS compresses each block by itself.
_DATA = os.urandom(MIB)


class Line:
    """A disk, its snapshots, and what was written in between."""

    def __init__(self, bench: Bench, size: int) -> None:
        self.bench = bench
        self.pools = bench.pools
        self.keys: "list[str]" = []
        self.disk = self.call("Volume.create", name="disk", description="", size=size, sharable=False)["key"]
        self.keys = [self.disk]

    def call(self, verb: str, **arguments: "Any") -> "Any":
        """Runs a verb of the driver in this process."""
        return client.call_inside(verb, sr=self.pools.sr, **arguments)

    def write(self, start: int, length: int) -> None:
        """Writes data that does not compress."""
        uri = f"zvol://{self.pools.volume(self.disk)}"
        for verb in ("attach", "activate"):
            client.call_inside("Datapath." + verb, uri=uri, domain="u0_benchmark")
        with zvol.opened(self.pools.volume(self.disk), writable=True) as descriptor:
            for offset in range(0, length, MIB):
                os.pwrite(descriptor, _DATA[: length - offset], start + offset)
            os.fsync(descriptor)
        for verb in ("deactivate", "detach"):
            client.call_inside("Datapath." + verb, uri=uri, domain="u0_benchmark")

    def snapshot(self) -> str:
        """A snapshot of the disk."""
        self.keys.append(self.call("Volume.snapshot", key=self.disk)["key"])
        return self.keys[-1]

    def descend(self) -> None:
        """Goes on with a clone of a new snapshot."""
        self.disk = self.call("Volume.clone", key=self.snapshot())["key"]
        self.keys.append(self.disk)

    def clear(self) -> None:
        """Destroys all of it."""
        for key in self.keys:
            self.call("Volume.destroy", key=key)

    def origin(self, key: str) -> str:
        """The ZFS snapshot that a snapshot was made from."""
        return run("zfs", "get", "-Hp", "-o", "value", "origin", self.pools.volume(key)).strip()

    def memory(self, arguments: "dict[str, Any]") -> int:
        """KiB of memory that the verb needs more than its modules."""
        sizes = []
        for asked in (arguments, {}):
            argv = [self.bench.python, "-c", _MEMORY, json.dumps(dict(asked, dbg="benchmark"))]
            done = subprocess.run(argv, stdout=subprocess.PIPE, env=client.environment(), check=True)
            sizes.append(int(done.stdout))
        return sizes[0] - sizes[1]

    def row(self, name: str, first: str, second: str, *, forget: bool = False, full: bool = False) -> "dict[str, Any]":
        """Times the verb, the bare stream, and an interpreter. `forget`: nothing is known of the first one's holes.

        `full`: the bare commands are the full stream of the first one, and the increment.
        """
        bare = f"zfs send -c -i {self.origin(first)} {self.origin(second)} | cat > /dev/null"
        if full:
            bare = f"zfs send -c {self.origin(first)} | cat > /dev/null; {bare}"
        arguments = {"sr": self.pools.sr, "key": first, "key2": second, "offset": 0, "length": -1}
        result: "dict[str, Any]" = {"name": name, "python": [], "bare": [], "verb": []}
        for _ in range(self.bench.rounds):
            if forget:
                run("rm", "-rf", allocation.DIRECTORY)
            result["python"].append(self.bench.watch.time([self.bench.python, "-c", "pass"]))
            result["bare"].append(self.bench.watch.time(["sh", "-c", bare]))
            result["verb"].append(self.bench.verb("Volume.list_changed_blocks", arguments))
        wall = {kind: statistics.median(one[0] for one in result[kind]) for kind in ("python", "bare", "verb")}
        result.update(wall=wall, memory=self.memory(arguments), ratio=wall["verb"] / (wall["python"] + wall["bare"]))
        print(
            f"{name:55}{wall['python'] * 1000:8.0f}{wall['bare'] * 1000:9.0f}{wall['verb'] * 1000:9.0f}"
            f"{result['ratio']:8.2f}{result['memory'] / 1024:9.1f}",
            flush=True,
        )
        return result


def each_change(bench: Bench, most: int, deepest: int) -> "list[dict[str, Any]]":
    """The table; `most` MiB changed at most, and there are at most `deepest` generations of clones."""
    print(f"{'milliseconds of wall clock':55}{'python':>8}{'send':>9}{'verb':>9}{'ratio':>8}{'MiB':>9}")
    results = []
    for size in [size for size in SIZES if size <= most]:
        line = Line(bench, 10 * GIB)
        line.write(0, MIB)
        first = line.snapshot()
        line.write(GIB, size * MIB)
        second = line.snapshot()
        results.append(line.row(f"{size} MiB changed, at once", first, second, forget=True, full=True))
        results.append(line.row(f"{size} MiB changed, again", first, second))
        line.clear()

    line = Line(bench, LARGE)
    for part in range(16):
        line.write(part * LARGE // 16, most * MIB // 16)
    first = line.snapshot()
    line.write(LARGE // 2, _BLOCK)
    second = line.snapshot()
    name = f"1 TiB that holds {most} MiB, one block changed"
    results.append(line.row(name + ", at once", first, second, forget=True, full=True))
    results.append(line.row(name + ", again", first, second))
    line.clear()

    line = Line(bench, 10 * GIB)
    line.write(0, MIB)
    first, depth = line.snapshot(), 0
    for wanted in [wanted for wanted in DEPTHS if wanted <= deepest]:
        while depth < wanted:
            line.descend()
            depth += 1
        line.write(depth * MIB, _BLOCK)
        results.append(line.row(f"one block changed, {wanted} generations", first, line.snapshot()))
    line.clear()
    return results
