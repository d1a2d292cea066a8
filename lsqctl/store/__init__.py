"""The store: every run, metric and result, in SQLite or PostgreSQL, behind one object of parts."""

from lsqctl.store.store import Store, open_store

__all__ = ["Store", "open_store"]
