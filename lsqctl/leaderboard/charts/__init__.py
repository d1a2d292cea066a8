"""Charts as values: boards and runs in, axes and series out; drawn as SVG, in a terminal, on paper.

``chart`` holds the values, ``accuracy`` and ``history`` make them, ``scales`` places them;
``terminal`` and ``paper`` draw them, and so does ``lsqctl.leaderboard.page``.
"""
