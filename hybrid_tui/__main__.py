"""``python -m hybrid_tui``: the same as the command ``hybrid-tui``.

``-m`` puts the current directory first on the import path, where a person's own ``services`` or ``widgets`` folder
would shadow ours; so it is dropped before anything of ours is imported.
"""

import os
import sys

if __name__ == "__main__":
    here = os.getcwd()  # noqa: PTH109 - pathlib is not needed this early
    installed_from = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    sys.path = [p for p in sys.path if p not in ("", here) or os.path.abspath(p or here) == installed_from]  # noqa: PTH100
    from hybrid_tui.cli import main

    sys.exit(main())
