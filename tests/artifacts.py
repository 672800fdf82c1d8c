"""An artifact store that is a folder, and that can be taken away."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import FileInfo
from mlflow.store.artifact import artifact_repository_registry
from mlflow.store.artifact.artifact_repo import ArtifactRepository

URI = "s3://bucket/files"


class ArtifactStore:
    """Has the files of `s3://bucket/PATH` in `folder/PATH`, for all that MLflow does in this process.

    Attributes:
        folder: The folder.
        calls: What was asked of it: `log NAME`, `delete NAME`, `list`.
        refuse: Returns the error of a call; None to do what is asked.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Takes the place of MLflow's access to S3."""
        self.folder, self.calls, self._lock = folder, list[str](), threading.Lock()
        self.refuse: Callable[[str], Exception | None] = lambda call: None
        registry = artifact_repository_registry._artifact_repository_registry
        monkeypatch.setitem(registry._registry, "s3", self._open)

    @contextmanager
    def down(self, error: Exception) -> Iterator[None]:
        """Makes each call fail within the block."""
        self.refuse = lambda call: error
        yield
        self.refuse = lambda call: None

    def asked(self, call: str) -> None:
        with self._lock:
            self.calls.append(call)
        if error := self.refuse(call):
            raise error

    def files(self, name: str = "*") -> list[str]:
        """The paths of the files, without the ids of runs."""
        return sorted(path.name for path in self.folder.rglob(name) if path.is_file())

    def _open(self, artifact_uri: str, *args: Any, **more: Any) -> ArtifactRepository:
        return _Repository(artifact_uri, self)


class _Repository(ArtifactRepository):
    def __init__(self, artifact_uri: str, store: ArtifactStore) -> None:
        super().__init__(artifact_uri)
        self._store, self._folder = store, store.folder / artifact_uri.removeprefix("s3://bucket/")

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        self._store.asked(f"log {Path(local_file).name}")
        target = self._folder / (artifact_path or "")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(local_file, target)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        raise NotImplementedError

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        self._store.asked(f"delete {artifact_path}")
        (self._folder / (artifact_path or "")).unlink(missing_ok=True)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        self._store.asked("list")
        folder = self._folder / (path or "")
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return [FileInfo(file.name, is_dir=False, file_size=file.stat().st_size) for file in found]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._store.asked(f"read {remote_file_path}")
        shutil.copy(self._folder / remote_file_path, local_path)
