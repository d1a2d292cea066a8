"""Charts of a board's table: accuracy against size, against bit operations, and against bits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from lsqctl.leaderboard.board import Entry, Table
from lsqctl.leaderboard.charts.chart import POINTS, Axis, Chart, Look, Point, Series
from lsqctl.leaderboard.clean import clean

Cost = Literal["size_bytes", "gbops"]
TOP1 = Axis("Top-1 %")
_NAMES: dict[Look, str] = {
    "own": "own runs",
    "published": "published rows",
    "full": "full precision",
}
COSTS: dict[Cost, tuple[str, tuple[tuple[float, str], ...]]] = {
    "size_bytes": ("size", ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))),
    "gbops": ("bit operations an image", ((1e3, "T"), (1.0, "G"), (1e-3, "M"))),
}
_FULL_BITS = 32


def look_of(entry: Entry) -> Look:
    """Return how the point of a row looks."""
    if entry.full_precision:
        return "full"
    return "own" if entry.own else "published"


def unit_of(table: Table, cost: Cost) -> tuple[float, str]:
    """Return the unit that a table's costs read best in, as a number and its name."""
    values = sorted(value for row in table.rows if (value := getattr(row, cost)))
    middle = values[len(values) // 2] if values else 0.0
    units = COSTS[cost][1]
    return next((unit for unit in units if middle >= unit[0]), units[-1])


def against_cost(table: Table, cost: Cost) -> Chart:
    """Return Top-1 against a cost: own runs, published rows, and the front of the means.

    Rows in full precision stand aside from the front, as they have no rank.
    """
    unit, name = unit_of(table, cost)
    rows = [(number, one) for number, one in enumerate(table.rows) if getattr(one, cost)]
    groups = [_points(rows, look, cost, unit) for look in POINTS]
    quantized = [group for group in groups if group.look != "full"]
    steps = front(point for group in quantized for point in group.points)
    staircase = Series("Pareto front of the means", tuple(steps), "front")
    what = COSTS[cost][0]
    series = tuple(one for one in (staircase, *groups) if one.points)
    return Chart(
        f"Top-1 against {what}",
        Axis(f"{what}, {name}{'' if cost == 'size_bytes' else 'BOPs'}", log=_wide(series)),
        TOP1,
        series,
        f"{sum(len(one.points) for one in groups)} rows of {clean(table.dataset)}; "
        f"{len(steps)} of them are on the Pareto front.",
    )


def front(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other is cheaper and better than: x and y both rise."""
    found: list[Point] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found


def _points(rows: Sequence[tuple[int, Entry]], look: Look, cost: Cost, unit: float) -> Series:
    chosen = [(number, one) for number, one in rows if look_of(one) == look]
    return Series(
        _NAMES[look],
        tuple((getattr(one, cost) / unit, one.top1_mean) for _, one in chosen),
        look,
        labels=tuple(clean(one.model) for _, one in chosen),
        rows=tuple(number for number, _ in chosen),
        spans=tuple(map(interval, (one for _, one in chosen))),
    )


def _wide(series: Iterable[Series]) -> bool:
    xs = [x for one in series for x, _ in one.points]
    return bool(xs) and max(xs) >= 5 * min(xs)


def interval(entry: Entry) -> Point | None:
    """Return the 95 % interval of a row, where it is known."""
    if entry.top1_ci95_lo is None or entry.top1_ci95_hi is None:
        return None
    return entry.top1_ci95_lo, entry.top1_ci95_hi


def against_bits(table: Table, *, most: int = 12) -> list[Chart]:
    """Return one chart a network: Top-1 against bits, a line a method, a level for full precision.

    Lines join rows with equal bits for weights and activations; others stand by themselves at
    their weight bits. The networks with the most rows come first, ``most`` of them.
    """
    networks: dict[str, list[tuple[int, Entry]]] = defaultdict(list)
    for number, row in enumerate(table.rows):
        if row.arch:
            networks[row.arch].append((number, row))
    quantized = {
        arch: rows
        for arch, rows in networks.items()
        if any(not row.full_precision for _, row in rows)
    }
    ordered = sorted(quantized, key=lambda arch: (-len(quantized[arch]), arch))[:most]
    tones = _tones(table)
    return [_of_network(arch, quantized[arch], tones) for arch in sorted(ordered)]


def _tones(table: Table) -> dict[str, int]:
    """Return a colour for each method of published rows, the commonest first."""
    counted = Counter(row.method or "" for row in table.rows if not row.own)
    ordered = sorted(counted, key=lambda method: (-counted[method], method))
    return {method: tone for tone, method in enumerate(ordered)}


def _of_network(arch: str, rows: Sequence[tuple[int, Entry]], tones: Mapping[str, int]) -> Chart:
    methods: dict[tuple[bool, str], list[tuple[int, Entry]]] = defaultdict(list)
    for number, row in rows:
        if not row.full_precision:
            methods[not row.own, row.method or ""].append((number, row))
    series = [
        line
        for key, found in sorted(methods.items())
        for line in _of_method(key, found, tones.get(key[1], 0) if key[0] else 0)
    ]
    bits = sorted({point[0] for one in series for point in one.points})
    levels = [
        Series(f"full precision {value:.2f}", ((bits[0], value), (bits[-1], value)), "rule")
        for value in _full_precision([row for _, row in rows])
    ]
    return Chart(
        clean(arch),
        Axis("weight bits", ticks=tuple(bits)),
        TOP1,
        (*levels, *series),
        f"Top-1 of {clean(arch)} at {', '.join(f'{one:g}' for one in bits)} bits.",
    )


def _of_method(
    key: tuple[bool, str], found: Sequence[tuple[int, Entry]], tone: int
) -> Iterable[Series]:
    published, method = key
    look: Look = "published" if published else "own"
    name = clean(method) or _NAMES[look]
    equal = [pair for pair in found if pair[1].w_bits == pair[1].a_bits]
    mixed = [pair for pair in found if pair[1].w_bits != pair[1].a_bits]
    for pairs, joined in ((equal, True), (mixed, False)):
        ordered = sorted(pairs, key=lambda pair: (pair[1].w_bits, -pair[1].top1_mean))
        if ordered:
            yield Series(
                name,
                tuple((float(one.w_bits), one.top1_mean) for _, one in ordered),
                look,
                labels=tuple(clean(one.model) for _, one in ordered),
                rows=tuple(number for number, _ in ordered),
                spans=tuple(interval(one) for _, one in ordered),
                joined=joined,
                tone=tone,
            )


def _full_precision(rows: Sequence[Entry]) -> list[float]:
    """Return the level that most rows start from: of own runs where there are any."""
    own = any(row.own for row in rows)
    starts = [
        row.top1_mean if row.full_precision else row.fp32_top1
        for row in rows
        if row.own == own and (row.full_precision or row.fp32_top1 is not None)
    ]
    counted = Counter(round(one, 2) for one in starts if one is not None)
    return [max(counted, key=lambda value: (counted[value], value))] if counted else []
