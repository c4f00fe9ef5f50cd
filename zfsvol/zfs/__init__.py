# SPDX-License-Identifier: LGPL-2.1-only
"""ZFS: every zfs and zpool command line, what the answers mean, and the device nodes of zvols. Knows nothing of SRs."""
