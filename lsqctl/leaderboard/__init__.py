"""The leaderboard: rows in, ranked tables and text out.  No database, no terminal, no torch.

``rank`` orders, ``published_results`` are what others reached, ``table_view`` what is drawn,
``output`` writes it in every format, ``board.to_frame`` hands it to pandas.
"""
