"""Says how to write a config key that was typed as an option."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.invocation import command

# Other programs' options for a file with a config.
_FILES = ("config", "config_file", "yaml", "params", "f")


def check_options(given: Sequence[str]) -> None:
    """Refuses options that neither this program nor Hydra has.

    Args:
        given: The arguments of a sweep.

    Raises:
        UserError: An argument starts with a dash but is not an option. The message says how to write a key.
    """
    from hydra._internal.utils import get_args_parser

    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    for number, argument in enumerate(given):
        name, equals, value = argument.partition("=")
        if not argument.startswith("-") or name in known or argument[:2] in known:
            continue
        key = name.lstrip("-").replace("-", "_")
        following = given[number + 1] if number + 1 < len(given) else ""
        if not equals and following and not following.startswith("-") and "=" not in following:
            value = following
        if key in _FILES and value:
            stem = PurePath(value).stem
            raise UserError(
                f"{argument}: no such option; save the file as conf/experiment/{stem}.yaml, and write "
                f"{shlex.quote(f'+experiment={stem}')}"
            )
        if not key.replace(".", "").isidentifier():
            raise UserError(f"{argument}: no such option; see {command('--help')}")
        value = shlex.quote(value) if value else "…"
        raise UserError(f"{argument}: no such option; keys have no dashes: {full_key(key)}={value}")


def full_key(key: str, overrides: Sequence[str] = ()) -> str:
    """Returns the config key that a name such as `lr` or `epochs` stands for; the name itself if it is not known.

    Args:
        key: The name.
        overrides: The other overrides, which decide what keys there are.
    """
    from mnist_sweep.config import compose, key_names

    if key == "experiment":
        return "+experiment"
    known = list(key_names.nested_keys(compose.defaults(overrides)))
    return key if key in known else next(iter(key_names.nearest(key, known)), key)
