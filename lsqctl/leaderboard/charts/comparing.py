"""Charts that compare: each network by size, and a recipe's key by what its values came to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from lsqctl.leaderboard.board import Entry, Table
from lsqctl.leaderboard.charts.accuracy import COST_UNITS, TOP1_AXIS, Cost, ci95, cost_unit
from lsqctl.leaderboard.charts.chart import Axis, Chart, Point, Series
from lsqctl.leaderboard.clean import sanitize


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
        "own" if rows[0].is_local else "published",
        labels=tuple(sanitize(row.model) for row in rows),
        short_labels=tuple(_bits_text(row) for row in rows),
        intervals=tuple(map(ci95, rows)),
        joined=True,
    )


def _bits_text(row: Entry) -> str:
    if row.is_full_precision:
        return "FP"
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
    groups: dict[tuple[str, str], list[tuple[object, Entry]]] = defaultdict(list)
    for row in rows:
        value = values.get(row.recipe_sha256 or "")
        if row.is_local and value is not None:
            group = row.arch or "", f"W{row.weight_bits}A{row.act_bits}"
            groups[group].append((value, row))
    if key in ("quant.weight_bits", "quant.act_bits"):
        groups = _merge_precisions(groups)
    distinct_values = {value for value_rows in groups.values() for value, _ in value_rows}
    ordered_values = sorted(
        distinct_values, key=lambda value: (isinstance(value, str), _value_order(value))
    )
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


def _merge_precisions(
    groups: Mapping[tuple[str, str], list[tuple[object, Entry]]],
) -> defaultdict[tuple[str, str], list[tuple[object, Entry]]]:
    """Return the groups by network alone: the precision is what is compared."""
    merged: defaultdict[tuple[str, str], list[tuple[object, Entry]]] = defaultdict(list)
    for (arch, _), rows in groups.items():
        merged[arch, ""] += rows
    return merged


def _value_order(value: object) -> tuple[float, str]:
    number = float(value) if isinstance(value, int | float) else 0.0
    return number, str(value)


def _key_series(
    label: str, value_rows: Sequence[tuple[object, Entry]], x_of_value: Mapping[object, float]
) -> Series:
    ordered = sorted(value_rows, key=lambda pair: (x_of_value[pair[0]], -pair[1].top1_mean))
    points: tuple[Point, ...] = tuple((x_of_value[value], row.top1_mean) for value, row in ordered)
    return Series(
        sanitize(label),
        points,
        "own",
        labels=tuple(sanitize(row.model) for _, row in ordered),
        intervals=tuple(ci95(row) for _, row in ordered),
        joined=len({x for x, _ in points}) == len(points),
    )
