"""Names and search conditions that MLflow accepts."""

from __future__ import annotations

import re

import pytest
from mlflow.utils.search_utils import SearchUtils
from mlflow.utils.validation import _validate_metric, _validate_param_name, _validate_tag_name

from mnist_sweep.tracking.names import TAG_METRIC, key_of, keys_of, originals, tagged

ODD = [
    "top@3", "", ".", "..", "/", "a/../b", "../a", "/a", "a/", "a//b", "..a", "a\nb", "a\n", "a\x00", "\udce9",
    "a\x1b[31m", "=1+1", "x" * 251, "x@" * 300, "ä" * 300, "a\u202eb", "`a`", "it's", '"', "😀", "@", "@@",
]  # fmt: skip
PLAIN = ["accuracy", "val_accuracy", "a b", "a.b-c:d/e", "größe", "x" * 250, "...a"[3:]]


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_that_mlflow_accepts_is_kept(name):
    assert key_of(name) == name


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_mlflow_refuses_gets_an_accepted_key(name):
    key = key_of(name)
    assert key != name
    assert key == key_of(name)
    _validate_metric(key, 1.0, 0, 0)
    for prefix in ("", TAG_METRIC):
        _validate_param_name(f"{prefix}{key}")
        _validate_tag_name(f"{prefix}{key}")
        assert len(f"{prefix}{key}") <= 250


def test_different_names_get_different_keys():
    names = ["top@3", "top_3", "top#3", "top 3", *ODD, *PLAIN]
    keys = keys_of(names)
    assert list(map(len, (keys, set(keys.values())))) == [len(set(names))] * 2
    assert keys["top_3"] == "top_3"
    assert re.fullmatch(r"top_3-[0-9a-f]{8}", keys["top@3"])
    assert key_of("top@3") == "top_3"


def test_original_names_are_restored():
    tags = {f"{TAG_METRIC}top_3": "top@3", "else": "x"}
    assert originals({"top_3": 1.0, "loss": 2.0}, tags, TAG_METRIC) == {"top@3": 1.0, "loss": 2.0}


@pytest.mark.parametrize("value", ["plain/2026", "it's", 'a"b', "a and b", "a;b -- c", "ü [x] 100%", "a\\b", "a#b"])
def test_mlflow_parses_the_condition_for_a_tag(value):
    (found,) = SearchUtils.parse_search_filter(tagged("mnist_sweep.sweep", value))
    assert (found["key"], found["comparator"], found["value"]) == ("mnist_sweep.sweep", "=", value)


def test_a_value_with_both_kinds_of_quotation_marks_is_found():
    (found,) = SearchUtils.parse_search_filter(tagged("a", 'it\'s "so"'))
    assert (found["comparator"], found["value"]) == ("LIKE", "it's _so_")
