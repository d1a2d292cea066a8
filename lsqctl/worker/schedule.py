"""When each thing is due that is done again and again."""

from __future__ import annotations

from collections.abc import Callable


class Ticker:
    """Knows by name when a thing was due last; ``clock`` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_due: dict[str, float] = {}

    def due(self, name: str, seconds: float) -> bool:
        """Return whether ``name`` is due now, and if so set its next time."""
        now = self._clock()
        if now < self._next_due.get(name, 0.0):
            return False
        self._next_due[name] = now + seconds
        return True

    def trigger(self, name: str) -> None:
        """Let ``name`` be due at once."""
        self._next_due.pop(name, None)
