"""torch's caches, and those of the compilers below it.

Sources: torch.hub's "Where are my downloaded models saved?"; torch's ``PYTORCH_KERNEL_CACHE_PATH`` ("CUDA environment
variables") and ``torch.utils.cpp_extension.load``; "Compile Time Caching Configuration" (TORCHINDUCTOR_CACHE_DIR);
Triton's README (``TRITON_CACHE_DIR``, ``TRITON_HOME``).
"""

from __future__ import annotations

import getpass
import os
import re
import tempfile
from pathlib import Path

from services.storage.kinds import places
from services.storage.kinds.rule import Box, Kind, Look, each_entry, names, whole_place

_YOUNG = 3600.0


def _home(box: Box) -> Path:
    return places.variable(box, "TORCH_HOME") or places.caches(box) / "torch"


def _hub(box: Box) -> list[Path]:
    return [_home(box) / "hub"]


def _list_hub(look: Look) -> None:
    """Each checkpoint, each repository. Checkpoints not suggested: they are what people load."""
    for place in look.places:
        for name in names(place):
            if name == "checkpoints":
                for file in names(f"{place}/checkpoints"):
                    look.add(f"checkpoints/{file}", f"{place}/checkpoints/{file}", suggested=False)
            elif os.path.isdir(f"{place}/{name}"):  # noqa: PTH112
                look.add(name, f"{place}/{name}", suggested=False, note="Code of a torch hub repository.")


def _kernels(box: Box) -> list[Path]:
    return [places.variable(box, "PYTORCH_KERNEL_CACHE_PATH") or _home(box) / "kernels"]


def _extensions(box: Box) -> list[Path]:
    return [places.variable(box, "TORCH_EXTENSIONS_DIR") or places.caches(box) / "torch_extensions"]


def _triton(box: Box) -> list[Path]:
    return [
        places.variable(box, "TRITON_CACHE_DIR") or (places.variable(box, "TRITON_HOME") or box.home) / ".triton/cache"
    ]


def _inductor(box: Box) -> list[Path]:
    if own := places.variable(box, "TORCHINDUCTOR_CACHE_DIR"):
        return [own]
    try:
        user = getpass.getuser()
    except (KeyError, ImportError, OSError):  # a container's user without a name
        user = f"uid_{os.getuid()}"
    folder = places.variable(box, "TMPDIR") or Path(tempfile.gettempdir())
    return [folder / f"torchinductor_{re.sub(r'[^A-Za-z0-9_.@-]', '_', user)}"]


def _list_compiled(look: Look) -> None:
    """The whole place; in use while something in it changed within the hour, since no lock says more."""
    for place in look.places:
        tally = look.measure(place)
        young = tally.newest > look.box.now - _YOUNG
        used_by = ("a compilation within the last hour",) if young else ()
        look.add("/".join(Path(place).parts[-2:]), place, tally=tally, used_by=used_by)


_AGAIN = "It is compiled again at the next use, which takes seconds to minutes."

KINDS: tuple[Kind, ...] = (
    Kind(
        "torch", "torch hub: models and checkpoints", _hub, _list_hub,
        "torch.hub.load downloads them again at the next use.", usual=True,
    ),
    Kind("torch-kernels", "torch: kernels compiled at run time", _kernels, whole_place, _AGAIN, risk="none"),
    Kind("torch-extensions", "torch: C++ extensions", _extensions, each_entry, _AGAIN, risk="none"),
    Kind("triton", "Triton: compiled kernels", _triton, _list_compiled, _AGAIN, risk="none"),
    Kind("inductor", "torch.compile: compiled graphs", _inductor, _list_compiled, _AGAIN, risk="none"),
)  # fmt: skip
