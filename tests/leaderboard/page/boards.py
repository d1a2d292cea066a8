"""Boards to make pages of: a plain one, a large one, and one of names that want to be code."""

from __future__ import annotations

from lsqctl.events import Metric, QuantizerStats
from lsqctl.leaderboard.board import Board
from lsqctl.leaderboard.charts.history import step_size_charts, training_curves
from lsqctl.leaderboard.page.rendering import RunHistory
from lsqctl.leaderboard.rank import rank
from tests.leaderboard.rows import published_result, row

_PIECES = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' autofocus onfocus=alert(1) x='",
    "{{ 7 * 7 }}{% raw %}",
    "</style><style>*{display:none}",
    "<!--",
    "]]>",
    "&lt;b&gt;&amp;",
    "javascript:alert(1)",
    "\x1b[2J\x1b[31mred",
    "\u202egnp.exe",
    "\u2066a\u2069\u200b",
    '=HYPERLINK("http://x")',
    "../../etc/passwd",
    "__proto__",
    "constructor",
    "a\u2028b",
    "%3Cscript%3E",
)
HOSTILE = [f"{piece}{number}" for number in range(10) for piece in _PIECES]


def plain_board() -> Board:
    """Own runs at four precisions on two datasets, and published rows."""
    rows = [
        row(
            f"{dataset}/net-w{bits}a{bits}",
            seed,
            470 + 8 * bits + seed,
            dataset=dataset,
            weight_bits=bits,
            act_bits=bits,
            size_bytes=10_000 * bits,
            bops=10**9 * bits * bits,
            fp32_n_correct=530,
            fp32_n_total=540,
        )
        for dataset in ("cifar10", "digits")
        for bits in (2, 3, 4, 8)
        for seed in (0, 1)
    ]
    return rank(
        rows,
        [
            published_result("Published W4A4", 93.0),
            published_result("Published W2A2", 88.0, weight_bits=2),
        ],
    )


def large_board(own: int = 900, published: int = 100) -> Board:
    """A thousand rows with names of usual length."""
    rows = [
        row(
            f"cifar10/resnet20-lsq-lr{number}-w{2 + number % 3}a4",
            0,
            8_500 + number % 700,
            weight_bits=2 + number % 3,
            n_total=10_000,
            size_bytes=70_000 + 97 * number,
            bops=10**9 + 10**6 * number,
            fp32_n_correct=9_173,
            fp32_n_total=10_000,
        )
        for number in range(own)
    ]
    published_results = [
        published_result(f"ResNet-20 method {n} W4A4", 80 + n / 10) for n in range(published)
    ]
    return rank(rows, published_results)


def hostile_board() -> Board:
    """Two hundred rows of hostile names, half of them published with a hostile address."""
    half = len(HOSTILE) // 2
    rows = [
        row(
            name,
            0,
            400 + n,
            recipe_sha256=f"r{n}",
            run_id=f"run{n}",
            size_bytes=1000 + n,
            bops=10**9,
            arch=name,
        )
        for n, name in enumerate(HOSTILE[:half])
    ]
    addresses = (
        "javascript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        'https://example.org/"onclick="alert(1)',
    )
    published_results = [
        published_result(name, 50 + n / 10, source_url=addresses[n % 3], method=name)
        for n, name in enumerate(HOSTILE[half:])
    ]
    return rank(rows, published_results)


def history(run_id: str, model: str, layers: int = 4, epochs: int = 100) -> RunHistory:
    """A run of so many epochs: accuracy that rises, a loss that falls, steps that drift."""
    metrics = [
        metric
        for step in range(1, epochs + 1)
        for metric in (
            Metric("top1", "val", step * 10, 90 - 60 / step),
            Metric("epoch_loss", "train", step * 10, 2 / step),
        )
    ]
    stats = [
        QuantizerStats(
            f"layer{layer}.{kind}_quantizer",
            kind,
            step,
            step * 10,
            4,
            True,
            size,
            size,
            size,
            0,
            16,
            16,
            100,
        )
        for layer in range(layers)
        for kind in ("weight", "input")
        for step in range(epochs)
        if (size := 0.1 + 0.001 * step * (layer + 1))
    ]
    return RunHistory(run_id, model, (*training_curves(metrics), *step_size_charts(stats)))
