"""The board as one HTML file: tables, charts and runs' histories, without a network or a framework.

``svg_layout`` places charts, ``rendering`` gathers what is shown and fills ``page.html`` with
``page.css`` and ``page.js``.
"""
