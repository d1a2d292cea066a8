"""Tests of ``lsqctl.filters``."""
