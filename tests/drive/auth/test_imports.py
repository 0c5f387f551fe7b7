"""What signing in needs is imported when it is needed, not before."""

from __future__ import annotations

import subprocess
import sys

from tests.drive.auth.helpers import environment

LOOK = """
import sys
import services.drive.auth.open, services.drive.auth.actions
print(sorted({name.partition(".")[0] for name in sys.modules} & {
    "google", "requests", "urllib3", "aiohttp", "keyring", "platformdirs", "textual", "rich", "cryptography"}))
"""


def test_nothing_heavy_before_the_first_token() -> None:
    told = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, env=environment(), check=True)
    assert told.stdout.strip() == "[]"
