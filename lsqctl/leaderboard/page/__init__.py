"""The board as one HTML file: tables, charts and runs' histories, without a network or a framework.

``content`` gathers what is shown, ``drawing`` places charts, ``rendering`` fills ``page.html`` with
``page.css`` and ``page.js``.
"""
