# SPDX-License-Identifier: LGPL-2.1-only
"""Starts programs as under Python 3.6, also under a later one."""

import _posixsubprocess
import sys

from zfsvol.host import spawn


def no_posix_spawn(setattr_=setattr):
    """Takes posix_spawn away. fork_exec has got more arguments since 3.7, which stand between the old ones."""
    setattr_(spawn, "_posix_spawn", None)
    if sys.version_info >= (3, 11):
        now = _posixsubprocess.fork_exec
        setattr_(_posixsubprocess, "fork_exec", lambda *then: now(*then[:16], -1, None, None, None, -1, None, False))
