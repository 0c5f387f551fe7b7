"""``--run`` as a script sees it: real processes, their output and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybrid_tui import actions

CHECKOUT = Path(__file__).resolve().parents[2]


def hybrid(*words: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in ``cwd``."""
    return subprocess.run(
        [sys.executable, "-m", "hybrid_tui", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A fresh workspace made by the command itself."""
    assert hybrid("--init", "box", cwd=tmp_path).returncode == 0
    return tmp_path / "box"


def test_run_alone_lists_every_action_with_its_help(box: Path) -> None:
    said = hybrid("--run", cwd=box)
    assert said.returncode == 0
    for action in actions.ACTIONS.values():
        assert action.name in said.stdout
        assert action.help in said.stdout


@pytest.mark.parametrize("name", list(actions.ACTIONS))
def test_every_action_explains_each_parameter(name: str) -> None:
    action = actions.find(name)
    import msgspec

    for field in msgspec.structs.fields(action.parameters()):
        assert actions.description(field.type) or actions.type_words(field.type).startswith("one of"), field.name
        assert not actions.type_words(field.type).startswith("typing"), field.name


def test_scan_equals_du_and_is_one_json_document(box: Path) -> None:
    (box / "file").write_bytes(b"x" * 123_456)
    os.link(box / "file", box / "again")
    du = subprocess.run(["du", "-s", "-B1", str(box)], capture_output=True, text=True, check=True)
    said = hybrid("--run", "storage.scan", f"path={box}", "--json", cwd=box)  # keeps its result in the workspace
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["total_bytes"] == int(du.stdout.split()[0])


@pytest.mark.parametrize(
    ("words", "code", "phrase"),
    [
        (["--run", "storage.scn"], 2, "did you mean 'storage.scan'?"),
        (["--run", "storage.scan", "pth=/"], 2, "did you mean 'path'?"),
        (["--run", "storage.scan", "path"], 2, "not key=value"),
        (["--run", "storage.scan", "path=a", "path=b"], 2, "twice"),
        (["--run", "storage.scan", "path=/does/not/exist"], 2, "/does/not/exist"),
        (["--run", "registry.promote", "version=1"], 2, "model=…"),
        (["--run", "registry.promote", "model=x", "version=2"], 2, "'x'"),
        (["--run", "data.generate", "rows=many"], 2, "rows=many"),
        (["--run", "train.start", "lr=5"], 2, "lr=5 is not usable: expected a number <= 1.0"),
        (["--run", "data.generate", "--read-only"], 3, "read-only"),
        (["--jsn", "--run"], 2, "did you mean '--json'?"),
        (["--run", "data.prepare", "source=nothing.csv"], 2, "nothing.csv"),
        (["--workspace", "/does/not/exist", "--run", "settings.show"], 2, "/does/not/exist"),
        (["frobnicate"], 2, "frobnicate"),
        (["--progress", "fancy", "--run"], 2, "fancy"),
    ],
)
def test_bad_input_is_one_sentence_and_the_documented_code(box: Path, words: list[str], code: int, phrase: str) -> None:
    said = hybrid(*words, cwd=box)
    assert said.returncode == code, said.stderr
    assert phrase in said.stderr
    assert "Traceback" not in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_an_error_is_a_document_too_when_json_is_asked_for(box: Path) -> None:
    said = hybrid("--run", "registry.show", "model=none", "--json", cwd=box)
    assert said.returncode == 2
    assert json.loads(said.stdout)["error"]["exit_code"] == 2


def test_a_broken_settings_file_warns_and_is_left_as_it_is(box: Path) -> None:
    (box / "hybrid.toml").write_text("[disk\nbudget_gb = ", encoding="utf-8")
    said = hybrid("--run", "settings.show", "--json", cwd=box)
    assert said.returncode == 0
    assert "hybrid.toml" in said.stderr
    assert (box / "hybrid.toml").read_text(encoding="utf-8") == "[disk\nbudget_gb = "


def test_dry_run_writes_nothing(box: Path) -> None:
    before = sorted(p for p in box.rglob("*"))
    said = hybrid("--run", "data.generate", "name=x", "rows=400", "--dry-run", "--json", cwd=box)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["action"] == "data.generate"
    assert sorted(p for p in box.rglob("*")) == before


def test_the_persons_own_packages_are_not_imported(box: Path) -> None:
    (box / "services").mkdir()
    (box / "services" / "__init__.py").write_text("raise SystemExit('shadowed')", encoding="utf-8")
    assert hybrid("--run", "settings.show", cwd=box).returncode == 0


def test_a_workspace_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".hybrid").write_text("in the way", encoding="utf-8")
    said = hybrid("--run", "data.generate", cwd=tmp_path)
    assert said.returncode == 2
    assert str(tmp_path) in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_the_panel_without_a_terminal_says_so(box: Path) -> None:
    said = hybrid(cwd=box)
    assert said.returncode == 2
    assert "--run" in said.stderr


def test_interrupt_ends_with_130(box: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hybrid_tui", "--run", "storage.scan", "path=/", "--progress", "json"],
        cwd=box,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job has Ctrl+C ignored, and so would its children: the scan then ran to its end.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert process.stderr.readline(), "the scan reports progress"
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in said
    assert time.monotonic() - began < 5
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "words", [["--run", "storage.scan", "--json"], ["--run", "storage.caches", "--json"], ["--run"]]
)
def test_headless_imports_neither_textual_nor_torch_nor_rich(box: Path, words: list[str]) -> None:
    code = (
        "import sys; from hybrid_tui.cli import main; code = main(sys.argv[1:]); "
        "heavy = {'textual', 'torch', 'rich', 'transformers'} & set(sys.modules); assert not heavy, heavy; "
        "sys.exit(code)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=box, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
