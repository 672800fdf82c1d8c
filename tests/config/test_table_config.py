"""The group `data` of a table."""

from __future__ import annotations

from typing import Any

import pytest

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import compose
from mnist_sweep.config.data_config import TableData
from mnist_sweep.config.settings import check_settings
from mnist_sweep.config.unused import refuse_unused

_GIVEN = ("data=table", "data.path=wine.csv", "data.target=class")


def config_of(*overrides: str) -> dict[str, Any]:
    return compose.defaults([*_GIVEN, *overrides])


def test_a_table_brings_the_keys_of_its_words_and_categories() -> None:
    config = config_of("model.text.vocabulary=500", "data.text=[review]")
    assert isinstance(check_settings(config).data, TableData)
    assert config["model"]["text"]["vocabulary"] == 500
    assert config["model"]["categories"]["one_hot"] == 50
    refuse_unused(config)
    assert "text" not in compose.defaults([])["model"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.target=[]"], "data.target=.*: name at least one column"),
        (["data.features=[a,a]"], "data.features=.*: names a column twice"),
        (["data.group=a", "data.time=b"], "data.time=b: rows cannot be split both by time and by data.group=a"),
        (["data.time=b", "validation=kfold"], "validation=kfold: would train on rows that are later than those"),
        (["data.test_split=0"], "data.test_split=0: must be more than 0"),
        (["data.text_length=0"], "data.text_length=0: must be at least 1"),
        (["+data.feature=[a]"], "data.feature: unknown key; did you mean 'data.features'"),
    ],
)
def test_what_does_not_fit_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_settings(config_of(*overrides))


def test_keys_of_words_are_not_used_without_a_column_of_words() -> None:
    with pytest.raises(UserError, match="model.text.length=5: is not used; no column is read word by word"):
        refuse_unused(config_of("model.text.length=5"))
