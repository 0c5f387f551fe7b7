"""A small job beside a run's: prints files that the head keeps, or leaves a wish there, or clears up.

    python -m services.runs.ray.deliver FOLDER get '[["checkpoints/x/y", 0, 1048576], …]'
    python -m services.runs.ray.deliver FOLDER checkpoint
    python -m services.runs.ray.deliver FOLDER remove

Standard library only. A piece of a file is one line ``@piece PATH OFFSET BASE64``; the last line is ``@done``.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
from pathlib import Path

PIECE, DONE = "@piece ", "@done"


def main(words: list[str]) -> int:
    """Entry point."""
    place, verb = Path(words[0]), words[1]
    if verb == "get":
        for path, offset, length in json.loads(words[2]):
            with (place / path).open("rb") as file:
                file.seek(offset)
                data = base64.b64encode(file.read(length)).decode()
            print(f"{PIECE}{json.dumps(path)} {offset} {data}", flush=True)
    elif verb == "checkpoint":
        (place / "checkpoint").touch()
    elif verb == "remove":
        shutil.rmtree(place, ignore_errors=True)
    print(DONE, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
