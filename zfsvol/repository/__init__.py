# SPDX-License-Identifier: LGPL-2.1-only
"""The storage repository: SRs, their disks, the families of disks, and the attachments of disks."""
