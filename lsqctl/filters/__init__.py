"""The language of ``--where``: text to a small tree, and back.  No SQL, never eval, no I/O.

``tree`` is what a filter is, ``words`` and ``parsing`` read it, ``judging`` applies it to one row,
``splitting`` parts what can be asked before ranking from the rest, ``names`` says which columns
there are.  ``lsqctl.store.filter_sql`` makes SQL of a tree, with every value a bound parameter.
"""
