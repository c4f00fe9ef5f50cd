# SPDX-License-Identifier: LGPL-2.1-only
"""Times processes: the verbs as the client starts them, and what they are compared with."""

import json
import os
from pathlib import Path
import re
import statistics
import subprocess
import time

from benchmarks.pools import Failed, Pools
from tests import client
from zfsvol.host import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

CHECKOUT = Path(__file__).resolve().parent.parent
# With more volumes than this a round takes long, so there are fewer rounds.
MANY = 5000
ROUNDS_OF_MANY = 3

# The name of a removed disk in the graveyard: group 1 is all before the random token.
GRAVE = re.compile(r"(/\.gone-[0-9a-f-]{36}\.)[0-9a-f]{8}\Z")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Stopwatch:
    """Runs processes with their output in files, so that reading it takes no time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def time(self, argv: "list[str]", request: bytes = b"", *, status: int = 0, **keywords: "Any") -> "list[float]":
        """Seconds of wall clock, and of CPU: user and system, of the process and all its descendants."""
        paths = [self.directory / name for name in ("stdin", "stdout", "stderr")]
        paths[0].write_bytes(request)
        with paths[0].open("rb") as stdin, paths[1].open("wb") as stdout, paths[2].open("wb") as stderr:
            began = time.perf_counter()
            process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, **keywords)
            _, ended, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - began
        process.returncode = os.WEXITSTATUS(ended) if os.WIFEXITED(ended) else -1
        if process.returncode != status:
            said = (paths[1].read_bytes() + paths[2].read_bytes()).decode(errors="replace")
            raise Failed("{}: status {} {}".format(" ".join(argv), process.returncode, said))
        return [wall, usage.ru_utime + usage.ru_stime]


def middle(values: "list[list[float]]") -> "list[float]":
    """The median of the wall clock times, and the mean of the CPU times without the least and the greatest.

    The lab's kernel counts CPU time in ticks of 10 ms, so a median would be a whole number of ticks.
    """
    cpu = sorted(value[1] for value in values)
    return [statistics.median(value[0] for value in values), statistics.mean(cpu[1:-1] if len(cpu) > 2 else cpu)]


class Bench:
    """Takes the times of verbs."""

    def __init__(self, pools: Pools, watch: Stopwatch, rounds: int) -> None:
        self.pools = pools
        self.watch = watch
        self.rounds = rounds
        self.python = os.environ.get("ZFSVOL_PYTHON", "/usr/bin/python3")

    def measure(
        self,
        verb: str,
        remark: str,
        stage: "Callable[[Pools], dict[str, Any]]",
        bare: "Callable[[Pools], list[str]] | None" = None,
        rounds: int = 0,
    ) -> "dict[str, Any]":
        """One verb: its children, and its times beside those of a bare interpreter and of the same children.

        `bare` sets the stage for the command that an administrator would use instead, and returns it; it is timed, too.
        """
        recorded, children, known = self._children(verb, stage)
        python = []
        commands = []
        driver = []
        bares = []
        if len(self.pools.volumes) > MANY:
            rounds = min(self.rounds, ROUNDS_OF_MANY)
        for _ in range(rounds or self.rounds):
            python.append(self.watch.time([self.python, "-c", "pass"], env=client.environment()))
            driver.append(self.verb(verb, self._staged(stage)))
            if children:
                commands.append(self._commands(children, recorded, self._staged(stage), known))
            if bare:
                bares.append(self.watch.time(bare(self.pools), env=command.ENVIRONMENT, cwd="/"))
        result: "dict[str, Any]"
        result = {"verb": verb, "remark": remark, "volumes": len(self.pools.volumes), "rounds": len(python)}
        result.update(children=[argv for argv, _ in children], python=middle(python), driver=middle(driver))
        totals = [[sum(one[index] for one in each) for index in (0, 1)] for each in commands]
        result["commands"] = middle(totals) if children else [0, 0]
        result["each_command"] = [middle(list(each)) for each in zip(*commands)]
        floor = [result["python"][index] + result["commands"][index] for index in (0, 1)]
        result["ratio"] = [result["driver"][index] / floor[index] if floor[index] else None for index in (0, 1)]
        if bares:
            result["bare"] = middle(bares)
        return result

    def _staged(self, stage: "Callable[[Pools], dict[str, Any]]") -> "dict[str, Any]":
        self.pools.number += 1
        return stage(self.pools)

    def verb(self, verb: str, arguments: "dict[str, Any]") -> "list[float]":
        """Times one call of a verb, as the client makes it."""
        return self._verb(client.argv(verb), arguments)

    def _verb(self, argv: "list[str]", arguments: "dict[str, Any]") -> "list[float]":
        request = json.dumps(dict(arguments, dbg="benchmark")).encode()
        return self.watch.time(argv, request, env=client.environment())

    def _children(self, verb: str, stage: "Callable[[Pools], dict[str, Any]]") -> "tuple[Any, list[Any], set[str]]":
        """The arguments of one call, the commands that it ran with their statuses, and the uuids known before it."""
        arguments = self._staged(stage)
        known = UUID.findall(json.dumps([arguments, self.pools.sr, self.pools.spare_uuid, *self.pools.present()]))
        path = self.watch.directory / "children"
        argv = [self.python, str(CHECKOUT / "benchmarks" / "children.py"), str(path), verb, "--json"]
        self._verb(argv, arguments)
        with path.open() as file:
            return arguments, json.load(file), set(known)

    def _commands(
        self, children: "list[Any]", recorded: "Any", arguments: "Any", known: "set[str]"
    ) -> "list[list[float]]":
        """Runs the same commands for another call; returns their times."""
        changes: "dict[str, str]" = {}
        for name, value in arguments.items():
            if value != recorded[name]:
                changes[str(recorded[name])] = str(value)
        # The verb has made up every other uuid that did not exist before.
        known = known.union(UUID.findall(json.dumps(arguments)))
        times = []
        for argv, status in children:
            words = []
            for word in argv:
                for old, new in changes.items():
                    word = word.replace(old, new)  # noqa: PLW2901
                for uuid in set(UUID.findall(word)) - known:
                    word = word.replace(uuid, changes.setdefault(uuid, client.new_uuid()))  # noqa: PLW2901
                words.append(GRAVE.sub(lambda found: found.group(1) + os.urandom(4).hex(), word))
            known.update(changes.values())
            times.append(self.watch.time(words, status=status, env=command.ENVIRONMENT, cwd="/"))
        return times
