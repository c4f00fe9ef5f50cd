# SPDX-License-Identifier: LGPL-2.1-only
"""What verbs import before they begin: the user waits for it."""

import subprocess
import sys

import pytest

from tests.static.source import ROOT, python_3_6
from zfsvol.wire.table import DATAPATH, VOLUME

MODULES = sorted({module for module, _, _ in [*VOLUME.values(), *DATAPATH.values()]})

# Each takes as long as several of the driver's own modules.
SLOW = {"contextlib", "ctypes", "hashlib", "inspect", "locale", "pathlib", "selectors", "shutil", "subprocess"}
SLOW |= {"tempfile", "threading", "traceback", "typing", "uuid"}

# The datapath's, which a verb needs only for a disk that is attached. SR.attach looks for what is left of attachments.
DATAPATH_ONLY = {"zfsvol.host.tapdisk", "zfsvol.host.bounded", "zfsvol.zfs.node", "zfsvol.repository.attachment"}
NEEDS_DATAPATH = {"datapath", "sr_attach", "volume_compose"}

# Other programs' snapshots, half done work and messages of zpool concern few verbs.
NEEDS_FAMILY = {"sr", "sr_stat", "sr_attach", "sr_destroy"}
NEEDS_TEXT = {"plugin_srs", "sr_stat", "sr_attach", "sr_detach", "sr_destroy"}


def imported(module, python):
    """The modules in a verb's process when its function is called."""
    text = f"import sys; from zfsvol.wire import protocol, table; import zfsvol.verbs.{module}; print(*sys.modules)"
    done = subprocess.run(
        [python, "-S", "-c", text], cwd=str(ROOT), env={"LC_ALL": "C"}, check=True, stdout=subprocess.PIPE, text=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_a_verb_imports_what_it_needs(module):
    for python in filter(None, (sys.executable, python_3_6())):
        found = imported(module, python)
        assert found & SLOW == set()
        if module not in NEEDS_DATAPATH:
            assert found & DATAPATH_ONLY == set()
        if module not in NEEDS_FAMILY:
            assert "zfsvol.repository.family" not in found
        if module not in NEEDS_TEXT:
            assert "zfsvol.zfs.text" not in found


def test_a_description_needs_no_pool():
    found = imported("plugin", sys.executable)
    assert not {name for name in found if name.startswith(("zfsvol.host", "zfsvol.zfs"))}
