"""The addresses that get messages: what a config keeps of them."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from mnist_sweep.common import secrets
from mnist_sweep.common.errors import UserError
from mnist_sweep.config import compose, services
from mnist_sweep.config.grammar import parser
from mnist_sweep.config.services import Service

URL = "slack://TokenA1/TokenB2/HUSHHUSHHUSH"


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_hidden_uris", {})
    monkeypatch.setattr(secrets, "_passwords", set())
    monkeypatch.setenv("HOOK", URL)
    monkeypatch.delenv("UNSET", raising=False)


def test_all_of_an_address_but_its_scheme_is_hidden_and_known_in_this_process() -> None:
    written = [URL, "slack://other", "json://me:pw@127.0.0.1:8000/x?to=a,b", URL, "nothing"]
    hidden = services.hidden(written)
    assert hidden == ["slack://***", "slack://***2", "json://***", "slack://***", "***"]
    assert services.services(hidden) == [Service(h, url) for h, url in zip(hidden, written, strict=True)]
    # Hiding again changes nothing.
    assert services.hidden(hidden) == hidden
    assert secrets.masked(f"cannot reach {URL}, nor TokenX/HUSHHUSHHUSH") == "cannot reach slack://***, nor TokenX/***"


def test_another_process_does_not_know_the_address() -> None:
    assert services.services(["slack://***"]) == [Service("slack://***", None)]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("${oc.env:HOOK}", "${oc.env:HOOK}"),
        ("slack://${oc.env:HOOK}/${oc.env:HOOK}", "slack://${oc.env:HOOK}/${oc.env:HOOK}"),
        # A part of these would be kept.
        ("json://me:secret@${oc.env:HOOK}", "json://***"),
        ("${oc.env:UNSET,'json://secret'}", "json://***"),
    ],
)
def test_what_only_names_variables_is_kept_as_it_is(written: str, kept: str) -> None:
    assert services.hidden([written]) == [kept]
    (found,) = services.services([kept])
    assert found.url == OmegaConf.create({"x": written}).x


def test_a_variable_that_is_not_set_is_named() -> None:
    composed, _ = compose.composed(["notify='${oc.env:UNSET}'"])
    with pytest.raises(UserError) as caught:
        compose.plain(composed)
    assert str(caught.value) == "notify=${oc.env:UNSET}: the variable UNSET is not set; set it, or write notify=[]"


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        (f"notify=[{URL}]", "notify=['slack://***']"),
        (f"notify={URL}", "notify=['slack://***']"),
        ("notify=[mailto://me:pw@x.org?to=a,b&c=d, 'json://h']", "notify=['mailto://***','json://***']"),
        ('notify=["tgram://12:ab/c",${oc.env:HOOK}]', "notify=['tgram://***','${oc.env:HOOK}']"),
        ("notify=${oc.env:HOOK}", "notify=${oc.env:HOOK}"),
        ("notify=[]", "notify=[]"),
        ("+notify=json://a", "+notify=['json://***']"),
    ],
)
def test_an_override_needs_no_quotes_and_keeps_no_address(override: str, kept: str) -> None:
    assert services.hidden_override(override) == kept
    assert parser().parse_overrides([kept])[0].key_or_group == "notify"


def test_a_config_has_addresses_from_a_file_only_hidden() -> None:
    composed, _ = compose.composed(["notify=['${oc.env:HOOK}']"])
    composed.notify = [URL, "${oc.env:HOOK}"]
    assert compose.plain(composed)["notify"] == ["slack://***", "${oc.env:HOOK}"]


def test_an_override_of_a_resumed_sweep_is_hidden_like_one_of_a_new_sweep() -> None:
    assert services.kept("notify=[json://abc]") == "notify=['json://***']"
    assert services.kept("tracking.uri=http://me:HUSHHUSH@box") == "tracking.uri=http://me:HUSHHUSH@box"
    assert secrets.masked("HUSHHUSH") == "***"
