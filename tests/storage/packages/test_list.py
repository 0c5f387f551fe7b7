"""packages.list: sizes by RECORD that add up to what the folder takes, whatever lies in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.context import Context
from services.errors import BadInput
from services.storage.packages import places, sizes
from services.storage.packages.actions import EnvironmentsParams, ListParams, environments, list_packages
from services.storage.packages.types import Distribution, PackageList

REAL_PREFIX = os.path.realpath(sys.prefix)


def du(*paths: Path) -> int:
    done = subprocess.run(["du", "-s", "-c", "-B1", *paths], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def site(venv: Path) -> Path:
    return next((venv / "lib").glob("python3*/site-packages"))


def row(result: PackageList, name: str) -> Distribution:
    return next(d for d in result.distributions if d.name == name)


def assert_adds_up(result: PackageList, folder: Path) -> None:
    assert result.total_bytes == du(folder)
    inside = sum(d.bytes for d in result.distributions) - result.outside_bytes
    assert inside + result.orphan_bytes + result.folder_bytes == result.total_bytes


async def test_all_distributions_and_the_rest_make_up_what_du_counts(ctx: Context, venv: Path) -> None:
    result = await list_packages(ctx, ListParams(env=str(venv)))
    assert_adds_up(result, site(venv))
    names = {d.name for d in result.distributions}
    assert {"torch", "nvidia-cublas-cu12", "triton", "trainer"} <= names
    torch = row(result, "torch")
    assert (torch.version, torch.installer, torch.cuda, torch.requested) == ("2.9.1", "pip", True, True)
    assert torch.needed_by == ("bitsandbytes", "trainer")
    assert torch.bytes == torch.freed_bytes >= 200_000
    assert list(result.distributions) == sorted(result.distributions, key=lambda d: -d.bytes)
    assert result.environments[0].cuda_bytes > 800_000
    assert result.complete and result.seconds > 0


async def test_a_script_outside_of_the_folder_counts_with_its_distribution(ctx: Context, venv: Path) -> None:
    before = row(await list_packages(ctx, ListParams(env=str(venv))), "torch").bytes
    (venv / "bin/torchrun").write_bytes(b"#" * 50_000)
    result = await list_packages(ctx, ListParams(env=str(venv)))
    assert row(result, "torch").bytes - before == 49_152  # 13 blocks of 4 KiB in place of one
    assert result.outside_bytes >= 50_000
    assert_adds_up(result, site(venv))


async def test_compiled_files_are_their_source_s_and_what_nobody_claims_is_an_orphan(ctx: Context, venv: Path) -> None:
    before = row(await list_packages(ctx, ListParams(env=str(venv))), "trainer").files
    cache = site(venv) / "trainer/__pycache__"
    (cache / "__init__.cpython-399.opt-1.pyc").write_bytes(b"x" * 5000)
    (cache / "gone.cpython-399.pyc").write_bytes(b"x" * 5000)
    (site(venv) / "left" / "over").mkdir(parents=True)
    (site(venv) / "left" / "over" / "file").write_bytes(b"x" * 10_000)
    result = await list_packages(ctx, ListParams(env=str(venv)))
    assert row(result, "trainer").files == before + 1
    assert {Path(o.path).name: o.files for o in result.orphans} == {"left": 1, "trainer": 1}
    assert_adds_up(result, site(venv))


async def test_missing_and_doubly_claimed_files_are_said(ctx: Context, venv: Path) -> None:
    (site(venv) / "triton/_C/libtriton.so").unlink()
    result = await list_packages(ctx, ListParams(env=str(venv)))
    assert row(result, "triton").missing_files == 1
    assert row(result, "triton").problem == "1 file of its RECORD is missing."
    assert row(result, "nvidia-cublas-cu12").shared_files >= 1  # nvidia/__init__.py is cudnn's too
    assert_adds_up(result, site(venv))


async def test_files_with_another_name_elsewhere_would_not_come_free(ctx: Context, venv: Path, tmp_path: Path) -> None:
    library = site(venv) / "triton/_C/libtriton.so"
    os.link(library, tmp_path / "in-the-cache")
    result = await list_packages(ctx, ListParams(env=str(venv)))
    triton = row(result, "triton")
    assert triton.bytes - triton.freed_bytes == library.stat().st_blocks * 512
    assert result.linked_bytes >= library.stat().st_blocks * 512
    assert_adds_up(result, site(venv))


async def test_an_editable_install_names_its_source(ctx: Context, venv: Path, tmp_path: Path) -> None:
    info = site(venv) / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "RECORD").write_text("mine-1.0.dist-info/METADATA,,\nmine-1.0.dist-info/RECORD,,\n")
    (info / "direct_url.json").write_text(f'{{"url": "file://{tmp_path}/my%20src", "dir_info": {{"editable": true}}}}')
    assert row(await list_packages(ctx, ListParams(env=str(venv))), "mine").editable == f"{tmp_path}/my src"


@pytest.mark.parametrize("broken", ["METADATA", "RECORD"])
async def test_a_damaged_distribution_is_listed_with_its_problem(ctx: Context, venv: Path, broken: str) -> None:
    (site(venv) / "rates-1.0.dist-info" / broken).unlink()
    result = await list_packages(ctx, ListParams(env=str(venv)))
    assert row(result, "rates").problem
    assert row(result, "rates").files >= 2
    assert_adds_up(result, site(venv))


async def test_environments_are_found_where_they_usually_lie(ctx: Context, venv: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in ("projects/a/.venv", ".virtualenvs/b", ".local/share/pipx/venvs/c", ".local/share/uv/tools/d"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(venv, home / name, symlinks=True)
    conda = home / "miniconda3/envs/e"
    (conda / "conda-meta").mkdir(parents=True)
    (conda / "lib/python3.10/site-packages").mkdir(parents=True)
    found = {e.path: e.kind for e in (await environments(ctx, EnvironmentsParams())).environments}
    assert found[REAL_PREFIX] == "this"
    mine = {Path(path).name: kind for path, kind in found.items() if path.startswith(str(home))}
    assert mine == {".venv": "venv", "b": "venv", "c": "pipx", "d": "uv-tool", "e": "conda"}


@pytest.mark.parametrize("part", ["", "bin/python", "lib/python3.{}/site-packages"])
async def test_an_environment_is_named_by_its_folder_or_what_lies_in_it(ctx: Context, venv: Path, part: str) -> None:
    result = await list_packages(ctx, ListParams(env=str(venv / part.format(sys.version_info[1])), top=1))
    assert [e.path for e in result.environments] == [str(venv)]
    assert len(result.distributions) == 1


@pytest.mark.parametrize(("env", "words"), [("nowhere", "There is no folder"), (".", "is no Python environment")])
async def test_what_is_no_environment_is_named(ctx: Context, env: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        await list_packages(ctx, ListParams(env=env))


NAMES = st.sampled_from(
    ["a.py", "b.py", "pkg/a.py", "pkg/b.so", "pkg/sub/c.py", "other/d.py", "ns/x/e.py", "ns/y/f.py"]
)

ELSEWHERE = st.sampled_from(["../../../bin/x", "/etc/hostname", "no/such"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(NAMES, st.integers(0, 20_000), max_size=8),
    claims=st.lists(st.lists(st.one_of(NAMES, ELSEWHERE)), max_size=3),
    links=st.lists(st.tuples(NAMES, st.booleans()), max_size=4),
    compiled=st.lists(NAMES, max_size=3),
)  # fmt: skip
def test_whatever_is_claimed_linked_or_missing_the_sums_add_up(
    files: dict[str, int], claims: list[list[str]], links: list[tuple[str, bool]], compiled: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = root / "env/lib/python3.11/site-packages"
        folder.mkdir(parents=True)
        for path, size in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(os.urandom(size))
        for number, (path, outside) in enumerate(links):
            if (folder / path).exists():
                os.link(folder / path, (root if outside else folder) / f"link{number}")
        for path in compiled:
            cache = (folder / path).parent / "__pycache__"
            cache.mkdir(parents=True, exist_ok=True)
            (cache / f"{Path(path).stem}.cpython-311.pyc").write_bytes(b"x" * 100)
        for number, claimed in enumerate(claims):
            info = folder / f"d{number}-1.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: d{number}\nVersion: 1\n")
            lines = [*claimed, f"{info.name}/METADATA", f"{info.name}/RECORD"]
            (info / "RECORD").write_text("".join(f"{line},,\n" for line in lines))
        place = places.at(str(root / "env"), {"HOME": name})
        assert place is not None
        measured = sizes.measure(place, threading.Event())
        assert measured.total == du(folder)
        orphans = sum(size for size, _ in measured.orphans.values())
        inside = sum(measured.bytes) - measured.outside_bytes
        assert inside + orphans + measured.folder_bytes == measured.total
        everything = range(len(measured.records))
        assert sum(measured.freed([i]) for i in everything) <= measured.freed(everything) <= sum(measured.bytes)


def test_freed_is_what_deleting_really_frees(venv_with_pip: Path, record_freed: Callable[[Path, str], int]) -> None:
    """Delete a distribution's files for real and count what du loses."""
    before = du(site(venv_with_pip), venv_with_pip / "bin")
    freed = record_freed(venv_with_pip, "torch")
    after = du(site(venv_with_pip), venv_with_pip / "bin")
    assert before - after == freed


@pytest.fixture
def record_freed() -> Callable[[Path, str], int]:
    """Uninstall by pip; gives what was promised to come free."""

    def uninstall(venv: Path, name: str) -> int:
        place = places.at(str(venv), os.environ)
        assert place is not None
        measured = sizes.measure(place, threading.Event())
        index = next(i for i, r in enumerate(measured.records) if r.name == name)
        command = [venv / "bin/python", "-B", "-m", "pip", "uninstall", "-q", "-y", name]
        subprocess.run(command, check=True, capture_output=True)
        return measured.freed([index])

    return uninstall
