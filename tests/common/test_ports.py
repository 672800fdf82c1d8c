"""Ports of this machine, and the proxies that are not asked for them."""

from __future__ import annotations

import os
import urllib.request

import pytest
import requests

from mnist_sweep.common import ports

LOOPBACK = ["http://127.0.0.1:5000", "http://localhost:5000", "http://[::1]:5000", "http://127.0.0.2:80"]
ELSEWHERE = "http://box.example:5000"


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    # These are set below, and restored after the test.
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("given", [{}, {"no_proxy": "a.example"}, {"NO_PROXY": "a.example, "}, {"no_proxy": ""}])
def test_this_machine_is_not_asked_through_a_proxy(monkeypatch, variable: str, given: dict[str, str]) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for name, hosts in given.items():
        monkeypatch.setenv(name, hosts)
    ports.keep_loopback_direct()
    ports.keep_loopback_direct()
    for uri in LOOPBACK:
        assert requests.utils.get_environ_proxies(uri) == {}
    assert urllib.request.proxy_bypass("127.0.0.1:5000")
    assert urllib.request.proxy_bypass("localhost:5000")
    assert requests.utils.get_environ_proxies(ELSEWHERE)
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
    assert ("a.example" in os.environ["no_proxy"]) == any("a.example" in hosts for hosts in given.values())


def test_without_a_proxy_the_environment_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    ports.keep_loopback_direct()
    assert dict(os.environ) == before
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    ports.keep_loopback_direct()
    assert os.environ["no_proxy"] == "*"
