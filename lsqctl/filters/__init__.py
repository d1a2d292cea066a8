"""The language of ``--where``: text to an expression, and back.  No SQL, never eval, no I/O.

``expression`` is what a filter is, and parts it; ``lexer`` and ``parser`` read it, ``evaluate``
applies it to one row, ``column_kinds`` says which columns
there are.  ``lsqctl.store.filter_sql`` makes SQL of a tree, with every value a bound parameter.
"""
