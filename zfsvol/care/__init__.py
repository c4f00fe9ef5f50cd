# SPDX-License-Identifier: LGPL-2.1-only
"""What people do for an SR and its pool beside the verbs, through xe or at a shell. See docs/care.md."""
