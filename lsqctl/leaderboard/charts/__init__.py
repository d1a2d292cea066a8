"""Charts as values: boards and runs in, axes and series out; drawn as SVG, in a terminal, in print.

``chart`` holds the values and their scales, ``accuracy`` and ``history`` make them;
``terminal`` and ``matplotlib_backend`` draw them, and so does ``lsqctl.leaderboard.page``.
"""
