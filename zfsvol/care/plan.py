# SPDX-License-Identifier: LGPL-2.1-only
"""What a function of care is about to do: the commands, what would be lost, and what a person should know.

A function first finds out all of it and changes nothing; then `answer` refuses, tells or does it. So a dry run tells
exactly what would be done, and a refusal has changed nothing.
"""

import shlex

from zfsvol import log
from zfsvol.errors import InvalidArgument
from zfsvol.repository import repair
from zfsvol.repository.sr import SR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Plan:
    """The commands, in order; `risks`: what would be lost, in sentences; `notes`: what else to know.

    `repairs`: what is half done and will be repaired, in sentences; None for what is no repair. The caller then holds
    the SR's lock, alone unless it is a dry run.
    """

    def __init__(self, sr: SR) -> None:
        self.sr = sr
        self.commands: "list[list[str]]" = []
        self.risks: "list[str]" = []
        self.notes: "list[str]" = []
        self.repairs: "list[str] | None" = None

    def answer(self, *, force: bool = False, dry_run: bool = False) -> "dict[str, Any]":
        """Repairs, runs the commands, and tells both and the notes. `dry_run`: only tells, `needs-force` included.

        Raises InvalidArgument for a risk without `force`, before anything is changed; CommandFailed with zfs's or
        zpool's reason, and others of `Pool.change`. A crash leaves the effects of the commands before it.
        """
        shown = [" ".join(map(shlex.quote, argv)) for argv in self.commands]
        answer: "dict[str, Any]" = {"sr": self.sr.uuid, "done": not dry_run, "commands": shown, "notes": self.notes}
        if self.repairs is not None:
            answer["repairs"] = self.repairs
        if dry_run:
            return dict(answer, **{"needs-force": self.risks})
        if self.risks and not force:
            raise InvalidArgument(
                "{} Nothing was changed; force=true does it all the same.".format(" ".join(self.risks))
            )
        if self.repairs is not None:
            repair.repair(self.sr)
        for argv, line in zip(self.commands, shown):
            log.info(f"{self.sr.dataset}: {line}")
            self.sr.zfs.change(argv)
        return answer
