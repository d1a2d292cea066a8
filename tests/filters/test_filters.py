"""The filter language: it prints as it parses, refuses with the place, and judges two-valued."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.errors import FilterError
from lsqctl.filters.evaluate import Undecidable, fold_case, matches
from lsqctl.filters.expression import (
    And,
    Comparison,
    Not,
    Or,
    columns_of,
    split_conjunction,
    to_text,
)
from lsqctl.filters.parser import MAX_LENGTH, parse, parse_time

from .expressions import COLUMNS, TEXTS, expressions


@given(expressions())
def test_a_printed_filter_parses_to_itself(tree):
    assert parse(to_text(tree), COLUMNS) == tree


@given(st.text(max_size=30) | st.text("()'\"andornotweight_bits =<>!~,.0123456789", max_size=30))
def test_any_text_is_a_filter_or_a_refusal_with_its_place(text):
    try:
        tree = parse(text, COLUMNS)
    except FilterError as error:
        (fault,) = error.diagnostics
        assert fault.code in ("F001", "F002", "F003", "F004")
        assert 1 <= fault.position.column <= len(text) + 1
    else:
        assert parse(to_text(tree), COLUMNS) == tree


def of(text):
    return parse(text, COLUMNS)


def test_and_binds_closer_than_or_and_not_closest():
    a, b, c = (Comparison("weight_bits", "=", (n,)) for n in (1, 2, 3))
    assert of("weight_bits = 1 or weight_bits = 2 and not weight_bits = 3") == Or(
        (a, And((b, Not(c))))
    )
    assert of("(weight_bits = 1 or weight_bits = 2) and weight_bits = 3") == And((Or((a, b)), c))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("weight_bits == 4", "weight_bits = 4"),
        ("W_BITS <> 4".replace("W_BITS", "weight_bits"), "weight_bits != 4"),
        ('dataset = "it\'s"', "dataset = 'it''s'"),
        ("dataset NOT IN ('a', 'b')", "not dataset in ('a', 'b')"),
        ("dataset not like 'c%'", "not dataset like 'c%'"),
        ("dataset !~ 'c'", "not dataset ~ 'c'"),
        ("dataset is null", "dataset = null"),
        ("dataset IS NOT NULL", "dataset != null"),
        ("verified and weight_bits<=4", "verified = true and weight_bits <= 4"),
        ("weight_bits in (2,3)", "weight_bits in (2, 3)"),
        ("weight_bits > -1e-3", "weight_bits > -0.001"),
    ],
)
def test_what_hands_know_from_sql_is_understood(written, meant):
    assert to_text(of(written)) == meant


@pytest.mark.parametrize(
    ("text", "code", "column", "told"),
    [
        ("weight_bit <= 4", "F002", 1, "did you mean `weight_bits`?"),
        ("verified and datset = 'x'", "F002", 14, "did you mean `dataset`?"),
        ("quant.weight_bits = 4", "F002", 1, "did you mean `weight_bits`?"),
        ("weight_bits = '4'", "F003", 15, "number, written without quotes"),
        ("dataset = 4", "F003", 11, "text, written in quotes"),
        ("dataset = cifar10", "F001", 11, "write 'cifar10'"),
        ("dataset = 'cifar10", "F001", 11, "not closed"),
        ("dataset = ’cifar10’", "F001", 11, "plain '"),
        ("weight_bits like '4%'", "F003", 13, "for texts"),
        ("weight_bits < null", "F003", 15, "null can be compared"),
        ("verified < true", "F003", 12, "no order"),
        ("verified = 1", "F003", 12, "true or false"),
        ("created_at > 'yesterday'", "F003", 14, "write '2026-01-31'"),
        ("weight_bits", "F001", 12, "but the filter ends"),
        ("", "F001", 1, "a column must stand here"),
        ("weight_bits = 4 and", "F001", 20, "a column must stand here"),
        ("(weight_bits = 4", "F001", 17, "`)`"),
        ("weight_bits = 4 weight_bits = 3", "F001", 17, "`and`, `or` or the end"),
        ("weight_bits in 4", "F001", 16, "`(`"),
        ("weight_bits not 4", "F001", 17, "`in` or `like`"),
        ("4 <= weight_bits", "F001", 1, "a column must stand here"),
        ("weight_bits = 4; drop table runs", "F001", 16, "no meaning here"),
        ("weight_bits = 1e999", "F001", 15, "larger than any"),
        ("__import__('os')", "F002", 1, "is no column"),
    ],
)
def test_a_mistake_is_told_with_its_code_its_place_and_what_to_do(text, code, column, told):
    with pytest.raises(FilterError) as caught:
        of(text)
    (fault,) = caught.value.diagnostics
    assert (fault.code, fault.position.column) == (code, column)
    assert told in " ".join([fault.message, *fault.hints])


@pytest.mark.parametrize(
    "text",
    [
        "(" * 21 + "weight_bits = 1" + ")" * 21,
        "not " * 500 + "weight_bits = 1",
        " or ".join(["weight_bits=1"] * 101),
        f"weight_bits in ({','.join('1' * 101)})",
        "dataset = '" + "x" * MAX_LENGTH + "'",
    ],
)
def test_length_depth_and_number_have_limits(text):
    with pytest.raises(FilterError) as caught:
        of(text)
    assert caught.value.diagnostics[0].code == "F004"


ROW = {
    "weight_bits": 4,
    "dataset": "CIFAR_10%",
    "verified": None,
    "created_at": parse_time("2026-03-01T12:00"),
}


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("weight_bits <= 4 and dataset = 'CIFAR_10%'", True),
        ("weight_bits < 4 or weight_bits > 4.0", False),
        ("weight_bits in (2, 4.0)", True),
        ("dataset ~ 'cifar'", True),
        ("dataset like 'cifar_10_'", True),
        ("dataset like 'cifar'", False),
        ("dataset like '%10%'", True),
        ("dataset = 'cifar_10%'", False),
        ("verified = null", True),
        ("verified = true or verified = false", False),
        ("verified != true", True),
        ("not verified = true", True),
        ("created_at >= '2026-03-01' and created_at < '2026-03-02'", True),
        ("created_at > '2026-03-01T13:00+02:00'", True),
    ],
)
def test_a_row_passes_or_not_and_a_missing_value_equals_null_alone(text, passes):
    assert matches(of(text), ROW.__getitem__) is passes


@given(expressions(), TEXTS)
def test_not_is_always_the_opposite(tree, text):
    row = ROW | {"dataset": text}
    assert matches(Not(tree), row.__getitem__) is not matches(tree, row.__getitem__)


def test_what_cannot_be_known_leaves_an_answer_only_where_it_does_not_matter():
    def value_of(name):
        if name == "dataset":
            raise Undecidable(name)
        return ROW[name]

    assert matches(of("dataset = 'x' and weight_bits = 3"), value_of) is False
    assert matches(of("dataset = 'x' or weight_bits = 4"), value_of) is True
    assert matches(of("not dataset = 'x'"), value_of) is None


@given(expressions(), st.sets(st.sampled_from(sorted(COLUMNS))), TEXTS)
def test_both_parts_of_a_split_together_say_the_same(tree, known, text):
    first, rest = split_conjunction(tree, known)
    row = ROW | {"dataset": text}
    parts = [part for part in (first, rest) if part is not None]
    assert all(matches(part, row.__getitem__) for part in parts) is matches(tree, row.__getitem__)
    assert first is None or columns_of(first) <= known


def test_a_pattern_of_many_wildcards_takes_no_time():
    tree = of("dataset like '" + "%a" * 200 + "'")
    assert matches(tree, {"dataset": "a" * 5000 + "b"}.__getitem__) is False


def test_only_the_letters_that_every_database_folds_are_folded():
    assert fold_case("ÄA") == "Äa"
