"""Messages of workers are read back; anything else that arrives is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_sweep.journal.trial import Outcome, Status
from mnist_sweep.workers.base import (
    Died,
    Discovered,
    Done,
    Evaluated,
    Executed,
    GarbledError,
    MachineFailed,
    Message,
    Packaged,
    Ready,
    Reported,
    end_of_log,
    message_from_json,
    message_to_json,
)

OUTCOME = Outcome(
    Status.COMPLETED, "", 0.9, 2, {"val_accuracy": 0.9, "own": math.inf}, 10, 1.5, [0.9, 0.8], {"fit": 1.0}
)
MESSAGES = [
    Ready("cpu0", 2**30),
    Reported("cpu0", 3, 1, {"loss": 0.5}, 2),
    Executed("cpu0", 3, 2, OUTCOME),
    Done("cpu0", 3, Outcome(Status.FAILED, "the loss became nan"), "a log\n"),
    Evaluated("cpu0", {"test_loss": 0.1}, [[1, 0], [0, 1]]),
    Packaged("cpu0", "why not"),
    Discovered("cpu0", {"space": [], "keeping": []}),
    MachineFailed("cpu0", "the disk is full", None),
    MachineFailed("cpu0", "the disk is full", 4),
]


def received(message: Message) -> Message:
    return message_from_json("cpu0", json.loads(json.dumps(message_to_json(message))))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_arrive_unchanged(message: Message) -> None:
    assert received(message) == message


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"epoch": 0}, "whole number of at least 1"),
        ({"epoch": 2.0}, "whole number"),
        ({"epoch": True}, "whole number"),
        ({"epoch": 2**70}, "whole number"),
        ({"trial": -1}, "whole number of at least 0"),
        ({"trial": None}, "whole number"),
        ({"metrics": {"loss": None}}, "not a number"),
        ({"metrics": {"loss": True}}, "not a number"),
        ({"metrics": {"loss": "0.5"}}, "not a number"),
        ({"metrics": {"loss": 10**400}}, "too large"),
        ({"metrics": [0.5]}, "metrics"),
        ({"metrics": {str(i): 0.0 for i in range(1001)}}, "at most 1000 metrics"),
        ({"colour": "red"}, "unknown field colour"),
        ({"message": "Died"}, "unknown kind"),
        ({"message": ["Reported"]}, "unknown kind"),
        ({"message": "Packaged"}, "unknown field"),
    ],
)
def test_an_invalid_report_is_refused_with_the_reason(changes: dict[str, Any], why: str) -> None:
    raw = message_to_json(Reported("cpu0", 3, 1, {"loss": 0.5}))
    with pytest.raises(GarbledError, match=why):
        message_from_json("cpu0", {**raw, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "excellent"},
        {"status": "running"},
        {"status": 1},
        {"score": math.nan},
        {"score": "0.9"},
        {"best_epoch": 0},
        {"metrics": None},
        {"scores": [None]},
        {"seconds": math.inf},
        {"reason": 7},
        {"extra": 7},
    ],
)
def test_an_invalid_outcome_is_refused(changes: dict[str, Any]) -> None:
    raw = message_to_json(Done("cpu0", 3, OUTCOME))
    raw["outcome"] |= changes
    with pytest.raises(GarbledError):
        message_from_json("cpu0", raw)


def test_a_message_without_a_required_field_is_refused() -> None:
    raw = message_to_json(Reported("cpu0", 3, 1, {"loss": 0.5}))
    del raw["metrics"]
    with pytest.raises(GarbledError, match="a Reported without the field metrics"):
        message_from_json("cpu0", raw)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON)
def test_any_json_that_is_not_a_message_is_refused(raw: Any) -> None:
    with pytest.raises(GarbledError):
        message_from_json("cpu0", raw)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_message_with_any_value_in_a_field_is_read_or_refused(message: Message, data: st.DataObject) -> None:
    raw = message_to_json(message)
    inner = raw["outcome"] if "outcome" in raw and data.draw(st.booleans()) else raw
    inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(_JSON)
    try:
        message_read = message_from_json("cpu0", raw)
    except GarbledError as error:
        assert str(error).isprintable()
    else:
        assert message_read.slot == "cpu0"
        # It can be written as UTF-8.
        if not isinstance(message_read, Discovered):
            json.dumps(message_to_json(message_read), ensure_ascii=False).encode()


def test_text_of_a_worker_is_printable_limited_and_without_passwords() -> None:
    nasty = "caf\udce9 \x1b[31mred\r\nnext token=hunter2 " + "x" * 5_000_000
    done = received(Done("cpu0", 3, Outcome(Status.FAILED, nasty), nasty))
    assert isinstance(done, Done)
    assert len(done.outcome.reason) <= 2000
    assert done.outcome.reason.startswith(r"caf\udce9 \x1b[31mred next token=*** xxx")
    assert "\n" not in done.outcome.reason
    assert len(done.log) <= 4000
    assert done.log.endswith("xxx")
    reported = received(Reported("cpu0", 3, 1, {"a\x1b\nb": 1.0, "m" * 9999: 2.0}))
    assert isinstance(reported, Reported)
    assert [len(name) for name in reported.metrics] == [7, 250]
    assert all(name.isprintable() for name in reported.metrics)


def test_only_the_end_of_a_log_is_kept() -> None:
    log = "".join(f"{i}\n" for i in range(10_000))
    assert end_of_log(log) == log[-4000:]
    assert "hunter2" not in end_of_log("password=hunter2\n" + "x" * 3990)


def test_a_worker_cannot_report_its_own_death() -> None:
    with pytest.raises(GarbledError):
        received(Died("cpu0", "never"))
