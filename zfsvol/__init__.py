# SPDX-License-Identifier: LGPL-2.1-only
"""SMAPIv3 storage driver for local ZFS: the library behind the executables in volume/ and datapath/."""

__version__ = "2.0.0"
