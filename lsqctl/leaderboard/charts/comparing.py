"""Charts that compare: each network by size, and a recipe's key by what its values came to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from lsqctl.leaderboard.board import Entry, Table
from lsqctl.leaderboard.charts.accuracy import COSTS, TOP1, Cost, interval, unit_of
from lsqctl.leaderboard.charts.chart import Axis, Chart, Point, Series
from lsqctl.leaderboard.clean import clean


def networks_against_cost(table: Table, cost: Cost) -> Chart:
    """Return Top-1 against a cost, a line a network, each point marked by its bits.

    The LSQ paper's Figure 3 (Esser et al., 2020) for the rows whose cost is known.
    """
    unit, name = unit_of(table, cost)
    found: dict[tuple[bool, str], list[Entry]] = defaultdict(list)
    for row in table.rows:
        if getattr(row, cost):
            found[not row.own, row.arch or row.model].append(row)
    series = tuple(
        _network(
            arch,
            sorted(rows, key=lambda row: (float(getattr(row, cost)), -row.top1_mean)),
            cost,
            unit,
        )
        for (_, arch), rows in sorted(found.items())
    )
    xs = [x for one in series for x, _ in one.points]
    what = COSTS[cost][0]
    return Chart(
        f"{clean(table.dataset)}: Top-1 against {what}",
        Axis(f"{what}, {name}{'' if cost == 'size_bytes' else 'BOPs'}", log=_wide(xs)),
        TOP1,
        series,
    )


def _network(arch: str, rows: Sequence[Entry], cost: Cost, unit: float) -> Series:
    return Series(
        clean(arch),
        tuple((getattr(row, cost) / unit, row.top1_mean) for row in rows),
        "own" if rows[0].own else "published",
        labels=tuple(clean(row.model) for row in rows),
        marks=tuple(_bits(row) for row in rows),
        spans=tuple(map(interval, rows)),
        joined=True,
    )


def _bits(row: Entry) -> str:
    if row.full_precision:
        return "FP"
    return str(row.w_bits) if row.w_bits == row.a_bits else f"{row.w_bits}/{row.a_bits}"


def _wide(xs: Sequence[float]) -> bool:
    return bool(xs) and max(xs) >= 5 * min(xs)


def ablation(
    rows: Iterable[Entry], key: str, values: Mapping[str, object], *, dataset: str
) -> Chart:
    """Return Top-1 by the value of a recipe's key, a line for each network and precision.

    ``values`` gives the value by a row's ``recipe_sha256``; rows without one are left out.
    """
    groups: dict[tuple[str, str], list[tuple[object, Entry]]] = defaultdict(list)
    for row in rows:
        value = values.get(row.recipe_sha256 or "")
        if row.own and value is not None:
            group = row.arch or "", f"W{row.w_bits}A{row.a_bits}"
            groups[group].append((value, row))
    if key in ("quant.weight_bits", "quant.act_bits"):
        groups = _merged(groups)
    every = {value for found in groups.values() for value, _ in found}
    names = sorted(every, key=lambda value: (isinstance(value, str), _sortable(value)))
    places = {value: float(number) for number, value in enumerate(names)}
    return Chart(
        f"{clean(dataset)}: Top-1 by {key}",
        Axis(key, ticks=tuple(places.values()), names=tuple(clean(str(one)) for one in names)),
        TOP1,
        tuple(_ablated(" ".join(filter(None, one)), groups[one], places) for one in sorted(groups)),
    )


def _merged(
    groups: Mapping[tuple[str, str], list[tuple[object, Entry]]],
) -> defaultdict[tuple[str, str], list[tuple[object, Entry]]]:
    """Return the groups by network alone: the precision is what is compared."""
    found: defaultdict[tuple[str, str], list[tuple[object, Entry]]] = defaultdict(list)
    for (arch, _), rows in groups.items():
        found[arch, ""] += rows
    return found


def _sortable(value: object) -> tuple[float, str]:
    number = float(value) if isinstance(value, int | float) else 0.0
    return number, str(value)


def _ablated(
    label: str, found: Sequence[tuple[object, Entry]], places: Mapping[object, float]
) -> Series:
    ordered = sorted(found, key=lambda pair: (places[pair[0]], -pair[1].top1_mean))
    points: tuple[Point, ...] = tuple((places[value], row.top1_mean) for value, row in ordered)
    return Series(
        clean(label),
        points,
        "own",
        labels=tuple(clean(row.model) for _, row in ordered),
        spans=tuple(interval(row) for _, row in ordered),
        joined=len({x for x, _ in points}) == len(points),
    )
