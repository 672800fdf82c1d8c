"""Finding and composing configs, and the errors when that fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from example_tables import NEEDED, of_experiment

from mnist_sweep.common.errors import UserError
from mnist_sweep.config import compose, shipped
from mnist_sweep.config.grammar import quote_sweeps
from mnist_sweep.config.trial_config import check_trial
from mnist_sweep.driver import plan

Config = dict[str, Any]
Write = Callable[[str, str], None]

GLOBAL = "# @package _global_\n"
SHIPPED = sorted((shipped.folder() / "experiment").glob("**/*.yaml"))
EXPERIMENTS = [str(file.relative_to(shipped.folder() / "experiment").with_suffix("")) for file in SHIPPED]
ALL = ", ".join(sorted(EXPERIMENTS))


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Returns a function that writes a file of the user's conf/."""

    def written(name: str, text: str) -> None:
        file = tmp_path / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    return written


def composed(*overrides: str) -> Config:
    return compose.defaults(quote_sweeps(overrides))


def message(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        composed(*overrides)
    return str(caught.value)


# ---- the shipped experiments --------------------------------------------------------------------------------------


def test_experiments_are_shipped() -> None:
    assert {"cnn", "mlp", "quick"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_shipped_experiment_composes_and_is_valid(experiment: str) -> None:
    settings, space, corners = plan.prepare(composed(*of_experiment(experiment)))

    assert settings.description
    assert corners
    assert bool(space.hyperparameters) != experiment.startswith("tutorial_")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_shipped_experiment_has_a_description_of_one_line(experiment: str) -> None:
    description = compose.experiments()[experiment]

    assert description == composed(*of_experiment(experiment))["description"]
    assert re.fullmatch(r"[A-Z].*[^.\n]", description)


def test_experiments_are_listed_in_order_of_their_names() -> None:
    assert list(compose.experiments()) == sorted(EXPERIMENTS)


@pytest.mark.parametrize(
    "group",
    sorted(p.name for p in shipped.folder().iterdir() if p.is_dir() and p.name not in ("hydra", "experiment")),
)
def test_every_option_of_every_group_composes_and_is_valid(group: str) -> None:
    for file in (shipped.folder() / group).glob("*.yaml"):
        needed = {"npz": ["data.path=images.npz"], "folder": ["data.path=pictures"], "table": NEEDED}
        needed["loader"] = ["data.loader=mine:load"]
        plan.prepare(composed(f"{group}={file.stem}", *needed.get(file.stem, ())))


# ---- user configs -------------------------------------------------------------------------------------------------


def test_an_experiment_in_the_working_directory_is_found(write: Write) -> None:
    write("experiment/mine.yaml", f"{GLOBAL}description: Mine\nmodel:\n  units: choice(8, 24)\n")
    settings, space, _ = plan.prepare(composed("+experiment=mine"))

    assert settings.description == "Mine"
    assert [list(h.domain.all()) for h in space.hyperparameters] == [[8, 24]]
    assert compose.experiments()["mine"] == "Mine"
    assert set(EXPERIMENTS) < set(compose.experiments())


def test_an_experiment_in_the_working_directory_wins_over_the_shipped_one(write: Write) -> None:
    write("experiment/quick.yaml", f"{GLOBAL}description: Mine is quicker\ntraining:\n  epochs: 1\n")
    config = composed("+experiment=quick")

    assert (config["description"], config["training"]["epochs"]) == ("Mine is quicker", 1)
    assert config["data"]["name"] == "mnist", "nothing is left of the shipped experiment"
    assert compose.experiments()["quick"] == "Mine is quicker"


def test_a_user_experiment_may_choose_shipped_options(write: Write) -> None:
    write("experiment/mine.yaml", f"{GLOBAL}defaults:\n  - override /model: cnn\n  - override /optimizer: sgd\n")
    config = composed("+experiment=mine")

    assert (config["model"]["kind"], config["optimizer"]["name"]) == ("cnn", "sgd")


def test_a_user_option_of_a_group_is_found(write: Write) -> None:
    write("model/wide.yaml", "kind: wide\nbuilder: my.models:wide\nwidth: 3\nper_layer: []\n")

    assert composed("model=wide")["model"]["width"] == 3
    assert composed("model=cnn")["model"]["kind"] == "cnn"
    assert message("model=wied") == "model=wied: no such option of the group model; did you mean 'wide'?"
    listed = compose.groups_and_options().splitlines()
    assert "model: cnn, mlp, wide" in listed
    assert not [line for line in listed if "base" in line or "columns" in line]


def test_a_user_experiment_in_a_subfolder_is_found(write: Write) -> None:
    write("experiment/first/try.yaml", f"{GLOBAL}description: Deep\n")

    assert composed("+experiment=first/try")["description"] == "Deep"
    assert compose.experiments()["first/try"] == "Deep"


def test_an_experiment_without_a_description_is_listed_without_one(write: Write) -> None:
    write("experiment/bare.yaml", GLOBAL)
    write("experiment/odd.yaml", "- 1\n")

    assert (compose.experiments()["bare"], compose.experiments()["odd"]) == ("", "")


def test_a_misspelt_key_in_a_user_experiment_is_refused(write: Write) -> None:
    write("experiment/mine.yaml", f"{GLOBAL}model:\n  unitz: 3\n")

    with pytest.raises(UserError, match=r"^model.unitz: unknown key; did you mean 'model.units'\?$"):
        plan.prepare(composed("+experiment=mine"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("/modl: cnn", "modl: no such group; did you mean 'model'?"),
        ("/model: cnnn", "model=cnnn: no such option of the group model; did you mean 'cnn'?"),
    ],
)
def test_a_misspelt_choice_in_a_user_experiment_is_refused(write: Write, override: str, expected: str) -> None:
    write("experiment/mine.yaml", f"{GLOBAL}defaults:\n  - override {override}\n")

    assert message("+experiment=mine") == expected


def test_a_user_experiment_without_its_package_line_is_refused(write: Write) -> None:
    write("experiment/mine.yaml", "model:\n  units: 8\n")
    with pytest.raises(UserError, match="^experiment: its file in conf/experiment/ must start with the line #"):
        plan.prepare(composed("+experiment=mine"))


def test_listing_experiments_names_a_file_that_is_not_yaml(write: Write, tmp_path: Path) -> None:
    write("experiment/broken.yaml", f"{GLOBAL}model: [1\n")
    with pytest.raises(UserError) as caught:
        compose.experiments()

    assert str(caught.value).startswith(f"{tmp_path / 'conf/experiment/broken.yaml'}: is not valid YAML (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 12)),
            "has more than 50000",
        ),
        ("[" * 100_000, "is nested more than 50 levels deep"),
        ("x" * 2_000_000, "is larger than 1 MB"),
        (b"description: caf\xe9\n", "is not UTF-8 text (byte 0xe9 at 16)"),
        ("a: !!python/object/apply:os.system [exit]\n", "is not valid YAML (could not determine a constructor"),
        ("a: 2026-13-45\n", "is not valid YAML (month must be in 1..12)"),
    ],
    ids=["billion laughs", "nested", "large", "Latin 1", "code", "date"],
)
def test_an_experiment_that_would_take_all_memory_or_run_code_is_refused(
    write: Write, tmp_path: Path, content: str | bytes, reason: str
) -> None:
    write("experiment/broken.yaml", "")
    path = tmp_path / "conf/experiment/broken.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for ask in (compose.experiments, lambda: composed("+experiment=broken")):
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value).startswith(f"{path}: {reason}")
        assert "\n" not in str(caught.value)
    assert composed("+experiment=quick")["name"] == "quick"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_an_experiment_that_is_not_a_file_is_refused_without_waiting(write: Write, tmp_path: Path, kind: str) -> None:
    write("experiment/mine.yaml", "")
    path = tmp_path / "conf/experiment/odd.yaml"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda p: os.symlink("/dev/zero", p)}[kind](path)
    with pytest.raises(UserError) as caught:
        compose.experiments()
    assert str(caught.value) == f"{path}: is a {kind}, not a file"
    assert composed("+experiment=quick")["name"] == "quick"


def test_a_description_that_is_not_text_is_not_shown(write: Write) -> None:
    write("experiment/odd.yaml", f"{GLOBAL}description: [1, 2]\n")
    assert compose.experiments()["odd"] == ""


def test_composing_an_experiment_that_is_not_yaml_is_refused(write: Write) -> None:
    write("experiment/broken.yaml", f"{GLOBAL}model: [1\n")

    assert "\n" not in message("+experiment=broken")


def test_user_configs_are_optional(tmp_path: Path) -> None:
    assert compose.user_folder() is None
    (tmp_path / "conf").write_text("a file")
    assert compose.user_folder() is None


def test_user_configs_are_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()

    assert compose.user_folder() == tmp_path / "conf"


def test_the_shipped_configs_are_not_user_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shipped.folder().parent)

    assert compose.user_folder() is None


# ---- errors -------------------------------------------------------------------------------------------------------


NOT_YOURS = "compose.py, _no_such_key: compares with the keys of the default groups, not of those that were chosen"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+experiment=quikc"], "experiment=quikc: no such experiment; did you mean 'quick'?"),
        (
            ["+experiment=zzz"],
            f"experiment=zzz: no such experiment; choose one of: {', '.join(sorted(EXPERIMENTS))}",
        ),
        (["+experiment=Quick"], "experiment=Quick: no such experiment; did you mean 'quick'?"),
        (["experiment=quick"], "experiment: write it with a plus, +experiment=quick"),
        (["training.epochs=1", "quick"], "quick: is not KEY=VALUE; write +experiment=quick"),
        (["mnist_5k"], "mnist_5k: is not KEY=VALUE; write data=mnist_5k"),
        (["minst"], "minst: is not KEY=VALUE; did you mean data=mnist?"),
        (["hello"], "hello: is not KEY=VALUE"),
        (["model.units=16", "32"], "model.units=16 32: must be one argument; write model.units=16,32"),
        (["model.units", "=", "16"], "model.units =: must be one argument; write model.units=16"),
        (["model.units=", "16"], "model.units= 16: must be one argument; write model.units=16"),
        (
            ["data=npz", "data.path=my", "digits.npz", "seed=2"],
            "data.path=my digits.npz: must be one argument; write 'data.path=my digits.npz'",
        ),
        (["model=mpl"], "model=mpl: no such option of the group model; did you mean 'mlp'?"),
        (["model=rnn"], "model=rnn: no such option of the group model; did you mean 'cnn'?"),
        (["workers=4"], "workers=4: no such option of the group workers; for their number, write workers.count=4"),
        (["model=2"], "model=2: no such option of the group model; choose one of: cnn, mlp"),
        (["optimizer=Adamm"], "optimizer=Adamm: no such option of the group optimizer; did you mean 'adam'?"),
        (["data=mnist5k"], "data=mnist5k: no such option of the group data; did you mean 'mnist_5k'?"),
        (
            ["data=./my data/digits.npz"],
            "data=./my data/digits.npz: no such option of the group data; for a file, write data=npz "
            "'data.path=./my data/digits.npz'",
        ),
        (
            ["data=my/pictures"],
            "data=my/pictures: no such option of the group data; for a folder of pictures, write data=folder "
            "data.path=my/pictures; for arrays in an .npz file, data=npz data.path=my/pictures",
        ),
        (
            ["data=my/wine.csv"],
            "data=my/wine.csv: no such option of the group data; for a table, write data=table data.path=my/wine.csv "
            "data.target=COLUMN",
        ),
        (
            ["data=mine:load"],
            "data=mine:load: no such option of the group data; for a function of yours, write data=loader "
            "data.loader=mine:load",
        ),
        (
            ["model=own:build"],
            "model=own:build: no such option of the group model; for your own code, write model.hypermodel=own:build "
            "or model.builder=own:build",
        ),
        (["data=npz", "data.path=a.npz", "lr=3"], "lr: unknown key; did you mean 'optimizer.learning_rate'?"),
        (["direction=max"], "direction: unknown key; did you mean 'objective'?"),
        (["objective.name=val_loss"], "objective.name: unknown key; did you mean 'objective'?"),
        (["optimizer.momentum=0.9"], "optimizer.momentum: unknown key; did you mean '+optimizer.arguments.momentum'?"),
        (["modle=cnn"], "modle: unknown key; did you mean 'model'?"),
        (["serach=grid"], "serach: unknown key; did you mean 'search'?"),
        (["model.unit=16"], "model.unit: unknown key; did you mean 'model.units'?"),
        (["model.unit=16,64"], "model.unit: unknown key; did you mean 'model.units'?"),
        (["modle.units=16"], "modle.units: unknown key; did you mean 'model.units'?"),
        (["trainng.epochs=1"], "trainng.epochs: unknown key; did you mean 'training.epochs'?"),
        (["~model.unit"], "model.unit: unknown key; did you mean 'model.units'?"),
        (["seeed=2"], "seeed: unknown key; did you mean 'seed'?"),
        (["search.max_trial=3"], "search.max_trial: unknown key; did you mean 'search.max_trials'?"),
        (
            ["optimizer.arguments.clipnorm=1.0"],
            "optimizer.arguments.clipnorm: unknown key; to add it, write +optimizer.arguments.clipnorm=1.0",
        ),
        (["data=npz"], "data.path: a value is required; give data.path=…"),
        (["name=${foo}"], "name: Interpolation key 'foo' not found"),
        (["model.units=${model.foo}"], "model.units: Interpolation key 'model.foo' not found"),
        (["model.units=[1"], "model.units=[1: cannot be parsed as typed; write 'model.units=[1]'"),
        (
            ["model.units=choice(1"],
            "model.units=choice(1: cannot be parsed as typed; write 'model.units=choice(1)'",
        ),
        (["+experiment=quick", "+experiment=mlp"], "experiment: has several options, quick and mlp; choose one"),
        *(
            (
                [f"{plus}{group}={sweep}"],
                f"{plus}{group}={sweep}: a group cannot be searched; run one sweep per option with -m {plus}{group}=…, "
                "or search values inside the group",
            )
            for plus, group, sweep in (
                ("", "model", "mlp,cnn"),
                ("", "search", "choice(grid, random)"),
                ("+", "experiment", "mlp,cnn"),
            )
        ),
        pytest.param(
            ["model=cnn", "model.dense.unit=3"], "model.dense.unit: unknown key; did you mean 'model.dense.units'?"
        ),
        pytest.param(
            ["model=cnn", "model.poling.size=3"], "model.poling.size: unknown key; did you mean 'model.pooling.size'?"
        ),
        pytest.param(
            ["search=hyperband", "search.facter=3"], "search.facter: unknown key; did you mean 'search.factor'?"
        ),
        pytest.param(
            ["+experiment=tutorials/cnn"],
            "experiment=tutorials/cnn: no such experiment; did you mean 'tutorial_cnn'?",
        ),
    ],
)
def test_a_composition_error_is_one_line(overrides: list[str], expected: str) -> None:
    assert message(*overrides) == expected


def test_adding_an_existing_key_is_refused() -> None:
    assert message("+model.units=3").startswith("model.units")


def test_adding_a_second_option_of_a_group_is_refused() -> None:
    assert message("+search=grid").startswith("search")


def test_an_override_without_a_key_is_refused() -> None:
    assert message("=3").startswith("=3")


def test_a_misspelt_experiment_group_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"did you mean '\+experiment'"):
        plan.prepare(composed("+experimnt=quick"))


def test_a_misspelt_experiment_in_a_subfolder_is_refused(write: Write) -> None:
    write("experiment/first/try.yaml", GLOBAL)

    assert "no such" in message("+experiment=first/tyr")


def test_an_option_in_an_experiments_defaults_must_override(write: Write) -> None:
    write("experiment/mine.yaml", f"{GLOBAL}\ndefaults:\n  - model: cnn\n")

    assert message("+experiment=mine") == "experiment: its defaults have '- model: cnn'; write '- override /model: cnn'"


def test_plain_resolves_references() -> None:
    config = composed("seed=7", "+optimizer.arguments.clipnorm=1.0")

    assert (config["seed"], config["search"]["seed"], config["training"]["seed"]) == (7, 7, 7)
    assert type(config["optimizer"]["arguments"]) is dict
    assert "hydra" not in config


# ---- the name -----------------------------------------------------------------------------------------------------


def name_on_the_command_line(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "mnist_sweep", *arguments, "--cfg", "job", "--resolve"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    name: str = yaml.safe_load(done.stdout)["name"]
    return name


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "mlp"),
        (["model=cnn"], "cnn"),
        (["+experiment=quick"], "quick"),
        (["+experiment=quick", "model=cnn"], "quick"),
        (["+experiment=first/try"], "first_try"),
        (["+experiment=quick", "name=mine"], "mine"),
    ],
)
def test_a_sweep_is_named_after_its_experiment_or_else_its_model(write: Write, overrides: list[str], name: str) -> None:
    write("experiment/first/try.yaml", GLOBAL)

    assert name_on_the_command_line(*overrides) == name


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("model=cnn", "cnn"),
        ("name=mine", "mine"),
        pytest.param("+experiment=quick", "quick"),
    ],
)
def test_the_name_is_the_same_without_a_hydra_run(override: str, name: str) -> None:
    assert composed(override)["name"] == name


class TestBaseline:
    """The config without sweeps, which a search tries first."""

    CHOICES: ClassVar = {"model": "mlp", "optimizer": "rmsprop", "training": "default", "data": "mnist"}

    def baseline(self, *overrides: str, **choices: str) -> dict[str, Any] | None:
        quoted = quote_sweeps(overrides)
        return compose.baseline(compose.defaults(quoted), quoted, {**self.CHOICES, **choices})

    def test_has_the_values_that_sweeps_on_the_command_line_replaced(self) -> None:
        found = self.baseline(
            "+experiment=tutorial_dense512", "model.units=64,128", "optimizer.name=adam,sgd", "training.epochs=7"
        )
        assert found is not None
        assert (found["model"]["units"], found["optimizer"]["name"], found["training"]["epochs"]) == (512, "rmsprop", 7)
        assert "per_layer" not in found["model"]

    def test_has_the_group_default_for_a_sweep_in_an_experiment(self) -> None:
        found = self.baseline("+experiment=cnn", model="cnn", optimizer="adam")
        assert found is not None
        model = found["model"]
        assert (model["filters"], model["padding"], found["optimizer"]["name"]) == (32, "same", "adam")
        assert check_trial(found).training.epochs == 12

    def test_is_none_if_a_swept_key_has_no_default(self) -> None:
        # A custom key has no default in conf/; one that the command line adds as a sweep is left out.
        assert self.baseline("model.builder=own:build", "+model.width=32,64") is not None
        config = compose.defaults(["model.builder=own:build", "+model.width=32"])
        assert compose.baseline(config, [], self.CHOICES) is not None
        config["model"]["width"] = "choice(32, 64)"
        assert compose.baseline(config, [], self.CHOICES) is None

    def test_is_composed_again_only_if_there_are_sweeps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain, swept = compose.defaults(["model.units=64"]), compose.defaults(["+experiment=cnn"])
        asked: list[Sequence[str]] = []
        defaults = compose.defaults
        monkeypatch.setattr(compose, "defaults", lambda overrides: asked.append(overrides) or defaults(overrides))
        compose.baseline(plain, ["model.units=64"], self.CHOICES)
        assert asked == []
        compose.baseline(swept, ["+experiment=cnn"], {**self.CHOICES, "model": "cnn"})
        assert asked == [["model=cnn", "optimizer=rmsprop", "training=default"]]


def test_the_main_config_of_another_project_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    before = compose.defaults()
    assert compose.ignored_config() is None
    (tmp_path / "conf" / "config.yaml").write_text("db: mysql\nlr: 1e-3\n")
    assert compose.defaults() == before
    assert str(compose.ignored_config()).startswith("conf/config.yaml is ignored: ")


def test_an_option_that_a_users_file_replaces_is_named(tmp_path: Path) -> None:
    (tmp_path / "conf" / "optimizer").mkdir(parents=True)
    (tmp_path / "conf" / "optimizer" / "adam.yaml").write_text("lr: 1e-3\n")
    found = list(compose.replaced_options({"optimizer": "adam", "model": "mlp", "experiment": None}))
    assert found == ["conf/optimizer/adam.yaml of the working directory is used instead of the one of mnist_sweep"]


@pytest.mark.parametrize("name", ["2026", "nan", "1e3", "true", "0x10"])
def test_a_name_that_looks_like_a_number_is_text(name: str) -> None:
    (argument,) = quote_sweeps([f"name={name}"])
    assert compose.defaults([argument])["name"] == name


@pytest.mark.parametrize(
    ("variable", "overrides", "name"),
    [
        ("mine", [], "mine"),
        ("mine", ["+experiment=quick"], "mine"),
        ("mine", ["name=typed"], "typed"),
        ("/Users/me/mine", ["+experiment=quick"], "quick"),
    ],
)
def test_mlflows_experiment_variable_names_sweeps(
    monkeypatch: pytest.MonkeyPatch, variable: str, overrides: list[str], name: str
) -> None:
    monkeypatch.setenv(compose.EXPERIMENT_VARIABLE, variable)
    assert compose.defaults(overrides)["name"] == name
    assert (compose.ignored_experiment_name() is None) == (variable == "mine")


def test_mlflows_number_of_an_experiment_is_said_to_be_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    assert str(compose.ignored_experiment_name()).startswith("MLFLOW_EXPERIMENT_ID=7 is ignored: ")
    monkeypatch.setenv(compose.EXPERIMENT_VARIABLE, "mine")
    assert compose.ignored_experiment_name() is None
