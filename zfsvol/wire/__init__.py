# SPDX-License-Identifier: LGPL-2.1-only
"""The interface to callers: how the client and people call a verb and get its answer or error."""
