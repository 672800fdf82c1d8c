"""The services that get a sweep's messages (`notify`): URLs of which any part may be a secret."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mnist_sweep.common.errors import UserError
from mnist_sweep.common.secrets import HIDDEN, hide, hide_whole, reveal
from mnist_sweep.common.text import first_line

KEY = "notify"
# A URL that only names variables of the environment is kept as it is, and read again when the sweep is resumed.
_REFERENCE = re.compile(r"(?:\w+://)?(?:\$\{oc\.env:\w+\}|[/:@?&=])+")
_BETWEEN = re.compile(r",\s*(?=['\"]?(?:[\w+]+://|\$\{))")


@dataclass(frozen=True)
class Service:
    """Where messages go.

    Attributes:
        name: How it is shown, without secrets: `slack://***`.
        url: Its address; None if the sweep has been started by another process, which alone knew it.
    """

    name: str
    url: str | None


def hidden(written: Any) -> Any:
    """Returns the value of `notify` without secrets, which `services` knows in this process.

    Args:
        written: The value, with interpolations unresolved.

    Raises:
        UserError: An interpolation cannot be resolved.
    """
    if isinstance(written, list | tuple):
        return [hidden(one) for one in written]
    if not isinstance(written, str):
        return written
    return written if _REFERENCE.fullmatch(written) else hide_whole(_resolved(written))


def hidden_override(override: str) -> str:
    """Returns an override of `notify` without secrets; its URLs need no quotes for Hydra.

    Args:
        override: Such as `notify=[slack://A/B/C,mailto://me:pw@example.org]`.
    """
    key, _, value = override.partition("=")
    value = value.strip()
    if value in ("", "null", "[]") or (value.startswith("${") and _REFERENCE.fullmatch(value)):
        return override
    inside = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    urls = [text.strip().strip("'\"") for text in _BETWEEN.split(inside)]
    quoted = ",".join("'" + hidden(url).replace("'", "\\'") + "'" for url in urls if url)
    return f"{key}=[{quoted}]"


def kept(override: str) -> str:
    """Returns an override for `resume`, whose secrets no message shows from here on; those of `notify` are hidden."""
    if override.partition("=")[0] == KEY:
        return hidden_override(override)
    hide(override.partition("=")[2])
    return override


def services(written: Sequence[str]) -> list[Service]:
    """Returns the services of a config, whose secrets are hidden.

    Raises:
        UserError: A variable of the environment is not set.
    """
    return [Service(one, _resolved(one) if HIDDEN not in one else reveal(one)) for one in written]


def _resolved(text: str) -> str:
    if "${" not in text:
        return text
    try:
        return str(OmegaConf.create({KEY: text})[KEY])
    except OmegaConfBaseException as error:
        unset = re.search(r"Environment variable '(\w+)' not found", str(error))
        why = f"the variable {unset[1]} is not set; set it, or write {KEY}=[]" if unset else first_line(error)
        raise UserError(f"{KEY}={text}: {why}") from None
