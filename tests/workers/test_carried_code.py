"""Modules that a sweep carries, on the node of a cluster and in a worker's environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnist_sweep.config.settings import check_settings
from mnist_sweep.journal.files import CODE
from mnist_sweep.workers import agent
from mnist_sweep.workers.carrying import Carrier
from mnist_sweep.workers.local import with_code


def test_a_node_gets_them_and_can_import_them(tmp_path: Path, compose_config, monkeypatch) -> None:
    assert agent.carried_code(tmp_path) == {}
    (tmp_path / CODE).mkdir()
    (tmp_path / CODE / "notebook_1a2b3c4d.py").write_text("import not_here\n")
    workers = check_settings(compose_config()).workers
    job = agent.Job(
        workers, None, True, "tensorflow", Carrier(0, None), "notebook_1a2b3c4d", agent.carried_code(tmp_path)
    )
    sent: list[agent.Sent] = []
    node = agent.Agent(job, sent.append, 1)
    node.call(agent.Call("end"))
    node.run()
    (hello,) = sent
    assert isinstance(hello, agent.Hello)
    # It was found, or another module would be missing.
    assert hello.missing == "ModuleNotFoundError: No module named 'not_here'"


def test_a_process_imports_them_before_the_users_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    assert with_code(None)["PYTHONPATH"] == "/mine"
    assert with_code(Path("/sweep/code"))["PYTHONPATH"] == "/sweep/code:/mine"
    monkeypatch.delenv("PYTHONPATH")
    assert with_code(Path("/sweep/code"))["PYTHONPATH"] == "/sweep/code"
