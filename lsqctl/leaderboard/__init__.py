"""The leaderboard: rows in, ranked tables and text out.  No database, no terminal, no torch.

``rank`` orders, ``references`` are the published rows, ``view`` is what a terminal draws,
``formats`` writes CSV, JSON and markdown, ``frame`` hands the board to pandas.
"""
