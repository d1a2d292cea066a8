"""Rows to build boards of: a plain one with any field changed, and Hypothesis strategies."""

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from lsqctl.events import BoardRow
from lsqctl.leaderboard.published_results import PublishedResult
from lsqctl.run import RunState

START = datetime(2026, 1, 1, tzinfo=UTC)


def row(recipe: str = "r", seed: int = 0, n_correct: int | None = 500, **changes) -> BoardRow:
    values = {
        "run_id": f"{recipe}-{seed}",
        "name": recipe,
        "state": RunState.SUCCEEDED,
        "seed": seed,
        "recipe_sha256": recipe,
        "created_at": START + timedelta(minutes=seed),
        "dataset": "digits",
        "arch": "resnet8",
        "weight_bits": 4,
        "act_bits": 4,
        "n_correct": n_correct,
        "n_total": 540,
        "split": "test",
    }
    return BoardRow(**{**values, **changes})


def failed(recipe: str = "r", seed: int = 9, **changes) -> BoardRow:
    return row(recipe, seed, None, state=RunState.FAILED, n_total=None, **changes)


def published_result(model: str = "published", top1: float = 76.7, **changes) -> PublishedResult:
    values = {
        "dataset": "digits",
        "model": model,
        "arch": "resnet8",
        "method": "LSQ",
        "weight_bits": 4,
        "act_bits": 4,
        "top1": top1,
        "source_kind": "paper",
        "source_url": "https://example.org/paper",
        "quote": "76.7",
    }
    return PublishedResult(**{**values, **changes})


HOSTILE = (
    st.text(max_size=12)
    | st.text(alphabet="'=+-@\t\r\n\0 ,\";|\\<>[]*_\x1b\u202e＝a", max_size=8)
    | st.sampled_from(
        ["=1+1", "'=1", "''@x", " =x", '"', "a\r\nb", "\r", "nan", "true", "  ", "-1"]
    )
)
NOTE = st.just("note")


@st.composite
def board_rows(draw, texts=NOTE, max_size=24):
    """Rows of few recipes, datasets and seeds, so that groups, ties and reruns come about."""
    rows = []
    for number in range(draw(st.integers(0, max_size))):
        recipe = draw(st.integers(0, 5))
        recipe_name = f"recipe-{recipe}"
        total = draw(st.sampled_from([10, 540, 10_000]))
        ended = draw(
            st.sampled_from([*[RunState.SUCCEEDED] * 4, RunState.FAILED, RunState.CANCELLED])
        )
        success = ended is RunState.SUCCEEDED
        rows.append(
            row(
                recipe_name,
                draw(st.integers(0, 3)),
                draw(st.integers(0, total)) if success else None,
                run_id=f"run-{number}",
                state=ended,
                n_total=total if success else None,
                dataset=["digits", "cifar10"][recipe % 2],
                weight_bits=[2, 3, 4, 32][recipe % 4],
                act_bits=[2, 4, 4, 32][recipe % 4],
                bops=draw(st.none() | st.integers(1, 4).map(lambda n: n * 10**9)),
                size_bytes=draw(st.none() | st.integers(1, 10**7)),
                selection=draw(st.sampled_from(["last", "best"])),
                train_seconds=draw(st.none() | st.floats(0, 1e5)),
                verified=draw(st.none() | st.booleans()),
                fp32_n_correct=draw(st.none() | st.integers(0, 540)),
                fp32_n_total=540,
                name=draw(texts) or recipe_name,
                notes=draw(texts),
                device=draw(texts),
                created_at=START + timedelta(seconds=draw(st.integers(0, 3))),
                n_correct_best=draw(st.none() | st.just(total)),
            )
        )
    return rows


def _numbered_result(number, dataset, top1, total):
    return published_result(f"published-{number}", top1, dataset=dataset, n_total=total)


published_results = st.lists(
    st.tuples(
        st.sampled_from(["digits", "imagenet"]),
        st.floats(0, 100),
        st.none() | st.sampled_from([10_000, 50_000]),
    ),
    max_size=6,
).map(lambda found: [_numbered_result(number, *values) for number, values in enumerate(found)])
