# SPDX-License-Identifier: LGPL-2.1-only
"""The host: processes, locks, files, block devices, Xen and tapdisks. Knows nothing of ZFS or SRs."""
