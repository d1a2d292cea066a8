"""The store: every run, metric and result, in SQLite or PostgreSQL, behind one class."""

from lsqctl.store.metrics import is_better
from lsqctl.store.store import Store, open_store
from lsqctl.store.workers import RegisteredWorker

__all__ = ["RegisteredWorker", "Store", "is_better", "open_store"]
