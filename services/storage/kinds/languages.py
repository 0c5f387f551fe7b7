"""Other languages' caches: cargo, go.

Sources: the Cargo book's "Cargo Home" page; ``go help environment``, ``go help cache`` and the Go Modules Reference's
"Module cache" (its files are read-only on purpose).
"""

from __future__ import annotations

from pathlib import Path

from services.storage.kinds import places
from services.storage.kinds.locks import is_locked
from services.storage.kinds.rule import Box, Kind, Look, names, whole_place


def _cargo_home(box: Box) -> Path:
    return places.variable(box, "CARGO_HOME") or box.home / ".cargo"


def _cargo(box: Box) -> list[Path]:
    return [_cargo_home(box) / "registry", _cargo_home(box) / "git"]


def _list_cargo(look: Look) -> None:
    """Sources are unpacked again from the archives beside them; archives, indexes and clones need the network."""
    used_by = ("cargo",) if is_locked(f"{_cargo_home(look.box)}/.package-cache", shared_too=True) else ()
    notes = {
        "src": ("none", "Unpacked from the archives."),
        "checkouts": ("none", "Checked out from the clones."),
        "cache": ("low", "Crates as they were downloaded."),
        "db": ("low", "Clones of git dependencies."),
        "index": ("low", "What the registries offer."),
    }
    for place in look.places:
        for name in names(place):
            if name in notes:
                risk, note = notes[name]
                look.add(
                    f"{Path(place).name}/{name}", f"{place}/{name}", risk="none" if risk == "none" else "low",
                    used_by=used_by, note=note,
                )  # fmt: skip


def _go_setting(box: Box, name: str) -> str:
    """A variable of the environment, or else what ``go env -w`` wrote."""
    own = box.environ.get(name)
    return own or places.ini(places.variable(box, "GOENV") or places.config(box) / "go" / "env", name)


def _go_build(box: Box) -> list[Path]:
    value = _go_setting(box, "GOCACHE")
    return [places.path(value, box) if value and value != "off" else places.caches(box) / "go-build"]


def _go_modules(box: Box) -> list[Path]:
    if value := _go_setting(box, "GOMODCACHE"):
        return [places.path(value, box)]
    value = _go_setting(box, "GOPATH").split(":")[0]
    return [(places.path(value, box) if value else box.home / "go") / "pkg" / "mod"]


KINDS: tuple[Kind, ...] = (
    Kind(
        "cargo", "cargo: crates, sources and git clones", _cargo, _list_cargo,
        "cargo downloads them again at the next build.",
    ),
    Kind(
        "go-build", "go: compiled packages", _go_build, whole_place, "go compiles them again.", risk="none",
        command="go clean -cache",
    ),
    Kind(
        "go-modules", "go: downloaded modules", _go_modules, whole_place, "go downloads them again at the next build.",
        command="go clean -modcache",
    ),
)  # fmt: skip
