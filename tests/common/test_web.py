"""What the servers of pages have in common. tests/results/models/test_serve.py tries it on a real socket."""

from __future__ import annotations

import pytest

from mnist_sweep.common.web import is_known


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:80", "127.0.0.1:8001", "10.0.0.7", "[::1]:5", "box", "BOX:8001"]
)
def test_our_own_names_and_all_addresses_are_known(host: str) -> None:
    assert is_known(host, {"box"})


@pytest.mark.parametrize(
    "host", ["", "evil.example", "127.0.0.1.evil.example", "box.evil.example", "[", "[::1", "1.2.3"]
)
def test_names_of_other_sites_are_not(host: str) -> None:
    assert not is_known(host, {"box"})
