"""Fixtures that every part uses: a real workspace in a temporary folder, its context, the optional test beds."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from services import workspace as workspaces
from services.context import Context
from services.workspace import Workspace
from tests.drive_bed import leaks
from tests.drive_bed.fixtures import drive_server

__all__ = ["drive_server"]  # a fixture for every test: Google Drive on loopback

CHECKOUT = Path(__file__).resolve().parent.parent
SHARED = CHECKOUT.parent / "shared"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: its children would not hear Ctrl+C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads the person's own settings, workspace or caches, nor those that the system has in one place."""
    monkeypatch.delenv("HYBRID_WORKSPACE", raising=False)
    monkeypatch.setattr("services.storage.kinds.system.APT", str(tmp_path_factory.mktemp("own") / "apt"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("own") / "inductor"))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh workspace."""
    return workspaces.init(tmp_path / "work")


@pytest.fixture
def ctx(workspace: Workspace) -> Context:
    """A context that may write and has been given no yes."""
    return Context(workspace)


@pytest.fixture(scope="session")
def banking77() -> Path:
    """The real banking77 questions, where the shared data lies beside the checkout."""
    folder = SHARED / "data" / "banking77"
    if not folder.is_dir():
        pytest.skip("the banking77 data does not lie beside this checkout")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test on the Drive server printed and logged must hold none of the server's secrets."""
    report = yield
    secrets = item.stash.get(leaks.KNOWN, None)
    if secrets is not None and report.when == "teardown" and report.passed:
        found = leaks.in_report(report, secrets)
        if found:
            report.outcome, report.longrepr = "failed", "\n".join(found)
    return report
