"""A clean-up policy in words, as ``storage.watch policy=`` takes it: what may be cleaned without asking again."""

from __future__ import annotations

import re

import msgspec

from services.errors import BadInput

EXAMPLE = "caches under 3 GB, least recently used first, to trash"
_UNDER = re.compile(r"caches under (\d+(?:\.\d+)?) ?(gb|mb)", re.IGNORECASE)
_UNUSED = re.compile(r"unused for (\d+(?:\.\d+)?) days?", re.IGNORECASE)
_UNITS = {"gb": 1.0, "mb": 0.001}


class Policy(msgspec.Struct, frozen=True):
    """``under_gb`` is what the caches are brought under; only what was not used for ``older_than_days`` goes.

    ``now`` frees at once instead of moving to the trash. ``words`` is the whole policy, spelt out.
    """

    under_gb: float
    older_than_days: float | None
    now: bool
    words: str


def parse(text: str, caches_gb: float) -> Policy | None:
    """The policy that ``text`` states, None when it is empty; "default" stands for the caches' budget, to the trash.

    Raises BadInput for a part that it does not know.
    """
    if not text.strip():
        return None
    if text.strip().lower() == "default":
        text = f"caches under {caches_gb:g} GB, to trash"
    under: float | None = None
    older: float | None = None
    now = False
    for part in (part.strip() for part in text.split(",")):
        if match := _UNDER.fullmatch(part):
            under = float(match[1]) * _UNITS[match[2].lower()]
        elif match := _UNUSED.fullmatch(part):
            older = float(match[1])
        elif part.lower() in ("to trash", "free now"):
            now = part.lower() == "free now"
        elif part.lower() != "least recently used first":  # there is no other order
            raise BadInput(f"The policy's part '{part}' is not known.", hint=f'Write for example: policy="{EXAMPLE}".')
    if under is None:
        raise BadInput("The policy does not say how large the caches may be.", hint=f'For example: policy="{EXAMPLE}".')
    unused = f", unused for {older:g} days" if older is not None else ""
    words = f"caches under {under:g} GB{unused}, least recently used first, {'freed at once' if now else 'to trash'}"
    return Policy(under, older, now, words)
