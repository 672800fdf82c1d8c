"""Errors for the user, and the names they suggest."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mnist_sweep.common.errors import (
    ImpossibleError,
    MachineError,
    UserError,
    did_you_mean,
    machine_fault,
    may_pass,
    writing_to,
)


@pytest.mark.parametrize(
    ("name", "known", "suggestion"),
    [
        ("adamm", ["sgd", "adam", "nadam"], "; did you mean 'adam'?"),
        ("model.unit", ["model.layers", "model.units"], "; did you mean 'model.units'?"),
        ("adam", ["adam", "sgd"], "; did you mean 'adam'?"),
    ],
)
def test_suggests_the_closest_known_name(name: str, known: list[str], suggestion: str) -> None:
    assert did_you_mean(name, known) == suggestion


@pytest.mark.parametrize("name", ["cosinedecay", "COSINEDECAY", "CosineDekay"])
def test_ignores_case_but_suggests_the_correct_spelling(name: str) -> None:
    assert did_you_mean(name, ["CosineDecay", "PolynomialDecay"]) == "; did you mean 'CosineDecay'?"


def test_lists_all_names_in_order_if_none_is_close() -> None:
    assert did_you_mean("zzz", {"sgd", "adam"}) == "; choose one of: adam, sgd"


def test_accepts_any_iterable_of_names() -> None:
    assert did_you_mean("sdg", (name for name in ("adam", "sgd"))) == "; did you mean 'sgd'?"
    assert did_you_mean("sdg", {"adam": 1, "sgd": 2}) == "; did you mean 'sgd'?"


def test_a_user_errors_text_is_its_message() -> None:
    assert str(UserError("model.units=0: must be at least 1")) == "model.units=0: must be at least 1"


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/model.h5"), "the disk is full (a/model.h5)"),
        (OSError(errno.ENOSPC, "No space left on device", "a", None, "b"), "the disk is full (b)"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk quota is used up"),
        (OSError(errno.EIO, "Input/output error"), "the disk cannot be read or written"),
        (OSError(errno.ESTALE, "Stale file handle"), "the network folder is gone"),
        # Messages that NumPy, HDF5 and TensorFlow raised on a full disk.
        (OSError("78400 requested and 496 written"), "the disk is full"),
        (
            RuntimeError(
                "Can't decrement id ref count (file write failed: time = Sat\n, filename = 'a.h5', "
                "file descriptor = 3, errno = 28, error message = 'No space left on device', buf = 0x56)"
            ),
            "the disk is full",
        ),
        (
            RuntimeError("Can't close file (file write failed, errno = 122, error message = '…')"),
            "the disk quota is used up",
        ),
        (
            type("ResourceExhaustedError", (Exception,), {})("{{function_node SaveV2}} a.tmp; No space left on device"),
            "the disk is full",
        ),
        (OSError(errno.ENOENT, "No such file or directory", "a"), None),
        (PermissionError(errno.EACCES, "Permission denied", "a"), None),
        (ValueError("28 requested"), None),
        (type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor"), None),
        (MemoryError(), None),
        (UserError("the model has no layer 28"), None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_errors_of_the_machine_are_distinguished_from_others(error: Exception, fault: str | None) -> None:
    assert machine_fault(error) == fault
    wrapped = RuntimeError("the trial failed")
    wrapped.__cause__ = error
    assert machine_fault(wrapped) == fault


def named(kind: str, text: str = "") -> Exception:
    """An exception of another library."""
    return type(kind, (Exception,), {})(text)


@pytest.mark.parametrize(
    ("error", "on_cpu", "on_gpu"),
    [
        (ValueError("Computed output size would be zero or negative"), False, False),
        (TypeError("unsupported operand"), False, False),
        (UserError("model.builder=a:b: returned str"), False, False),
        (ImpossibleError("optimizer.arguments.momentum: adam has no such argument"), False, False),
        (named("InvalidArgumentError", "Incompatible shapes"), False, False),
        (named("FailedTrialError", "too large"), False, False),
        (FileNotFoundError("cannot read a.npy"), False, False),
        (NotImplementedError(), False, False),
        (RuntimeError("of any kind"), False, True),
        (MemoryError(), True, True),
        (named("ResourceExhaustedError", "OOM when allocating tensor"), True, True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), True, True),
        (RuntimeError("can't start new thread"), True, True),
        (ConnectionResetError(), True, True),
        (TimeoutError(), True, True),
        (MachineError("the disk is full"), True, True),
    ],
    ids=repr,
)
def test_what_may_pass_is_told_from_what_would_come_again(error: Exception, on_cpu: bool, on_gpu: bool) -> None:
    wrapped = UserError("model.builder=a:b: raised something")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        assert (may_pass(one, gpu=False), may_pass(one, gpu=True)) == (on_cpu, on_gpu)


def test_what_users_of_keras_tuner_call_a_failed_trial_does_not_pass_whatever_came_before() -> None:
    failed = named("FailedTrialError", "too large")
    failed.__context__ = MemoryError()
    assert not may_pass(failed, gpu=True)


def test_a_full_device_is_an_error_of_the_machine() -> None:
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert machine_fault(caught.value) == "the disk is full"


def test_a_deleted_folder_is_an_error_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of its own"), writing_to(tmp_path):
        raise ValueError("of its own")
    with pytest.raises(MachineError, match=r": cannot be written \(the disk is full\)$"), writing_to(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(MachineError, match=r"^/x: gone$"), writing_to(tmp_path):
        raise MachineError("/x: gone")
    folder = tmp_path / "trial"
    with pytest.raises(MachineError) as caught, writing_to(folder):
        raise AssertionError("nothing is written there")
    assert str(caught.value) == f"{folder}: cannot be written (the folder is gone)"
    folder.mkdir()
    with pytest.raises(MachineError, match=r"\(the folder is gone\)$"), writing_to(folder):
        folder.rmdir()
        (folder / "model.h5").touch()
