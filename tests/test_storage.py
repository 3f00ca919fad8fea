"""What stands on disk, on disks that cannot do all that is asked of them."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import pytest

from bertsmith import storage
from bertsmith.errors import StorageError
from bertsmith.storage import replace_file


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_cannot_sync_works_and_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(storage, "_NO_SYNC", set())
    with pytest.warns(RuntimeWarning, match="cannot be told to write at once") as told:
        replace_file(tmp_path / "first", b"1")
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replace_file(tmp_path / "second", b"2")
    assert (tmp_path / "first").read_bytes() + (tmp_path / "second").read_bytes() == b"12"


def test_a_disk_that_fails_to_sync_is_an_error_and_the_old_file_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file(tmp_path / "file", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=r"file: cannot be written .* still stands"):
        replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
