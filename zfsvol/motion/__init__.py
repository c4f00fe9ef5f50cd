# SPDX-License-Identifier: LGPL-2.1-only
"""Storage motion: the processes that move disks out of an SR and into it."""
