"""What is asked of a Ray cluster, without one; `test_pools.py` and `tests/e2e/test_ray_job.py` run on a real one."""

from __future__ import annotations

import importlib.util
import socket
from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import shipped
from mnist_sweep.config.settings import RayConfig, check_settings
from mnist_sweep.workers import on_ray


def config(**changes: Any) -> RayConfig:
    return RayConfig(**{**shipped.values("workers/local"), **shipped.values("workers/ray"), **changes})


@pytest.mark.parametrize(
    ("changes", "free", "room", "share"),
    [
        ({}, {"CPU": 8.0}, None, (8, 0, 8)),
        ({}, {"CPU": 8.0}, 3, (3, 0, 3)),
        ({}, {"CPU": 8.0}, 0, None),
        # A single trial trains with all cores, as on one machine.
        ({}, {"CPU": 8.0}, 1, (8, 0, 1)),
        ({"count": 2}, {"CPU": 8.0}, None, (2, 0, 2)),
        ({"threads": 3}, {"CPU": 8.0}, None, (6, 0, 2)),
        ({"threads": 3}, {"CPU": 2.0}, None, None),
        ({}, {}, None, None),
        ({}, {"CPU": 8.0, "GPU": 2.0}, None, (8, 2, 2)),
        ({}, {"CPU": 8.0, "GPU": 2.0}, 1, (8, 1, 1)),
        ({"trials_per_gpu": 4}, {"CPU": 8.0, "GPU": 2.0}, 6, (8, 2, 6)),
        ({"devices": "cpu"}, {"CPU": 8.0, "GPU": 2.0}, None, (8, 0, 8)),
        ({"devices": "gpu"}, {"CPU": 8.0}, None, None),
        # Something else has the half of a GPU.
        ({"devices": "gpu"}, {"CPU": 8.0, "GPU": 1.5}, None, (8, 1, 1)),
    ],
)
def test_a_node_gives_what_is_free_as_far_as_it_is_needed(
    changes: dict[str, Any], free: dict[str, float], room: int | None, share: tuple[int, int, int] | None
) -> None:
    assert on_ray._share(config(**changes), free, room) == share


def test_ray_that_is_not_installed_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^workers=ray: ray is not installed; .*pip install 'mnist_sweep\[ray\]'$"):
        on_ray.check_installed()


def test_gpus_cannot_be_shared_automatically() -> None:
    with pytest.raises(ValueError, match="trials_per_gpu=auto: measures on this machine only"):
        config(trials_per_gpu="auto")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("InvalidAuthToken: no", "the cluster does not let this command in (InvalidAuthToken: no); it needs the token"),
        ("Package is too large to upload (working_dir)", "the working folder cannot be sent to the nodes"),
    ],
)
def test_why_a_cluster_cannot_be_joined_is_told(text: str, told: str) -> None:
    assert told in on_ray._why_not_joined(RuntimeError(text))


def test_an_address_where_nothing_listens_is_told() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(UserError, match=rf"^here: nothing answers at 127.0.0.1:{port} \(Connection refused\); is"):
            on_ray._check_address(None, f"127.0.0.1:{port}", "here")
    with pytest.raises(UserError, match=r"^here: nothing answers at nowhere.invalid:1 \(.+\); is the Ray of the head"):
        on_ray._check_address(None, "nowhere.invalid:1", "here")


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:", "local"])
def test_an_address_of_another_kind_is_refused(compose_config, address: str) -> None:
    with pytest.raises(UserError, match=rf"^workers.address={address}: must be auto or HOST:PORT$"):
        check_settings(compose_config("workers=ray", f"workers.address='{address}'"))
