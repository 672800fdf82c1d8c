"""Narrows what a sweep searches: to tighter bounds, some of the options, or one value."""

from __future__ import annotations

from collections.abc import Mapping

from mnist_sweep.common.errors import UserError
from mnist_sweep.config.checks import as_written
from mnist_sweep.config.dotted import MISSING
from mnist_sweep.config.grammar import Choice, Domain, Interval, parse_value, read_sweep
from mnist_sweep.config.lookup import member
from mnist_sweep.config.space import Space

_ONLY = "values can only be narrowed"


def narrow(domain: Domain, text: str, key: str) -> Domain:
    """Returns the part of a domain that a text names.

    Args:
        domain: The values of a hyperparameter.
        text: A value, or a sweep in the language of the config. Of an interval only the bounds count: whether the
            values are whole numbers, and drawn on a logarithmic scale, stays as it is.
        key: The hyperparameter, for messages.

    Raises:
        UserError: The text cannot be read, or names a value that is not in the domain.

    Example:
        >>> rate = Interval(1e-4, 1e-1, integer=False, log=True)
        >>> str(narrow(rate, "interval(1e-4, 1e-2)", "optimizer.learning_rate"))
        'tag(log, interval(0.0001, 0.01))'
    """
    wanted = read_sweep(text, key)
    if isinstance(wanted, Interval):
        return _between(domain, wanted, text, key)
    found = []
    for option in (parse_value(text, key),) if wanted is None else wanted.options:
        found.append(member(domain, option))
        if found[-1] is MISSING:
            raise UserError(f"{key}={text}: {as_written(option)} is not in {domain}; {_ONLY}")
    part = Choice(tuple(found))
    # A grid tries them in the order of the config.
    return Choice(tuple(filter(part.includes, domain.options))) if isinstance(domain, Choice) else part


def narrowed(space: Space, parts: Mapping[str, str]) -> Space:
    """Returns a space with smaller domains.

    Args:
        space: The space.
        parts: The part of a hyperparameter's domain, as text, by its name.
    """
    domains = {h.name: h.domain for h in space.hyperparameters}
    return space.narrowed({name: narrow(domains[name], text, name) for name, text in parts.items()})


def _between(domain: Domain, wanted: Interval, text: str, key: str) -> Domain:
    """Returns the values of a domain between two bounds, which must be inside its own."""
    if not domain.numeric:
        raise UserError(f"{key}={text}: must be some of {domain}")
    low, high = min(domain.extremes()), max(domain.extremes())
    if not low <= wanted.low <= wanted.high <= high:
        outside = wanted.low if wanted.low < low else wanted.high
        raise UserError(f"{key}={text}: {outside:g} is not in {domain}; {_ONLY}")
    if isinstance(domain, Choice):
        options = tuple(option for option in domain.options if wanted.low <= option <= wanted.high)
        if not options:
            raise UserError(f"{key}={text}: none of {domain} is between these bounds")
        return Choice(options)
    if not domain.integer:
        return Interval(float(wanted.low), float(wanted.high), integer=False, log=domain.log)
    if wanted.low != round(wanted.low) or wanted.high != round(wanted.high):
        raise UserError(f"{key}={text}: must be between whole numbers, as {domain} is")
    return Interval(round(wanted.low), round(wanted.high), integer=True, log=domain.log)
