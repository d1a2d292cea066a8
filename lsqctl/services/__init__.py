"""The service layer: one module for each question that a user asks."""

from lsqctl.services.python_api import load_board, load_model

__all__ = ["load_board", "load_model"]
