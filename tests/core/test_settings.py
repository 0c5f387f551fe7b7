"""hybrid.toml: what is good is used, what is not is named, nothing stops the program."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import settings


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> settings.Loaded:
    path = tmp_path / "hybrid.toml"
    path.write_text(text, encoding="utf-8")
    return settings.load(path, environ or {})


def test_absent_file_is_the_defaults(tmp_path: Path) -> None:
    assert settings.load(tmp_path / "hybrid.toml", {}) == settings.Loaded(settings.Settings())


def test_the_documented_file_is_the_defaults_and_explains_every_key(tmp_path: Path) -> None:
    text = settings.document()
    assert load(tmp_path, text) == settings.Loaded(settings.Settings())
    lines = text.splitlines()
    for section, values in tomllib.loads(text).items():
        for key in values:
            at = next(i for i, line in enumerate(lines) if line.startswith(f"{key} = "))
            assert len(lines[at - 1]) > 5, f"[{section}] {key} has no description"
            assert lines[at - 1].startswith("# ")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("[disk]\nbudgetgb = 1", "did you mean 'budget_gb'?"),
        ("[disc]\nbudget_gb = 1", "did you mean 'disk'?"),
        ("[disk]\nbudget_gb = 'much'", "budget_gb"),
        ("[disk]\nbudget_gb = -1", "budget_gb"),
        ("disk = 3", "[disk] must be a section"),
        ("[disk", "hybrid.toml"),
    ],
)
def test_one_warning_names_what_is_wrong(tmp_path: Path, text: str, phrase: str) -> None:
    loaded = load(tmp_path, text)
    assert len(loaded.warnings) == 1
    assert phrase in loaded.warnings[0]
    assert loaded.settings == settings.Settings()


def test_a_bad_key_leaves_its_good_neighbours(tmp_path: Path) -> None:
    loaded = load(tmp_path, "[disk]\nbudget_gb = 'x'\nmin_free_gb = 7")
    assert loaded.settings.disk.min_free_gb == 7
    assert loaded.settings.disk.budget_gb == 15


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    loaded = load(tmp_path, "[disk]\nbudget_gb = 20", {"HYBRID_DISK_BUDGET_GB": "30", "HYBRID_PANEL_THEME": "nord"})
    assert loaded.settings.disk.budget_gb == 30
    assert loaded.settings.panel.theme == "nord"
    assert "HYBRID_DISK_CACHES_GB" in load(tmp_path, "", {"HYBRID_DISK_CACHES_GB": "much"}).warnings[0]


def test_a_file_that_is_not_utf8_warns(tmp_path: Path) -> None:
    (tmp_path / "hybrid.toml").write_bytes(b"\xff\xfe")
    assert len(settings.load(tmp_path / "hybrid.toml", {}).warnings) == 1


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hybrid.toml"
        path.write_text(text, encoding="utf-8", newline="")
        loaded = settings.load(path, {})
    assert msgspec.convert(msgspec.to_builtins(loaded.settings), settings.Settings) == loaded.settings
