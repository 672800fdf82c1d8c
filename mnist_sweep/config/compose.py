"""Finds the configs and composes them with Hydra."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from mnist_sweep.common.errors import UserError, did_you_mean
from mnist_sweep.common.reading import read_yaml
from mnist_sweep.common.text import first_line, one_line, printable
from mnist_sweep.config import services, shipped
from mnist_sweep.config.grammar import FORMS, is_sweep, parse_value, read_sweep
from mnist_sweep.config.key_names import nested_keys, same_end, unknown_key
from mnist_sweep.config.overrides import corrected, in_shell, joined
from mnist_sweep.config.settings import is_name
from mnist_sweep.config.shipped import TRIAL_GROUPS

CONFIG = "config"
_MISSING = object()
# MLflow's own variable for the experiment of a run, and so the default name of sweeps.
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
# The other way in which MLflow is told the experiment of a run.
_NUMBER_VARIABLE = "MLFLOW_EXPERIMENT_ID"
_TEXTS = ("name", "description")
_TABLES = (".csv", ".tsv", ".parquet", ".pq", ".xlsx", ".xls", ".xlsm", ".ods")
# What Hydra may raise while it composes.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


def user_folder() -> Path | None:
    """Returns the user's `conf/` in the working directory; None if there is none, or it is the shipped one."""
    folder = Path.cwd() / "conf"
    return folder if folder.is_dir() and folder.resolve() != shipped.folder().resolve() else None


def ignored_config() -> str | None:
    """Returns a line on the `conf/config.yaml` of the working directory, which is not used; None if there is none."""
    folder = user_folder()
    if folder is None or not any((folder / f"{CONFIG}{suffix}").exists() for suffix in (".yaml", ".yml")):
        return None
    return (
        f"conf/{CONFIG}.yaml is ignored: only the groups and experiments in conf/ are used. To change defaults, write "
        "an experiment, conf/experiment/NAME.yaml"
    )


def replaced_options(choices: Mapping[str, str | None]) -> Iterator[str]:
    """Yields a line on each option that a file in the working directory replaces, such as another project's.

    Args:
        choices: The chosen option of each group.
    """
    own = user_folder()
    if own is None:
        return
    for group, option in choices.items():
        if all((folder / group / f"{option}.yaml").exists() for folder in (own, shipped.folder())):
            yield f"conf/{group}/{option}.yaml of the working directory is used instead of the one of mnist_sweep"


class _UserConfigs(SearchPathPlugin):
    """Adds the user's `conf/` to the search path, ahead of the shipped configs."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = user_folder()
        if folder is not None:
            search_path.prepend(provider="working directory", path=f"{_UserFiles.scheme()}://{folder}")


class _UserFiles(FileConfigSource):
    """Reads the user's configs, after checking that Hydra can read them in bounded time and memory."""

    @staticmethod
    def scheme() -> str:
        return "user"

    def is_config(self, config_path: str) -> bool:
        # The main config of another Hydra project must not replace the defaults of this program.
        return config_path != CONFIG and super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path, self._normalize_file_name(config_path))
        if path.exists():
            read_yaml(path, printable(str(path)))
        return super().load_config(config_path)


def ignored_experiment_name() -> str | None:
    """Returns a line on MLflow's variables for the experiment of a run, if they cannot name sweeps; else None."""
    name = os.environ.get(EXPERIMENT_VARIABLE)
    if name and not is_name(name):
        given = f"{EXPERIMENT_VARIABLE}={printable(name)}"
        return f"{given} is ignored, as it cannot name a folder; write name=NAME instead"
    number = os.environ.get(_NUMBER_VARIABLE)
    if number and not name:
        return (
            f"{_NUMBER_VARIABLE}={printable(number)} is ignored: the experiment of a sweep has the sweep's name; set "
            f"{EXPERIMENT_VARIABLE}, or write name=NAME"
        )
    return None


def _experiment_name(*, _root_: DictConfig) -> str:
    named = os.environ.get(EXPERIMENT_VARIABLE, "")
    if is_name(named):
        return named
    chosen = OmegaConf.select(_root_, "hydra.runtime.choices.experiment")
    if chosen is None and HydraConfig.initialized():
        chosen = HydraConfig.get().runtime.choices.get("experiment")
    hypermodel = str(OmegaConf.select(_root_, "model.hypermodel") or "").rpartition(":")[2]
    return str(chosen or hypermodel or OmegaConf.select(_root_, "model.kind")).replace("/", "_")


def groups_and_options() -> str:
    """Returns a line for each group and its options, for `--help`; those that only other files use are left out."""
    options: dict[str, set[str]] = {}
    for folder in filter(None, (shipped.folder(), user_folder())):
        for file in folder.glob("*/**/*.yaml"):
            group = file.relative_to(folder).parent
            if group.parts[0] != "hydra" and group.name not in ("base", "columns"):
                options.setdefault(group.as_posix(), set()).add(file.stem)
    lines = [f"{group}: {', '.join(sorted(names))}" for group, names in sorted(options.items())]
    # Hydra reads a dollar sign as the start of a variable of its template.
    return "\n".join(printable(line).replace("$", "$$") for line in lines)


def register() -> None:
    """Registers the user's configs and the resolvers of the shipped ones with Hydra. May be called again."""
    if _UserConfigs not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(_UserConfigs)
        Plugins.instance().register(_UserFiles)
    OmegaConf.register_new_resolver("experiment_name", _experiment_name, replace=True)
    OmegaConf.register_new_resolver("groups_and_options", groups_and_options, replace=True)
    # Hydra creates the sweep's folder before the name is checked, so no name may lead out of experiments/.
    OmegaConf.register_new_resolver("folder_name", lambda name: re.sub(r"^\.+|[^\w.-]", "_", str(name)), replace=True)


def defaults(overrides: Sequence[str] = (), *, whole: bool = True) -> dict[str, Any]:
    """Composes the config outside of a sweep, for commands that need only a part of it.

    Args:
        overrides: As on the command line.
        whole: Whether to refuse a config in which a value is missing.

    Raises:
        UserError: An override or the user's `conf/` is wrong.
    """
    return plain(composed(overrides)[0], whole=whole)


def composed(overrides: Sequence[str] = ()) -> tuple[DictConfig, DictConfig]:
    """Composes the config of a sweep without running it.

    Args:
        overrides: As on the command line, with sweeps quoted (`grammar.quote_sweeps`).

    Returns:
        The config, and Hydra's own, with the folder `run.dir` resolved.

    Raises:
        UserError: An override or the user's `conf/` is wrong.
    """
    register()
    # While a sweep runs under Hydra, Hydra's only instance belongs to that sweep.
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(shipped.folder()), version_base="1.3"):
            config = compose(CONFIG, overrides=list(overrides), return_hydra_config=True)
            with open_dict(config):
                # They depend on each other: resolve them before they are taken apart.
                config.name = config.name
                config.hydra.run.dir = str(config.hydra.run.dir).replace("${", "\\${")
                hydra = config.pop("hydra")
    except COMPOSITION_ERRORS as error:
        raise explain(error, overrides) from error
    finally:
        Singleton.set_state(before)
    return config, hydra


def baseline(
    config: Mapping[str, Any], overrides: Sequence[str], choices: Mapping[str, str | None]
) -> dict[str, Any] | None:
    """Returns the config without its sweeps: the default configuration, which a search has to beat.

    Args:
        config: The config as Hydra composed it, resolved.
        overrides: The overrides of the command line, sweeps quoted or not.
        choices: The chosen option of each group.

    Returns:
        The groups model, optimizer and training. A sweep on the command line becomes the value that it replaced; a
        sweep in an experiment's file becomes the default of its group. None if there is none.
    """
    typed = [o for o in overrides if not is_sweep(o)]
    groups = [f"{group}={option}" for group, option in choices.items() if group in TRIAL_GROUPS and option]
    try:
        # Composing a config is slow, so it is done only if needed.
        first = config if len(typed) == len(overrides) else defaults(typed)
        try:
            found = {group: _without_sweeps(first[group], {}, group) for group in TRIAL_GROUPS}
        except KeyError:
            second = defaults(groups)
            found = {group: _without_sweeps(first[group], second[group], group) for group in TRIAL_GROUPS}
    except (KeyError, UserError):
        # A swept key without a default, or a config that is entirely the user's.
        return None
    # It configures the search, not the model.
    found["model"].pop("per_layer", None)
    return found


def _without_sweeps(node: Any, default: Any, key: str) -> Any:
    if isinstance(node, Mapping):
        known = default if isinstance(default, Mapping) else {}
        return {
            name: _without_sweeps(value, known.get(name, _MISSING), f"{key}.{name}") for name, value in node.items()
        }
    if isinstance(node, str) and read_sweep(node, key) is not None:
        if default is _MISSING:
            raise KeyError(key)
        return default
    return node


def plain(config: DictConfig, *, whole: bool = True) -> dict[str, Any]:
    """Converts a composed config to plain data, with interpolations resolved, and with the secrets of `notify` hidden.

    Args:
        config: The config.
        whole: Whether to refuse a config in which a value is missing.

    Raises:
        UserError: A value is missing, or refers to a missing one.
    """
    notify = _hidden_services(config)
    try:
        result = OmegaConf.to_container(config, resolve=True, throw_on_missing=whole)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    assert isinstance(result, dict)
    result |= notify
    # A name such as 2026 is a number in YAML.
    texts = {key: str(result[key]) for key in _TEXTS if type(result.get(key)) in (int, float)}
    return {str(key): value for key, value in result.items()} | texts


def _hidden_services(config: DictConfig) -> dict[str, Any]:
    """Returns `notify` as a config keeps it, if it is there; refuses variables that are not set."""
    if services.KEY not in config:
        return {}
    unresolved = OmegaConf.to_container(config, resolve=False)
    assert isinstance(unresolved, dict)
    found = services.hidden(unresolved[services.KEY])
    services.services([one for one in ([found] if isinstance(found, str) else found or ()) if isinstance(one, str)])
    return {services.KEY: found}


def experiments() -> dict[str, str]:
    """Returns the available experiments, sorted by name, with their descriptions.

    Raises:
        UserError: A file cannot be read, or is not YAML.
    """
    found: dict[str, str] = {}
    for folder in filter(None, (shipped.folder(), user_folder())):
        for file in sorted((folder / "experiment").glob("**/*.yaml")):
            content = read_yaml(file, printable(str(file)))
            name = str(file.relative_to(folder / "experiment").with_suffix(""))
            description = content.get("description") if isinstance(content, dict) else None
            # Only text: a list may expand to billions of values through its aliases.
            found[name] = description if isinstance(description, str) else ""
    return dict(sorted(found.items()))


def explained(error: Exception, overrides: Sequence[str] = ()) -> Exception:
    """Returns `explain`'s error for an error of Hydra or OmegaConf, and any other error unchanged."""
    return explain(error, overrides) if isinstance(error, HydraException | OmegaConfBaseException) else error


def explain(error: Exception, overrides: Sequence[str] = ()) -> UserError:
    """Describes in one line what Hydra, OmegaConf or YAML found wrong.

    Args:
        error: One of `COMPOSITION_ERRORS`.
        overrides: The overrides of the command line.
    """
    if isinstance(error, yaml.YAMLError):
        return UserError(f"conf: a file is not valid YAML ({one_line(str(error))})")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return _no_such_option(str(error.missing_cfg_file), error.options or [])
    text = str(error)
    twice = re.search(r"Multiple values for (\w+)", text)
    if twice:
        group = twice.group(1)
        given = [o.partition("=")[2] for o in overrides if o.startswith(f"+{group}=")]
        if len(given) > 1:
            return UserError(f"{group}: has several options, {' and '.join(given)}; choose one")
        return UserError(f"{group}: already has an option; write {group}=NAME without a plus")
    existing = re.search(r"already at '([^']+)'", text)
    if existing:
        added = [o for o in overrides if o.startswith("+")]
        named = [o for o in added if o.lstrip("+").partition("=")[0].replace("/", ".") == existing.group(1)]
        which = (named or added or [existing.group(1)])[0].lstrip("+")
        return UserError(f"{which}: this key already exists; write it without a plus")
    if "Config group override must be a string" in text:
        for group, _, value in (o.lstrip("+").partition("=") for o in overrides):
            if group in _groups() and not isinstance(parse_value(value, group), str):
                return _no_such_option(f"{group}/{value}", [f.stem for f in (shipped.folder() / group).glob("*.yaml")])
    nameless = next((o for o in overrides if o.startswith("=")), None)
    if nameless:
        return _not_an_override(nameless, overrides)
    key = re.search(r"Could not (?:override|append to config|delete from config)\.? ?(?:Key )?'?([\w./@-]+)'?", text)
    if isinstance(error, ConfigCompositionException) and key is not None:
        return _no_such_key(key.group(1), text, overrides)
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{error.full_key}: a value is required; give {error.full_key}=…")
    if isinstance(error, OverrideParseException):
        return _unparsable(str(error.override), error, overrides)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("See https")]
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return UserError(f"{error.full_key}: {lines[0]}")
    return UserError(" ".join(lines[:2]) or type(error).__name__)


def _not_an_override(argument: str, overrides: Sequence[str]) -> UserError:
    """Describes an argument that is not `KEY=VALUE`: a part of the one before it, or a value without its key."""
    given = list(overrides)
    place = given.index(argument) if argument in given else 0
    options = {name: f"+experiment={name}" for name in experiments()}
    for group in _groups():
        for file in (shipped.folder() / group).glob("*.yaml") if group != "experiment" else ():
            options.setdefault(file.stem, f"{group}={file.stem}")
    if argument in options:
        return UserError(f"{argument}: is not KEY=VALUE; write {options[argument]}")
    if place and (right := joined(given[place - 1], given[place:])) is not None:
        return UserError(f"{given[place - 1]} {argument}: must be one argument; write {right}")
    if argument.startswith("="):
        return UserError(f"{argument}: the key before the equals sign is missing")
    near = difflib.get_close_matches(argument.lower(), options, n=1, cutoff=0.75)
    return UserError(f"{argument}: is not KEY=VALUE{f'; did you mean {options[near[0]]}?' if near else ''}")


def _unparsable(argument: str, error: Exception, overrides: Sequence[str]) -> UserError:
    if "=" not in argument and not argument.startswith("~"):
        return _not_an_override(argument, overrides)
    following = list(overrides)[list(overrides).index(argument) + 1 :] if argument in overrides else []
    right = corrected(argument, following)
    if right is None and re.match(rf"({'|'.join(TRIAL_GROUPS)})\..*=.*\w\(", argument):
        return UserError(f"{argument}: cannot be parsed; to search values, {FORMS}")
    return UserError(
        f"{argument}: cannot be parsed {f'as typed; write {right}' if right else f'({first_line(error)})'}"
    )


def _no_such_option(file: str, options: Sequence[str]) -> UserError:
    group, _, option = file.rpartition("/")
    if group.startswith("experiment/"):
        group, _, option = file.partition("/")
        options = list(experiments())
    if not group:
        return UserError(f"{file}: no such config")
    top, _, value = file.partition("/")
    if top == "experiment" and value.partition("/")[0] in _groups():
        chosen = value.replace("/", ": ", 1)
        return UserError(f"experiment: its defaults have '- {chosen}'; write '- override /{chosen}'")
    if top == "data" and (meant := _meant_data(value)):
        return UserError(f"data={value}: no such option of the group data; {meant}")
    if top == "model" and re.fullmatch(r"[\w.]+:\w+", value):
        return UserError(
            f"model={value}: no such option of the group model; for your own code, write model.hypermodel={value} or "
            f"model.builder={value}"
        )
    if "," in option or "(" in option:
        plus = "+" if group == "experiment" else ""
        inside = f"optimizer.name={option}" if group == "optimizer" else "values inside the group"
        return UserError(
            f"{plus}{group}={option}: a group cannot be searched; run one sweep per option with -m {plus}{group}=…, "
            f"or search {inside}"
        )
    if group == "workers" and option.isdecimal():
        return UserError(
            f"workers={option}: no such option of the group workers; for their number, write workers.count={option}"
        )
    what = "experiment" if group == "experiment" else f"option of the group {group}"
    return UserError(f"{group}={option}: no such {what}{did_you_mean(option, options)}")


def _meant_data(value: str) -> str:
    """Returns what to write for a file, a folder or a function in place of the name of some data; "" if it is none."""
    if re.fullmatch(r"[\w.]+:\w+", value):
        return f"for a function of yours, write data=loader data.loader={value}"
    path, end = in_shell(f"data.path={value}"), value.lower().removesuffix(".gz")
    if end.endswith(_TABLES):
        return f"for a table, write data=table {path} data.target=COLUMN"
    if value.endswith((".npz", ".gz", ".npy")):
        return f"for a file, write data=npz {path}"
    if "/" in value or Path(value).is_dir():
        return f"for a folder of pictures, write data=folder {path}; for arrays in an .npz file, data=npz {path}"
    return ""


def _no_such_key(key: str, text: str, overrides: Sequence[str]) -> UserError:
    if "No match in the defaults list" in text:
        if key == "experiment":
            name = next((o.partition("=")[2] for o in overrides if o.startswith(f"{key}=")), "NAME")
            return UserError(f"{key}: write it with a plus, +{key}={name}")
        return UserError(f"{key}: no such group{did_you_mean(key, _groups())}")
    own = key.startswith("model.values.") or any(o.startswith("model.builder=") for o in overrides)
    given = next((o for o in overrides if o.startswith(f"{key}=")), None)
    if given and ((own and key.startswith("model.")) or ".arguments." in key):
        why = "to add it" if ".arguments." in key else "for a key that your own code reads"
        return UserError(f"{key}: unknown key; {why}, write {in_shell(f'+{given}') or f'+{key}=…'}")
    # The valid keys depend on the chosen options.
    chosen = [o for o in overrides if o.lstrip("+").partition("=")[0] in _groups()]
    known = list(nested_keys(defaults(chosen, whole=False)))
    elsewhere = list(_options_with(key))
    if elsewhere and not same_end(key, known):
        return UserError(f"{key}: unknown key; it exists only with {' or '.join(elsewhere)}")
    return UserError(unknown_key(key, known))


def _groups() -> list[str]:
    return sorted(p.name for p in shipped.folder().iterdir() if p.is_dir() and p.name != "hydra")


def _options_with(key: str) -> Iterator[str]:
    """Yields the options that have a key, such as `model=cnn` for `model.filters` or `filters`."""
    group, _, end = key.rpartition(".")
    for name in _groups():
        for file in sorted((shipped.folder() / name).glob("*.yaml")) if name != "experiment" else ():
            has = [k for k in nested_keys(shipped.values(f"{name}/{file.stem}")) if k.rpartition(".")[2] == end]
            if has and (not group or group.partition(".")[0] == name):
                yield f"{name}={file.stem}" + (f", as {name}.{has[0]}" if key != f"{name}.{has[0]}" else "")
