# SPDX-License-Identifier: LGPL-2.1-only
"""Whether a mirror that copies in passes will catch up with the writers of its disk. Pure.

The first pass copies all that the disk holds, each later one what was written during the one before. Once a pass is
short, what is left can be copied while the VM is paused.
"""

from zfsvol.errors import StorageError
from zfsvol.repository.family import human

# Seconds. How long the VM may be paused, as far as the last pass tells; and if the passes do not get shorter.
_GOOD_PAUSE = 1.0
_LONGEST_PAUSE = 10.0

# Passes that bring no progress, before the mirror gives up or is content.
_PATIENCE = 4
_PROGRESS = 0.8  # of the shortest pass so far


class TooFast(StorageError):
    """The VM writes faster than its disk can be copied."""


class Pace:
    """The passes so far. `is_close`: what is left is little enough to be copied while the VM is paused."""

    def __init__(self) -> None:
        self.is_close = False
        self.pause = 0.0  # seconds that the last pass took: about as long as the VM will be paused
        self._passes = 0
        self._shortest = 0.0
        self._idle = 0

    def passed(self, size: int, seconds: float) -> None:
        """A pass has copied `size` bytes in this time. Raises TooFast."""
        self._passes += 1
        self.pause = seconds
        if self._passes == 1:
            self._shortest = seconds
            self.is_close = seconds <= _GOOD_PAUSE
            return
        if seconds < _PROGRESS * self._shortest:
            self._shortest, self._idle = seconds, 0
        else:
            self._idle += 1
        if seconds <= _GOOD_PAUSE:
            self.is_close, self._idle = True, 0
        elif self._idle >= _PATIENCE:
            if seconds > _LONGEST_PAUSE:
                raise TooFast(
                    f"The VM writes its disk as fast as it can be copied: what it wrote during the last pass, "
                    f"{human(size)}, took {seconds:.0f} seconds, no less than before. Migrate it when it writes "
                    "less, or halted."
                )
            self.is_close = True
