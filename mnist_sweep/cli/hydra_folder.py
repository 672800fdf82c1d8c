"""Makes sure that Hydra writes only to a sweep's folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.conf import HydraConf
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.files import write_whole
from mnist_sweep.common.reading import read_text
from mnist_sweep.common.secrets import hide, masked
from mnist_sweep.config import services
from mnist_sweep.journal.files import CONFIGS
from mnist_sweep.journal.folders import Claim, check_free, claim, holds_a_sweep

if TYPE_CHECKING:
    from mnist_sweep.cli.multirun import Multirun

_MULTIRUN = "multirun.yaml"

# The sweeps of this process's command, if it has several.
_multiruns: list[Multirun] = []
# This process's claims, by the absolute path of the folder that Hydra uses.
_claims: dict[str, Claim] = {}


class ClaimFolder(Callback):
    """Claims a sweep's folder before Hydra creates it or replaces files in it."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Claims the folder `hydra.run.dir`, or one next to it."""
        with past_hydra():
            _check_unused(config)
            if not str(config.hydra.run.dir):
                raise UserError("hydra.run.dir: is empty; name a folder that is new or empty")
            taken = claim(Path(str(config.hydra.run.dir)))
            _claims[os.path.abspath(taken.folder)] = taken
            with open_dict(config):
                config.hydra.run.dir = str(taken.folder).replace("${", "\\${")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Checks all sweeps and the folder `hydra.sweep.dir`, and hides a password from the file that Hydra writes."""
        with past_hydra():
            _check_unused(config)
            # Imported here, as `--help` does not need them.
            from mnist_sweep.cli.multirun import Multirun
            from mnist_sweep.common.tables import line_printer, standard_output

            _check_sweep_folder(config)
            # May change the time in the name of the folder.
            _multiruns.append(Multirun(config, line_printer(standard_output())))
            _check_sweep_folder(config)
            # Changes only the copy that is written: the config of each sweep is composed again.
            tracking = OmegaConf.to_container(config.tracking, resolve=False)
            if isinstance(tracking, dict) and isinstance(tracking.get("uri"), str):
                config.tracking.uri = hide(tracking["uri"])
            unresolved = OmegaConf.to_container(config, resolve=False)
            if isinstance(unresolved, dict) and services.KEY in unresolved:
                config[services.KEY] = services.hidden(unresolved[services.KEY])


def _check_sweep_folder(config: DictConfig) -> None:
    folder = Path(str(config.hydra.sweep.dir))
    if not _holds_a_multirun(folder):
        check_free(folder, "hydra.sweep.dir")


def _check_unused(config: DictConfig) -> None:
    """Refuses options with which Hydra would write elsewhere, or paths would mean something else."""
    if config.hydra.output_subdir is not None:
        raise UserError(
            f"hydra.output_subdir={config.hydra.output_subdir}: .hydra/ is written without it; leave it out"
        )
    if config.hydra.job.chdir:
        raise UserError("hydra.job.chdir=true: must be false, as paths count from the working directory")


def _holds_a_multirun(folder: Path) -> bool:
    """Whether a folder has the sweeps of a multirun, and nothing else."""
    written = folder / _MULTIRUN
    if not written.is_file() or "name: mnist_sweep" not in read_text(written, str(written)):
        return False
    others = [path for path in folder.iterdir() if path.name != _MULTIRUN]
    # Hydra has created the folder of a sweep that was killed before it claimed it.
    return all(path.name.split("-")[0].isdigit() and (holds_a_sweep(path) or _is_empty(path)) for path in others)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def multirun() -> Multirun | None:
    """Returns the sweeps of this command if it is one with `-m`, once they have been checked."""
    return next(iter(_multiruns), None)


class Refused(BaseException):
    """Carries an error past Hydra, which turns every `Exception` of a callback into a warning."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def past_hydra() -> Iterator[None]:
    """Raises a `Refused` instead of any exception, about which Hydra would print a line."""
    try:
        yield
    except Exception as error:
        raise Refused(error) from error


def claimed(output: Path) -> Claim:
    """The claim of a sweep's folder.

    Args:
        output: The folder that Hydra uses. With several sweeps (`-m`), it is claimed only now.
    """
    key = os.path.abspath(output)
    if key not in _claims:
        taken = claim(output, "hydra.sweep.subdir")
        # Hydra has created the folder.
        _claims[key] = Claim(taken.wished, taken.folder, (taken.folder,))
    return _claims[key]


def give_up_unused() -> None:
    """Gives up this process's claims for sweeps that never started."""
    for taken in _claims.values():
        taken.give_up()
    _claims.clear()
    _multiruns.clear()


def save_configs(config: DictConfig, hydra_config: HydraConf | DictConfig, folder: Path) -> None:
    """Writes the composed config and the overrides to a sweep's folder, as Hydra would, but without passwords.

    Args:
        config: The sweep's config.
        hydra_config: Hydra's config.
        folder: The sweep's folder.
    """
    (folder / CONFIGS).mkdir(exist_ok=True)
    parts = {
        "config": config,
        "hydra": OmegaConf.create({"hydra": hydra_config}),
        "overrides": hydra_config.overrides.task,
    }
    for name, part in parts.items():
        write_whole(folder / CONFIGS / f"{name}.yaml", masked(OmegaConf.to_yaml(part)), flush=False)
