"""Charts of Top-1: against size, bit operations and bits, by network and by a recipe's key."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from lsqctl.leaderboard.board import Table
from lsqctl.leaderboard.charts.chart import POINT_STYLES, Axis, Chart, Point, Series, SeriesStyle
from lsqctl.leaderboard.entries import undominated
from lsqctl.leaderboard.rank import Cost
from lsqctl.leaderboard.schema import Entry
from lsqctl.text import sanitize

TOP1_AXIS = Axis("Top-1 %")
_STYLE_LABELS: dict[SeriesStyle, str] = {
    "local": "local runs",
    "mixed": "local runs, bits by layer",
    "published": "published rows",
    "full": "full precision",
}
COST_UNITS: dict[Cost, tuple[str, tuple[tuple[float, str], ...]]] = {
    "size_bytes": ("size", ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))),
    "gbops": ("bit operations an image", ((1e3, "T"), (1.0, "G"), (1e-3, "M"))),
}


def series_style(entry: Entry) -> SeriesStyle:
    """Return how the point of a row looks."""
    if entry.is_full_precision:
        return "full"
    if not entry.is_local:
        return "published"
    return "mixed" if entry.mixed else "local"


def cost_unit(table: Table, cost: Cost) -> tuple[float, str]:
    """Return the unit that a table's costs read best in, as a number and its name."""
    values = sorted(value for row in table.rows if (value := getattr(row, cost)))
    middle = values[len(values) // 2] if values else 0.0
    units = COST_UNITS[cost][1]
    return next((unit for unit in units if middle >= unit[0]), units[-1])


def accuracy_by_cost(table: Table, cost: Cost) -> Chart:
    """Return Top-1 against a cost: local runs, published rows, and the Pareto front of this cost.

    Local runs whose layers have bits of their own, as `recipe bits` gives them, look otherwise. On
    the front are the rows that are Pareto-optimal by the rule of the board's column. Rows in full
    precision stand aside from it, as they have no rank.
    """
    unit, name = cost_unit(table, cost)
    rows = [(number, item) for number, item in enumerate(table.rows) if getattr(item, cost)]
    groups = [_point_series(rows, style, cost, unit) for style in POINT_STYLES]
    front_points = _front(table.rows, cost, unit)
    staircase = Series("Pareto front", front_points, "front")
    cost_name = COST_UNITS[cost][0]
    series = tuple(item for item in (staircase, *groups) if item.points)
    return Chart(
        f"Top-1 against {cost_name}",
        Axis(
            f"{cost_name}, {name}{'' if cost == 'size_bytes' else 'BOPs'}",
            log=_has_wide_range(series),
        ),
        TOP1_AXIS,
        series,
        f"{sum(len(item.points) for item in groups)} rows of {sanitize(table.dataset)}; "
        f"{len(front_points)} of them are on the Pareto front.",
    )


def _front(rows: Iterable[Entry], cost: Cost, unit: float) -> tuple[Point, ...]:
    """Return the points of the rows that no other dominates, the best at each cost."""
    best: dict[float, float] = {}
    for row in undominated(rows, cost):
        if not row.is_full_precision:
            x = getattr(row, cost) / unit
            best[x] = max(row.top1_mean, best.get(x, row.top1_mean))
    return tuple(best.items())


def _point_series(
    rows: Sequence[tuple[int, Entry]], style: SeriesStyle, cost: Cost, unit: float
) -> Series:
    numbered_rows = [(number, row) for number, row in rows if series_style(row) == style]
    return Series(
        _STYLE_LABELS[style],
        tuple((getattr(row, cost) / unit, row.top1_mean) for _, row in numbered_rows),
        style,
        labels=tuple(sanitize(row.model) for _, row in numbered_rows),
        short_labels=tuple(
            "mixed" if row.mixed else f"W{row.weight_bits}A{row.act_bits}"
            for _, row in numbered_rows
        ),
        rows=tuple(number for number, _ in numbered_rows),
        intervals=tuple(map(ci95, (row for _, row in numbered_rows))),
    )


def _has_wide_range(series: Iterable[Series]) -> bool:
    xs = [x for line in series for x, _ in line.points]
    return bool(xs) and max(xs) >= 5 * min(xs)


def ci95(entry: Entry) -> Point | None:
    """Return the 95 % interval of a row, where it is known."""
    if entry.top1_ci95_lo is None or entry.top1_ci95_hi is None:
        return None
    return entry.top1_ci95_lo, entry.top1_ci95_hi


def accuracy_by_bits(table: Table, *, max_charts: int = 12) -> list[Chart]:
    """Return one chart a network: Top-1 against bits, a line a method, a level for full precision.

    Lines join rows with equal bits for weights and activations; others stand by themselves at
    their weight bits, and those with bits by layer, which are no one number, are left out. The
    networks with the most rows come first, ``max_charts`` of them.
    """
    networks: dict[str, list[tuple[int, Entry]]] = defaultdict(list)
    for number, row in enumerate(table.rows):
        if row.arch:
            networks[row.arch].append((number, row))
    quantized = {
        arch: rows
        for arch, rows in networks.items()
        if any(not row.is_full_precision and not row.mixed for _, row in rows)
    }
    ordered = sorted(quantized, key=lambda arch: (-len(quantized[arch]), arch))[:max_charts]
    colors = _method_colors(table)
    return [_network_chart(arch, quantized[arch], colors) for arch in sorted(ordered)]


def _method_colors(table: Table) -> dict[str, int]:
    """Return a colour for each method of published rows, the commonest first."""
    counted = Counter(row.method or "" for row in table.rows if not row.is_local)
    ordered = sorted(counted, key=lambda method: (-counted[method], method))
    return {method: color_index for color_index, method in enumerate(ordered)}


def _network_chart(
    arch: str, rows: Sequence[tuple[int, Entry]], colors: Mapping[str, int]
) -> Chart:
    methods: dict[tuple[bool, str], list[tuple[int, Entry]]] = defaultdict(list)
    for number, row in rows:
        if not row.is_full_precision and not row.mixed:
            methods[not row.is_local, row.method or ""].append((number, row))
    series = [
        line
        for key, numbered_rows in sorted(methods.items())
        for line in _method_series(key, numbered_rows, colors.get(key[1], 0) if key[0] else 0)
    ]
    bits = sorted({point[0] for item in series for point in item.points})
    levels = [
        Series(f"full precision {value:.2f}", ((bits[0], value), (bits[-1], value)), "rule")
        for value in _full_precision_levels([row for _, row in rows])
    ]
    return Chart(
        sanitize(arch),
        Axis("weight bits", ticks=tuple(bits)),
        TOP1_AXIS,
        (*levels, *series),
        f"Top-1 of {sanitize(arch)} at {', '.join(f'{item:g}' for item in bits)} bits.",
    )


def _method_series(
    key: tuple[bool, str], numbered_rows: Sequence[tuple[int, Entry]], color_index: int
) -> Iterable[Series]:
    published, method = key
    style: SeriesStyle = "published" if published else "local"
    name = sanitize(method) or _STYLE_LABELS[style]
    equal = [pair for pair in numbered_rows if pair[1].weight_bits == pair[1].act_bits]
    mixed = [pair for pair in numbered_rows if pair[1].weight_bits != pair[1].act_bits]
    for pairs, joined in ((equal, True), (mixed, False)):
        ordered = sorted(pairs, key=lambda pair: (pair[1].weight_bits, -pair[1].top1_mean))
        if ordered:
            yield Series(
                name,
                tuple((float(row.weight_bits), row.top1_mean) for _, row in ordered),
                style,
                labels=tuple(sanitize(row.model) for _, row in ordered),
                rows=tuple(number for number, _ in ordered),
                intervals=tuple(ci95(row) for _, row in ordered),
                joined=joined,
                color_index=color_index,
            )


def _full_precision_levels(rows: Sequence[Entry]) -> list[float]:
    """Return the level that most rows start from: of local runs where there are any."""
    has_local = any(row.is_local for row in rows)
    starts = [
        row.top1_mean if row.is_full_precision else row.fp32_top1
        for row in rows
        if row.is_local == has_local and (row.is_full_precision or row.fp32_top1 is not None)
    ]
    counted = Counter(round(start, 2) for start in starts if start is not None)
    return [max(counted, key=lambda value: (counted[value], value))] if counted else []


def network_accuracy_by_cost(table: Table, cost: Cost) -> Chart:
    """Return Top-1 against a cost, a line a network, each point marked by its bits.

    The LSQ paper's Figure 3 (Esser et al., 2020) for the rows whose cost is known.
    """
    unit, name = cost_unit(table, cost)
    networks: dict[tuple[bool, str], list[Entry]] = defaultdict(list)
    for row in table.rows:
        if getattr(row, cost):
            networks[not row.is_local, row.arch or row.model].append(row)
    series = tuple(
        _network_series(
            arch,
            sorted(rows, key=lambda row: (float(getattr(row, cost)), -row.top1_mean)),
            cost,
            unit,
        )
        for (_, arch), rows in sorted(networks.items())
    )
    xs = [x for line in series for x, _ in line.points]
    cost_name = COST_UNITS[cost][0]
    return Chart(
        f"{sanitize(table.dataset)}: Top-1 against {cost_name}",
        Axis(f"{cost_name}, {name}{'' if cost == 'size_bytes' else 'BOPs'}", log=_is_wide(xs)),
        TOP1_AXIS,
        series,
    )


def _network_series(arch: str, rows: Sequence[Entry], cost: Cost, unit: float) -> Series:
    return Series(
        sanitize(arch),
        tuple((getattr(row, cost) / unit, row.top1_mean) for row in rows),
        "local" if rows[0].is_local else "published",
        labels=tuple(sanitize(row.model) for row in rows),
        short_labels=tuple(_bits_text(row) for row in rows),
        intervals=tuple(map(ci95, rows)),
        joined=True,
    )


def _bits_text(row: Entry) -> str:
    if row.is_full_precision:
        return "FP"
    if row.mixed:
        return "mixed"
    return (
        str(row.weight_bits)
        if row.weight_bits == row.act_bits
        else f"{row.weight_bits}/{row.act_bits}"
    )


def _is_wide(xs: Sequence[float]) -> bool:
    return bool(xs) and max(xs) >= 5 * min(xs)


def accuracy_by_key(
    rows: Iterable[Entry], key: str, values: Mapping[str, object], *, dataset: str
) -> Chart:
    """Return Top-1 by the value of a recipe's key, a line for each network and precision.

    ``values`` gives the value by a row's ``recipe_sha256``; rows without one are left out.
    """
    by_precision = key not in ("quant.weight_bits", "quant.act_bits")  # else it is compared
    groups: dict[tuple[str, str], list[tuple[object, Entry]]] = defaultdict(list)
    for row in rows:
        value = values.get(row.recipe_sha256 or "")
        if row.is_local and value is not None:
            precision = f"W{row.weight_bits}A{row.act_bits}" if by_precision else ""
            groups[row.arch or "", precision].append((value, row))
    distinct_values = {value for value_rows in groups.values() for value, _ in value_rows}
    ordered_values = sorted(distinct_values, key=_value_order)
    x_of_value = {value: float(number) for number, value in enumerate(ordered_values)}
    return Chart(
        f"{sanitize(dataset)}: Top-1 by {key}",
        Axis(
            key,
            ticks=tuple(x_of_value.values()),
            tick_labels=tuple(sanitize(str(item)) for item in ordered_values),
        ),
        TOP1_AXIS,
        tuple(
            _key_series(" ".join(filter(None, item)), groups[item], x_of_value)
            for item in sorted(groups)
        ),
    )


def _value_order(value: object) -> tuple[bool, float, str]:
    """Return a key that orders numbers by their size, and texts behind them."""
    number = float(value) if isinstance(value, int | float) else 0.0
    return isinstance(value, str), number, str(value)


def _key_series(
    label: str, value_rows: Sequence[tuple[object, Entry]], x_of_value: Mapping[object, float]
) -> Series:
    ordered = sorted(value_rows, key=lambda pair: (x_of_value[pair[0]], -pair[1].top1_mean))
    points: tuple[Point, ...] = tuple((x_of_value[value], row.top1_mean) for value, row in ordered)
    return Series(
        sanitize(label),
        points,
        "local",
        labels=tuple(sanitize(row.model) for _, row in ordered),
        intervals=tuple(ci95(row) for _, row in ordered),
        joined=len({x for x, _ in points}) == len(points),
    )
