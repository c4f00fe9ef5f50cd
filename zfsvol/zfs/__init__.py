# SPDX-License-Identifier: LGPL-2.1-only
"""ZFS: all zfs and zpool command lines, the parsing of their output, zvol device nodes. Knows nothing of SRs."""
