"""When each thing is due that is done again and again."""

from __future__ import annotations

from collections.abc import Callable


class Schedule:
    """Knows by name when a thing was due last; ``clock`` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}

    def due(self, what: str, seconds: float) -> bool:
        """Return whether ``what`` is due now, and if so set its next time."""
        now = self._clock()
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + seconds
        return True

    def now(self, what: str) -> None:
        """Let ``what`` be due at once."""
        self._next.pop(what, None)
