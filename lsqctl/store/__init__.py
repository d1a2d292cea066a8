"""The store: every run, metric and result, in SQLite or PostgreSQL, behind one class."""

from lsqctl.store.metrics import better
from lsqctl.store.store import Store, open_store
from lsqctl.store.workers import KnownWorker

__all__ = ["KnownWorker", "Store", "better", "open_store"]
