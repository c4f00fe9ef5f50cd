# SPDX-License-Identifier: LGPL-2.1-only
"""For administrators: `python3 -m zfsvol …`, see docs/care.md."""

import sys

from zfsvol.wire import people

if __name__ == "__main__":
    sys.exit(people.main())
