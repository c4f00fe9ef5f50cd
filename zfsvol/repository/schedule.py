# SPDX-License-Identifier: LGPL-2.1-only
"""When a pool is to be scrubbed or trimmed: the words of an administrator, and the next time that follows. Pure.

Times are seconds since 1970; the time of day is the host's. The schedule is a property of the SR's root, and the last
run is known from the pool itself. So a run that somebody else started counts, too, and nothing is done twice.
"""

import re
import time

from zfsvol import naming

OFF = "off"

# Days between two runs.
_DAYS = {"daily": 1, "weekly": 7, "monthly": 30}
_DAY = 86400

# Seconds after the time of day in which a run may still begin. If the host was off, or something else was going on, it
# is put off to the next day, so that it never disturbs at another time of day.
WINDOW = 3600

_SCHEDULE = re.compile(r"({}|{})(?: ([01]?\d|2[0-3]):([0-5]\d))?\Z".format("|".join(_DAYS), OFF))

FORM = "off, daily, weekly or monthly, with a time of day if wanted: 'monthly 02:30'"

# A scrub reads everything for hours; a trim takes minutes, and is over before a scrub of the next night begins.
DEFAULTS = {naming.SR_SCRUB: "monthly 02:00", naming.SR_TRIM: "weekly 01:00"}


class Schedule:
    """How often, and at what time of day. `every`: off, daily, weekly or monthly."""

    def __init__(self, every: str, hour: int, minute: int) -> None:
        self.every = every
        self.hour = hour
        self.minute = minute

    def __str__(self) -> str:
        """As an administrator writes it: "monthly 02:30", "off"."""
        return OFF if self.every == OFF else f"{self.every} {self.hour:02}:{self.minute:02}"


def parse(text: str, name: str) -> Schedule:
    """The schedule by its words; without a time of day, at that of the default of the property `name`.

    Raises ValueError if they are none; FORM says how to write them.
    """
    found = _SCHEDULE.match(" ".join(text.split()))
    if found is None:
        raise ValueError(text)
    every, hour, minute = found.groups()
    if hour is None:
        hour, minute = DEFAULTS[name].split()[1].split(":")
    return Schedule(every, int(hour), int(minute))


def of(values: "dict[str, str]", name: str, *, autotrim: bool) -> Schedule:
    """The schedule by a root's properties. `name`: SR_SCRUB or SR_TRIM. A text that is no schedule counts as unset.

    By default a pool is scrubbed monthly, and trimmed weekly unless ZFS does so all the time (`autotrim`).
    """
    try:
        return parse(values[name], name)
    except (KeyError, ValueError):
        return parse(OFF if name == naming.SR_TRIM and autotrim else DEFAULTS[name], name)


def next_due(schedule: Schedule, last_end: "float | None", now: float) -> "int | None":
    """When the next run is to begin; not after `now` if it is to begin now. None if never.

    `last_end`: when the last run ended, whoever started it; None if there was none. The time is the first at the
    schedule's time of day that is a whole period after the last run, less a day: a run that ends later than it began
    must not make the next one come a day later. A time that has passed by more than WINDOW is put off by a day.
    """
    if schedule.every == OFF:
        return None
    earliest = now - WINDOW
    if last_end is not None:
        # A clock that was wrong must not put a run off for years.
        earliest = max(earliest, min(last_end, now) + (_DAYS[schedule.every] - 1) * _DAY)
    day = time.localtime(earliest)
    # Two days suffice, but on the day that summer time begins the time of day may not exist.
    for later in range(3):
        date = (day.tm_year, day.tm_mon, day.tm_mday + later, schedule.hour, schedule.minute, 0, 0, 0, -1)
        due = int(time.mktime(date))
        if due > earliest:
            return due
    raise AssertionError("unreachable")


def is_late(schedule: Schedule, last_end: float, now: float) -> bool:
    """Whether the last run is a period and a half ago: something keeps the next one from being run."""
    return schedule.every != OFF and now - last_end > 1.5 * _DAYS[schedule.every] * _DAY
