# SPDX-License-Identifier: LGPL-2.1-only
"""`python3 -m zfsvol.motion KIND DATASET VDI`: the process of a job. Started by `repository.job`."""

import sys

from zfsvol.motion import mirror, process, recorder
from zfsvol.repository import mirror as mirrors
from zfsvol.repository import recording
from zfsvol.repository.job import Job
from zfsvol.repository.sr import SR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

_KINDS: "dict[str, Callable[[Job, process.Orders], object]]" = {
    mirrors.KIND: mirror.run,
    recording.KIND: recorder.run,
}


def main() -> None:
    """Becomes the process of the job. Never returns."""
    kind, dataset, key = sys.argv[1:]
    process.run(Job(SR(dataset), key, kind), _KINDS[kind])


if __name__ == "__main__":
    main()
