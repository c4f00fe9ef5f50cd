# SPDX-License-Identifier: LGPL-2.1-only
"""SMAPIv3 storage driver for local ZFS: what the executables in volume/ are made of."""

__version__ = "2.0.0"
