# SPDX-License-Identifier: LGPL-2.1-only
"""The storage repository: what an SR is, its disks and their families, and who has which disk attached."""
