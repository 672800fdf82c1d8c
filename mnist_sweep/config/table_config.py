"""The group `data` of a table."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mnist_sweep.config.checks import Strict
from mnist_sweep.config.trial_config import Count

Fraction = Annotated[float, Field(ge=0, le=0.9)]


class TableConfig(Strict):
    """`data=table`: which table to train on; `conf/data/table.yaml` describes the keys."""

    name: Literal["table"]
    path: str
    target: str | list[str]
    features: list[str] | None
    drop: list[str]
    categories: list[str]
    text: list[str]
    text_length: Count
    group: str | None
    time: str | None
    test_path: str | None
    test_split: Annotated[float, Field(gt=0, le=0.9)]
    validation_split: Fraction

    @field_validator("target", "features")
    @classmethod
    def _not_empty(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value is not None and not value:
            raise ValueError("name at least one column")
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError("names a column twice")
        return value

    @model_validator(mode="after")
    def _one_kind_of_split(self) -> TableConfig:
        if self.group is not None and self.time is not None:
            raise ValueError(f".time={self.time}: rows cannot be split both by time and by data.group={self.group}")
        return self
