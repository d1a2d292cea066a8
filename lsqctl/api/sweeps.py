"""Find a sweep by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsqctl.errors import NotFound, did_you_mean

if TYPE_CHECKING:
    from lsqctl.store import Store


def sweep_named(store: Store, name: str | None) -> str | None:
    """Return the sweep of this name; for None the newest, or None where there is none.

    Raises NotFound, with the nearest name, for one that is not there.
    """
    names = store.sweeps()
    if name is None:
        return names[0] if names else None
    if name not in names:
        raise NotFound(f"no sweep `{name}`{did_you_mean(name, names)}")
    return name
