# SPDX-License-Identifier: LGPL-2.1-only
"""NBD: disks of other hosts, or for other programs, through a socket. Knows nothing of ZFS or SRs."""
