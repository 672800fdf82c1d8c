"""Files that travel in messages, or through a storage."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import pytest

from mnist_sweep.common.errors import MachineError
from mnist_sweep.workers.carrying import Carrier, Stored, files_in


def write(folder: Path, **sizes: int) -> dict[str, bytes]:
    contents = {name: secrets.token_bytes(size) for name, size in sizes.items()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return contents


@pytest.mark.parametrize("stored", [False, True])
def test_files_arrive_as_they_were(tmp_path: Path, stored: bool) -> None:
    here, there, storage = tmp_path / "here", tmp_path / "there", tmp_path / "storage"
    here.mkdir()
    there.mkdir()
    contents = write(here, small=10, large=5000)
    carrier = Carrier(1000, str(storage) if stored else None)
    packed = {f"trials/{path.name}": carrier.pack(path) for path in files_in(here)}
    assert isinstance(packed["trials/large"], Stored) is stored
    assert packed["trials/small"] == contents["small"]
    carrier.unpack(packed, there)
    assert {path.name: path.read_bytes() for path in files_in(there)} == contents


def test_a_stored_file_is_removed_when_it_has_arrived(tmp_path: Path) -> None:
    write(tmp_path, large=5000)
    carrier = Carrier(1000, f"memory://{tmp_path.name}")
    packed = carrier.pack(tmp_path / "large")
    assert isinstance(packed, Stored)
    carrier.remove(packed)
    with pytest.raises(MachineError, match=rf"^workers.storage=memory://{tmp_path.name}: cannot be read"):
        carrier.unpack({"large": packed}, tmp_path)


def test_a_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write(tmp_path, large=5000, small=1)
    with pytest.raises(MachineError, match=rf"^workers.storage={re.escape(str(tmp_path))}/small/a: cannot be written"):
        Carrier(1000, f"{tmp_path}/small/a").pack(tmp_path / "large")


@pytest.mark.parametrize("name", ["../model.h5", "/etc/model.h5", "trials/../../model.h5"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "inside").mkdir()
    with pytest.raises(ValueError, match="leads out of the folder"):
        Carrier(1000, None).unpack({name: b""}, tmp_path / "inside")


def test_files_that_are_being_written_do_not_travel(tmp_path: Path) -> None:
    (tmp_path / "execution_2").mkdir()
    for name in ("state.npz", "partial-mnist_sweep-state.npz", "execution_2/state.npz"):
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in files_in(tmp_path)] == [
        "execution_2/state.npz",
        "state.npz",
    ]
