# SPDX-License-Identifier: LGPL-2.1-only
"""The wire: how the client and people call a verb, and how its answer or error reaches them."""
