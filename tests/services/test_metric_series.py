"""`runs metrics`: each measured number of runs, read back by other tools as it was stored."""

from __future__ import annotations

import csv
import json
import math

import pytest

import lsqctl
from lsqctl.services.metric_series import MetricPoint, metric_points, write_points
from lsqctl.services.workspace import open_workspace
from lsqctl.settings import load_settings


@pytest.fixture
def recorded(here):
    for seed in (0, 1):
        with lsqctl.record("mine/net", dataset="digits", seed=seed) as run:
            run.log(epoch=1, top1=50.0 + seed, loss=0.1 + 0.2)
            run.log(epoch=1, split="train", loss=1e-30)
            run.log(epoch=2, top1=60.0 + seed)
            run.finish(n_correct=1, n_total=2)
    return here


def test_every_point_comes_back_from_csv_and_json_to_the_bit(recorded):
    with open_workspace(load_settings()) as store:
        points = metric_points(store, ["@last", "@last~1"])
    rows = [*csv.DictReader(write_points(points, "csv").decode().splitlines())]
    assert [float(row["value"]) for row in rows] == [point.value for point in points]
    assert {row["seed"] for row in rows} == {"0", "1"}
    told = json.loads(recorded("runs", "metrics", "@last", "@last~1", "--format", "json").stdout)
    assert [row["value"] for row in told["points"]] == [point.value for point in points]
    assert len(points) == 8
    assert all(math.isfinite(point.value) for point in points)


def test_one_metric_of_one_split_is_chosen_and_an_unknown_one_is_one_line(recorded):
    told = recorded("runs", "metrics", "@last", "--name", "loss", "--split", "train").stdout
    header, (run_id, *row) = (line.split(",") for line in told.splitlines())
    assert header == ["run", "run_name", "seed", "name", "split", "step", "value"]
    assert row == ["mine/net", "1", "loss", "train", "1", "1e-30"]
    assert len(run_id) == 8
    told = recorded("runs", "metrics", "@last", "--name", "lost", code=2).stderr
    assert "no metric has the name `lost`; there are loss, top1" in told


def test_a_file_is_written_by_its_ending_and_over_nothing(recorded):
    recorded("runs", "metrics", "@last", "-o", "points.csv")
    told = recorded("runs", "metrics", "@last", "-o", "points.csv", code=2).stderr
    assert "exists; --force overwrites it" in told
    assert "no format ends so" in recorded("runs", "metrics", "@last", "-o", "p.x", code=2).stderr
    assert (
        "name a file" in recorded("runs", "metrics", "@last", "--format", "parquet", code=2).stderr
    )


def test_parquet_is_read_back_by_pyarrow(recorded):
    parquet = pytest.importorskip("pyarrow.parquet")
    recorded("runs", "metrics", "@last", "-o", "points.parquet")
    table = parquet.read_table(recorded.folder / "points.parquet")
    with open_workspace(load_settings()) as store:
        points = metric_points(store, ["@last"])
    assert table["value"].to_pylist() == [point.value for point in points]
    assert str(table.schema.field("step").type) == "int64"


def test_a_run_is_shown_with_its_moments_in_utc(recorded):
    told = recorded("runs", "show", "@last").stdout
    assert all(f"{word}\t20" in told for word in ("created", "started", "finished"))
    assert told.count(" UTC (") == 3


def test_a_number_that_json_has_not_is_a_text_there(recorded):
    point = MetricPoint("a", "mine", 0, "loss", "train", 1, math.nan)
    (row,) = json.loads(write_points([point], "json"), parse_constant=pytest.fail)["points"]
    assert row["value"] == "nan"
