#!/usr/bin/python3 -S
# SPDX-License-Identifier: LGPL-2.1-only
"""Every verb of the volume plugin is a link to this file and is selected by the link's name.

With -S Python starts in about half the time, but does not know where libraries are.
"""

import sys

sys.path.append("/usr/lib/python3.6/site-packages")

from zfsvol.wire import protocol, table

protocol.main(table.VOLUME)
