"""`runs show --layers`: a table for people and pipes, words under it, everything for a machine."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from lsqctl.store import open_store
from tests.cli.test_terminal import ESCAPES, seen
from tests.conftest import CommandLine
from tests.services.test_layer_findings import stats
from tests.store.samples import identity, new, submit, take


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> CommandLine:
    """Two runs: one with two epochs of a conv whose numbers stand out, one with none."""
    line = CommandLine(tmp_path_factory.mktemp("layers"))
    (line.folder / ".lsqctl").mkdir(mode=0o700)
    with open_store(f"sqlite:///{line.folder}/.lsqctl/lsqctl.db") as store:
        store.workers.register(identity("w1"))
        submit(store, new("looked-at"), new("fp32"))
        first = stats(epoch=1, step=30)
        last = [
            stats(
                "layer1.0.conv1.input_quantizer", signed=False, bits=4, codes_used=16, n_codes=16
            ),
            stats(codes_used=66, clamped=3, oscillation_rate=0.4),
            stats("[b]fc\x1b[2J.weight_quantizer", step_size_min=0.01, step_size_max=0.2),
        ]
        lease = take(store).lease
        store.metrics.log(lease, [first, *last])
        reasons = {"fc": "its weight has 32 bits", "head": "its weight has 32 bits"}
        store.queue.record_environment(lease, {"kernel": "integer", "float_layers": reasons})
    return line


def test_a_pipe_gets_a_line_a_quantizer_and_a_line_a_finding(line):
    done = line("runs", "show", "looked-at", "--layers")
    rows = [text.split("\t") for text in done.stdout.splitlines()]
    assert rows[0] == ["layer1.0.conv1", "A4", "0.1", "1.00", "16/16", "1", "", ""]
    assert rows[1] == ["layer1.0.conv1", "W8", "0.1", "1.00", "66/256", "1", "40.00", "3"]
    assert rows[2][:3] == ["[b]fc\\x1b[2J", "W8", "0.01–0.2"]
    assert [row[0] for row in rows[3:]] == [
        "the step of layer1.0.conv1 was clamped to its floor 3 times",
        "layer1.0.conv1 uses 66 of 256 codes",
        "40 % of the weights of layer1.0.conv1 oscillate",
    ]
    assert "after epoch 3, step 60" in done.stderr
    assert "layers compute in integers; in floats fc, head: its weight has 32 bits" in done.stderr


@pytest.mark.parametrize("columns", [40, 80])
def test_a_terminal_is_never_too_narrow(line, columns):
    text = ESCAPES.sub("", seen(line, columns, "runs", "show", "looked-at", "--layers"))
    assert max(cell_len(one.rstrip()) for one in text.splitlines()) <= columns
    assert "layer1.0.conv1" in text
    assert ("clamped" in text.splitlines()[0]) is (columns == 80)
    assert "uses 66 of 256 codes" in " ".join(text.split())


def test_a_machine_gets_every_epoch(line):
    found = json.loads(line("runs", "show", "looked-at", "--layers", "--json").stdout)
    assert [one["epoch"] for one in found["epochs"]] == [1, 3, 3, 3]
    assert len(found["layers"]) == 3
    assert (found["kernel"], [*found["float_layers"]]) == ("integer", ["fc", "head"])
    assert [one["rule"] for one in found["findings"]] == ["clamped", "few-codes", "oscillating"]


def test_a_run_without_quantizers_says_why(line):
    done = line("runs", "show", "fp32", "--layers")
    assert done.stdout == ""
    assert "it is full precision, has not begun yet" in done.stderr
