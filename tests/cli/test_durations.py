"""Laws of durations on the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.cli.durations import parse_duration


@given(st.integers(0, 9), st.integers(0, 99), st.integers(0, 999), st.integers(0, 9999))
def test_parts_add_up(days, hours, minutes, seconds):
    total = days * 86_400 + hours * 3_600 + minutes * 60 + seconds
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    if total:
        assert parse_duration(text) == parse_duration(str(total)) == total
    else:
        with pytest.raises(ValueError, match="90m"):
            parse_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("2h", 7200), ("3600", 3600), ("1.5H", 5400), (" 1s ", 1)]
)
def test_a_duration_is_read_as_people_write_it(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "-5m", "soon", "1m2h", "1e3", "nan", "inf", "5 x"])
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="90m, 2h"):
        parse_duration(text)
