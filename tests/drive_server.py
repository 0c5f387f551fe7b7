"""Google Drive's REST API v3 and Google's sign-in on loopback, for tests and benchmarks: no account, no network.

    python -m tests.drive_server --port 0

prints one JSON line ({"url": …}) when it is ready. Its parts are in ``tests/drive_bed``; tests start it with the
fixture ``drive_server``, other programs with ``tests.drive_bed.serve.running``.
"""

from __future__ import annotations

import sys

from tests.drive_bed.listen import main

if __name__ == "__main__":
    sys.exit(main())
