"""The config of the data: the keys of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.config.checks import Strict, as_written, check
from mnist_sweep.config.trial_config import Count, in_module


class DataConfig(Strict):
    """Which data to train on: the keys of all kinds of data.

    Their classes add their own keys.
    """

    name: str
    path: str | None
    validation_split: Annotated[float, Field(ge=0, le=0.9)]


class DownloadedData(DataConfig):
    """`data=mnist`, `fashion_mnist` and `mnist_5k`."""

    fallback: Literal["mnist_5k"] | None


class OwnData(DataConfig):
    """Data of the user's own, which may lack a test part."""

    # A default for old sweeps, which lack this key: their data have a test part.
    test_split: Annotated[float, Field(gt=0, le=0.9)] = 0.2


class NpzData(OwnData):
    """`data=npz`."""

    path: str
    # A key of old sweeps.
    fallback: None = None


class FolderData(OwnData):
    """`data=folder`."""

    path: str
    image_size: list[Count] | None
    resize: Literal["crop", "pad", "stretch"]
    color: Literal["auto", "grey", "rgb"]
    skip_unreadable: bool

    @field_validator("image_size", mode="before")
    @classmethod
    def _height_and_width(cls, value: object) -> object:
        if value is not None and not (isinstance(value, list) and len(value) == 2):
            side = value if isinstance(value, int) and value > 0 else 96
            raise ValueError(f"must be a height and a width, such as [{side},{side}]")
        return value


class Columns(OwnData):
    """The keys of tables; `conf/data/table.yaml` describes them."""

    target: str | list[str] | None
    features: list[str] | None
    drop: list[str]
    categories: list[str]
    text: list[str]
    text_length: Count
    group: str | None
    time: str | None

    @field_validator("target", "features")
    @classmethod
    def _not_empty(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value is not None and not value:
            raise ValueError("name at least one column")
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError("names a column twice")
        return value

    @model_validator(mode="after")
    def _one_kind_of_split(self) -> Columns:
        if self.group is not None and self.time is not None:
            raise ValueError(f".time={self.time}: rows cannot be split both by time and by data.group={self.group}")
        return self


class TableData(Columns):
    """`data=table`."""

    path: str
    target: str | list[str]
    test_path: str | None


class LoaderData(Columns):
    """`data=loader`; `conf/data/loader.yaml` describes its keys."""

    path: None
    loader: Annotated[str, in_module("function")]
    arguments: dict[str, Any]
    steps_per_epoch: Count | None
    classes: Annotated[int, Field(ge=2)] | list[str] | None
    count: bool

    @field_validator("classes")
    @classmethod
    def _several(cls, value: int | list[str] | None) -> int | list[str] | None:
        if isinstance(value, list) and (len(value) < 2 or len(set(value)) < len(value)):
            raise ValueError("must be two or more different names")
        return value


# The option of the group `data` → its keys.
DATA: dict[str, type[DataConfig]] = {
    "mnist": DownloadedData,
    "mnist_5k": DownloadedData,
    "fashion_mnist": DownloadedData,
    "npz": NpzData,
    "folder": FolderData,
    "table": TableData,
    "loader": LoaderData,
}


def check_data(raw: Mapping[str, Any]) -> DataConfig:
    """Checks the group `data`.

    Raises:
        UserError: The data are unknown, a key is unknown or missing, or a value is wrong.
    """
    name = raw.get("name")
    if name is None:
        raise UserError("data.name: this key is missing")
    if not isinstance(name, str) or name not in DATA:
        raise UserError(f"data.name={as_written(name)}: no such data{did_you_mean(str(name), DATA)}")
    kind = DATA[name]
    if kind is LoaderData and raw.get("path") is not None:
        raise UserError(
            f"data.path={as_written(raw['path'])}: is not used; give it to the function as +data.arguments.path=…"
        )
    if kind is LoaderData and raw.get("loader") is None:
        raise UserError("data.loader=null: data=loader needs data.loader=package.module:function")
    if issubclass(kind, OwnData) and kind is not LoaderData and raw.get("path") is None:
        what = {FolderData: "FOLDER", TableData: "FILE.csv"}.get(kind, "FILE.npz")
        raise UserError(f"data.path=null: data={name} needs data.path={what}")
    return check(kind, raw, "data.")
