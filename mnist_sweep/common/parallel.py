"""Calls a function for many items at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")


def each(call: Callable[[_Item], object], items: Iterable[_Item], threads: int) -> None:
    """Calls a function for each item, and returns when all calls have.

    Unlike those of a `ThreadPoolExecutor`, its threads do not keep the process from ending if a call never returns.

    Args:
        call: The function.
        items: The items. With one thread, they are taken in their order.
        threads: How many calls to make at once, one of them in this thread.

    Raises:
        Exception: The first exception that a call has raised. After it, no further calls are made.
    """
    waiting, errors = deque(items), list[Exception]()

    def work() -> None:
        while not errors:
            try:
                item = waiting.popleft()
            except IndexError:
                return
            try:
                call(item)
            except Exception as error:
                errors.append(error)

    others = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(waiting)) - 1)]
    for thread in others:
        thread.start()
    try:
        work()
    finally:
        waiting.clear()
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
