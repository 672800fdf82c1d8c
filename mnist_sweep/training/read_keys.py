"""Notes which keys of its config a user's model function reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


class _ReadKeys(dict[str, Any]):
    """A config that notes which of its keys are read. Whatever goes over all of them reads all.

    Attributes:
        read: The keys.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Takes the config."""
        super().__init__(config)
        self.read = set[str]()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self.read.add(key)
        return super().pop(key, *default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def keys(self) -> Any:
        return self._all().keys()

    def values(self) -> Any:
        return self._all().values()

    def items(self) -> Any:
        return self._all().items()

    def copy(self) -> dict[str, Any]:
        return self._all()

    def __or__(self, other: Any) -> Any:
        return self._all() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._all()

    def _all(self) -> dict[str, Any]:
        self.read |= set(super().keys())
        return dict(super().items())


def unread(build: Callable[[dict[str, Any]], object], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the keys that a function reads for none of several configs; none if it fails, as it may read on.

    Args:
        build: The function.
        configs: The configs, which have the same keys.
    """
    read = set[str]()
    for config in configs:
        recorded = _ReadKeys(config)
        try:
            build(recorded)
        except Exception:
            return []
        read |= recorded.read
    return [key for key in configs[0] if key not in read]
