"""Parcels: what arrives is what was sent, or nothing."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from services.runs.colab import parcel


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "PART_BYTES", 5_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "step-000012"
    (made / "sub").mkdir(parents=True)
    (made / "weights").write_bytes(bytes(range(256)) * 100)
    (made / "sub" / "empty").write_bytes(b"")
    return made


def test_a_folder_travels_in_parts_and_arrives_as_it_was(folder: Path, tmp_path: Path) -> None:
    parts = parcel.pack(tmp_path / "out", [(folder, folder.name)])
    assert len(parts) > 4
    assert all(part["bytes"] <= 5_000 for part in parts)
    parcel.unpack(tmp_path / "out", parts, tmp_path / "in")
    assert parcel.digest(tmp_path / "in" / folder.name) == parcel.digest(folder)


@pytest.mark.parametrize("fault", ["missing", "short", "flipped"])
def test_a_damaged_part_is_named(folder: Path, tmp_path: Path, fault: str) -> None:
    parts = parcel.pack(tmp_path / "out", [(folder, folder.name)])
    path = tmp_path / "out" / "part-0002"
    data = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    elif fault == "short":
        path.write_bytes(data[:-1])
    else:
        data[17] ^= 1
        path.write_bytes(data)
    with pytest.raises(parcel.Damaged, match="part-0002"):
        parcel.unpack(tmp_path / "out", parts, tmp_path / "in")
    assert not (tmp_path / "out" / "whole.tar").exists()


def test_nothing_is_unpacked_outside(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.write_text("x")
    parts = parcel.pack(tmp_path / "out", [(evil, "../escaped")])
    with pytest.raises(parcel.Damaged):
        parcel.unpack(tmp_path / "out", parts, tmp_path / "in")
    assert not (tmp_path / "escaped").exists()
    assert tarfile.is_tarfile(tmp_path / "out" / "part-0000") or len(parts) > 1
