"""Charts: fronts, ticks, thinning and drawings, as laws."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lsqctl.events import Metric, QuantizerStats
from lsqctl.leaderboard.charts.accuracy import (
    accuracy_by_bits,
    accuracy_by_cost,
    accuracy_by_key,
    network_accuracy_by_cost,
)
from lsqctl.leaderboard.charts.chart import (
    Axis,
    Chart,
    Scale,
    Series,
    axis_ranges,
    format_ticks,
    ticks,
)
from lsqctl.leaderboard.charts.history import downsample, step_size_charts, training_curves
from lsqctl.leaderboard.charts.matplotlib_backend import _draw_chart, draw_file
from lsqctl.leaderboard.charts.terminal import draw_lines
from lsqctl.leaderboard.rank import rank
from tests.leaderboard.rows import published_result, row

numbers = st.floats(1e-3, 1e6)


def table(**changes):
    rows = [
        row("a", 0, 500, size_bytes=20_000, bops=10**9, weight_bits=2, act_bits=2, **changes),
        row("b", 0, 520, size_bytes=30_000, bops=2 * 10**9, weight_bits=4, act_bits=4, **changes),
        row("c", 0, 510, size_bytes=40_000, bops=3 * 10**9, weight_bits=8, act_bits=8, **changes),
        row("fp", 0, 530, size_bytes=300_000, bops=10**12, weight_bits=32, act_bits=32, **changes),
    ]
    return rank(rows, [published_result("other", 96.0, weight_bits=3, act_bits=3)]).tables[0]


@pytest.mark.parametrize("cost", ["size_bytes", "gbops"])
def test_the_front_of_a_chart_joins_the_rows_that_are_pareto_optimal_by_its_cost(cost):
    rows = [
        row(f"w{n}", 0, correct, size_bytes=1000 * n, bops=10**9 * n, weight_bits=n, n_total=10_000)
        for n, correct in ((2, 8000), (3, 8010), (4, 8500), (5, 8400), (8, 9000))
    ]
    found = rank(rows, [], pareto=cost).tables[0]
    (front,) = [one for one in accuracy_by_cost(found, cost).series if one.style == "front"]
    marked = sorted(one.top1_mean for one in found.rows if one.pareto_optimal)
    assert [y for _, y in front.points] == marked == [80.0, 85.0, 90.0]


@given(numbers, numbers, st.booleans())
def test_ticks_are_few_round_and_inside(a, b, log):
    low, high = sorted((a, b))
    if high <= low * 1.01:
        high = low * 1.5
    found = ticks(low, high, Axis("x", log=log))
    assert 1 <= len(found) <= 8
    assert all(low * 0.9999999 <= tick <= high * 1.0000001 for tick in found)
    assert len(set(format_ticks(found))) == len(found)


def test_a_scale_puts_its_ends_at_its_ends():
    for log in (False, True):
        scale = Scale(2.0, 200.0, 300.0, -250.0, log)
        assert scale.to_pixel(2.0) == 300.0
        assert scale.to_pixel(200.0) == pytest.approx(50.0)
    assert Scale(1, 100, 0, 100, log=True).to_pixel(10) == pytest.approx(50)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e3, 1e3)), min_size=3, max_size=400))
def test_a_thinned_line_keeps_its_ends_and_only_points_of_its_own(found):
    ordered = sorted(found)
    kept = downsample(ordered, 60)
    assert len(kept) <= 60
    assert (kept[0], kept[-1]) == (ordered[0], ordered[-1])
    assert set(kept) <= set(ordered)
    assert list(kept) == sorted(kept, key=lambda point: point[0])


def test_a_spike_survives_thinning():
    flat = [(float(n), 1.0 if n != 1234 else 50.0) for n in range(5000)]
    assert (1234.0, 50.0) in downsample(flat, 60)


def test_accuracy_against_size_shows_own_published_and_full_precision_apart():
    chart = accuracy_by_cost(table(), "size_bytes")
    looks = {one.style: one for one in chart.series}
    assert set(looks) == {"front", "local", "full"}  # the published row has no size
    assert chart.x.title.endswith("kB")
    assert looks["front"].points == ((20.0, 100 * 500 / 540),)  # the others tie, and cost more
    assert looks["local"].labels[0] == "b"
    assert [table().rows[n].model for n in looks["local"].rows] == list(looks["local"].labels)


def test_networks_with_bits_by_layer_stand_apart_and_on_the_front_where_they_are_optimal():
    rows = [
        row("w4", 0, 500, size_bytes=30_000, bops=3 * 10**9),
        row("w2", 0, 400, size_bytes=15_000, bops=10**9, weight_bits=2, act_bits=2),
        row("budget", 0, 520, size_bytes=22_000, bops=2 * 10**9, mixed=True),
    ]
    (found,) = rank(rows).tables
    chart = accuracy_by_cost(found, "size_bytes")
    front, local, mixed = chart.series
    assert (local.style, mixed.style) == ("local", "mixed")
    assert (mixed.labels, mixed.short_labels) == (("budget",), ("mixed",))
    assert mixed.points[0] in front.points
    assert local.points[local.labels.index("w4")] not in front.points
    (by_bits,) = accuracy_by_bits(found)
    assert "budget" not in [label for series in by_bits.series for label in series.labels]
    assert "■" in "".join(draw_lines(chart))


def test_accuracy_against_bits_has_a_line_a_method_and_the_full_precision_level():
    (chart,) = accuracy_by_bits(table(fp32_n_correct=530, fp32_n_total=540))
    assert [one.style for one in chart.series] == ["rule", "local", "published"]
    rule, own, _ = chart.series
    assert rule.label == "full precision 98.15"
    assert [x for x, _ in own.points] == [2, 4, 8]
    assert own.joined


def test_mixed_bits_stand_beside_the_line():
    mixed = [
        row("m", 0, 515, weight_bits=3, act_bits=4),
        row("n", 0, 510, weight_bits=2, act_bits=2),
    ]
    (chart,) = accuracy_by_bits(rank(mixed).tables[0])
    assert [(one.points[0][0], one.joined) for one in chart.series] == [(2, True), (3, False)]


def test_nan_and_infinity_are_left_out_of_curves():
    metrics = [
        Metric("top1", "val", n, value) for n, value in enumerate((10.0, math.nan, math.inf, 20.0))
    ]
    (chart,) = training_curves(metrics)
    assert chart.series[0].points == ((0.0, 10.0), (3.0, 20.0))


def stats(step: int, size: float, kind: str = "weight") -> QuantizerStats:
    return QuantizerStats(
        f"layer1.conv1.{kind}_quantizer",
        kind,
        step,
        step,
        4,
        True,
        size,
        size,
        size,
        0.1,
        16,
        16,
        100,
    )


def test_step_sizes_are_shown_as_shares_of_the_first():
    (chart,) = step_size_charts([stats(0, 0.5), stats(10, 0.25), stats(20, 1.0)])
    assert chart.series[0].points == ((0.0, 1.0), (10.0, 0.5), (20.0, 2.0))
    assert chart.series[0].label == "layer1.conv1"


def test_an_ablation_orders_numbers_as_numbers_and_parts_networks():
    entries = [one for one in table().rows if one.is_local]
    values = {
        one.recipe_sha256: value for one, value in zip(entries, (10, 9, 100, None), strict=False)
    }
    chart = accuracy_by_key(entries, "optim.lr", values, dataset="digits")
    assert chart.x.tick_labels == ("9", "10", "100")
    assert len(chart.series) == 3  # W2A2, W4A4, W8A8


def test_the_lines_of_a_terminal_chart_fit_its_width():
    for width in (40, 80, 200):
        drawn = draw_lines(network_accuracy_by_cost(table(), "size_bytes"), width=width)
        assert max(map(len, drawn)) <= width
        assert sum(line.count("●") for line in drawn[:-1]) == 4


def test_a_legend_of_many_lines_wraps():
    series = tuple(Series(f"layer{n}.conv", ((0.0, 1.0), (9.0, n)), "curve") for n in range(20))
    drawn = draw_lines(Chart("t", Axis("x"), Axis("y"), series), width=50)
    assert max(map(len, drawn)) <= 50
    assert sum(line.count("layer") for line in drawn) == 20


def curves(count):
    series = tuple(Series(f"layer{n}", ((0.0, 1.0), (9.0, n)), "curve") for n in range(count))
    return Chart("t", Axis("x"), Axis("y"), series)


@pytest.mark.parametrize("count", [8, 20])
def test_no_two_named_lines_of_a_plot_look_alike(count):
    axes = Figure().subplots()
    _draw_chart(axes, curves(count), titled=False)
    drawn = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(drawn) == count
    assert len(axes.get_legend().texts) == count


def test_of_lines_too_many_to_name_those_that_end_highest_and_lowest_are_named():
    axes = Figure().subplots()
    _draw_chart(axes, curves(40), titled=False)
    assert axes.get_legend() is None
    assert {text.get_text() for text in axes.texts} == {"layer0", "layer39"}


def test_lines_that_look_alike_in_a_terminal_are_told_apart_by_where_they_end():
    drawn = "\n".join(draw_lines(curves(8)))
    assert all(f"layer{n} → {n}" in drawn for n in range(8))
    assert "→" not in "\n".join(draw_lines(curves(3)))


def test_a_chart_of_one_point_and_of_equal_points_is_drawn():
    for found in (((1.0, 1.0),), ((1.0, 1.0), (1.0, 1.0)), ((0.0, 0.0),)):
        chart = Chart("t", Axis("x"), Axis("y"), (Series("s", found, "local"),))
        assert draw_lines(chart)
        (x_low, x_high), _ = axis_ranges(chart)
        assert x_low < x_high


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_the_same_charts_give_the_same_file(ending):
    charts = [network_accuracy_by_cost(table(), "size_bytes"), *accuracy_by_bits(table())]
    first = draw_file(charts, ending)
    assert draw_file(charts, ending) == first
    start = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[ending]
    assert first.startswith(start)


def test_a_plot_shows_hostile_names_as_they_are():
    hostile = replace(accuracy_by_bits(table())[0], title="$\\frac{a}$ <script>")
    svg = draw_file([hostile, hostile], "svg").decode()
    assert ET.fromstring(svg).tag.endswith("svg")
    assert "<script" not in svg
