"""What finished runs put on the board."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from lsqctl.errors import NotFound
from lsqctl.events import (
    DEPLOYED,
    BoardRow,
    DeployedResult,
    Evaluation,
    PerImageResult,
    Result,
    ResultValues,
    RunIdentity,
)
from lsqctl.run import EXTENSION_ROLE, JsonObject, RunState
from lsqctl.store.database import StorePart, read_tx, write_tx
from lsqctl.store.dialects import from_json, now
from lsqctl.store.rows import batches, is_live
from lsqctl.store.tables import AnyRow, AnySelect, checkpoints, live_runs, results, run_parents

_RESULT_FIELDS = tuple(f.name for f in fields(ResultValues))
_STORED_APART = ("hits", "checkpoint")  # under other names, or not where rows are listed
_EVALUATION_FIELDS = tuple(f.name for f in fields(Evaluation) if f.name not in _STORED_APART)
_RUN_FIELDS = (
    *(f.name for f in fields(RunIdentity) if f.name != "run_id"),
    *("code_commit", "code_dirty", "origin", "user", "partial"),
)

_SELECT_CHECKPOINT_SHA256 = select(checkpoints.c.sha256).where(
    checkpoints.c.run_id == bindparam("run"), checkpoints.c.directory == bindparam("path")
)
_IS_DEPLOYED = results.c.variant == DEPLOYED
_INSERT_RESULT = insert(results).values(created_at=now())


class Results(StorePart):
    """Reading results, and marking those that were measured again."""

    @read_tx
    def get(self, db: Connection, run_id: str) -> Result | None:
        """Return a run's Result as it was stored, hits included, or None when it has none."""
        query = select(results).where(results.c.run_id == run_id)
        rows = db.execute(query.order_by(results.c.variant, results.c.selection)).all()
        if not rows or not is_live(db, run_id):
            return None
        described = next((row for row in rows if row.headline), rows[0])
        shared = {name: getattr(described, name) for name in _RESULT_FIELDS}
        return Result(**shared, evaluations=tuple(map(_to_evaluation, rows)))

    def evaluations(self, run_id: str) -> list[Evaluation]:
        """Return a run's evaluations, hits included, by variant and selection; none before."""
        result = self.get(run_id)
        return list(result.evaluations) if result else []

    @read_tx
    def manifest_sha256(self, db: Connection, run_id: str, key: tuple[str, str]) -> str:
        """Return the sha256 of the manifest behind a result; ``key`` as below.

        Empty when it was not known. Raises NotFound.
        """
        sha256: str | None = db.scalar(
            select(results.c.checkpoint_sha256).where(*_key_conditions(run_id, *key))
        )
        if sha256 is None or not is_live(db, run_id):
            raise NotFound(f"run {run_id} has no result ({', '.join(key)})")
        return sha256

    @write_tx
    def mark_verified(
        self, db: Connection, run_id: str, key: tuple[str, str], *, verified: bool
    ) -> None:
        """Store whether measuring again gave the same counts; ``key`` is (variant, selection).

        Raises NotFound.
        """
        change = update(results).where(*_key_conditions(run_id, *key)).values(verified=verified)
        if db.execute(change).rowcount == 0:
            raise NotFound(f"run {run_id} has no result ({', '.join(key)})")

    @write_tx
    def put_deployed(self, db: Connection, run_id: str, deployed: DeployedResult) -> None:
        """Store what a run's deployed file answers, instead of what an earlier one did.

        The row describes the file: its size, and as precision its exactness. Raises NotFound.
        """
        row = db.execute(
            select(results).where(results.c.run_id == run_id, results.c.headline.is_(True))
        ).one_or_none()
        if row is None or not is_live(db, run_id):
            raise NotFound(f"run {run_id} has no result")
        evaluation = deployed.evaluation
        values = row._asdict() | {name: getattr(evaluation, name) for name in _EVALUATION_FIELDS}
        values |= {"hits": evaluation.hits, "verified": None, "created_at": now()}
        values |= {"precision": deployed.exactness, "size_bytes": deployed.file_bytes}
        db.execute(delete(results).where(results.c.run_id == run_id, _IS_DEPLOYED))
        db.execute(insert(results).values(values))

    @read_tx
    def deployed(self, db: Connection, run_id: str) -> DeployedResult | None:
        """Return what a run's deployed file answered, or None where there is none."""
        query = select(results).where(results.c.run_id == run_id, _IS_DEPLOYED)
        row = db.execute(query).one_or_none()
        if row is None or not is_live(db, run_id):
            return None
        return DeployedResult(_to_evaluation(row), row.precision, row.size_bytes)

    @read_tx
    def per_image_results(
        self, db: Connection, run_ids: Iterable[str], variant: str = ""
    ) -> list[PerImageResult]:
        """Return the headline results of these runs, hits included, oldest run first.

        Those of a ``variant`` instead, of the runs that have it.
        """
        names = [f.name for f in fields(PerImageResult) if f.name != "cell"]
        columns = [live_runs.c[name] if name in _RUN_FIELDS else results.c[name] for name in names]
        query = (
            select(*columns)
            .join(live_runs, live_runs.c.id == results.c.run_id)
            .order_by(live_runs.c.seq)
        )
        chosen = results.c.variant == variant if variant else results.c.headline.is_(True)
        query = query.where(chosen, live_runs.c.state == RunState.SUCCEEDED)
        return [
            PerImageResult(*row)
            for batch in batches(sorted(set(run_ids)))
            for row in db.execute(query.where(live_runs.c.id.in_(batch)))
        ]

    @read_tx
    def board_rows(self, db: Connection) -> list[BoardRow]:
        """Return the headline results of succeeded runs, and failed runs without counts.

        Oldest first; the hits are not loaded and metric points not touched.
        """
        rows, chains, mixed = [*_headline_rows(db), *_failed_rows(db)], _chains(db), _mixed(db)
        if not chains and not mixed:
            return rows
        return [
            replace(row, chain=chains.get(row.run_id, ""), mixed=row.run_id in mixed)
            for row in rows
        ]


def insert_result(db: Connection, run_id: str, result: Result) -> None:
    """Store every evaluation of a result."""
    shared = {name: getattr(result, name) for name in _RESULT_FIELDS}
    for evaluation in result.evaluations:
        sha256 = db.scalar(
            _SELECT_CHECKPOINT_SHA256, {"run": run_id, "path": evaluation.checkpoint}
        )
        evaluation_values = {name: getattr(evaluation, name) for name in _EVALUATION_FIELDS}
        values = {
            **shared,
            **evaluation_values,
            "run_id": run_id,
            "hits": evaluation.hits,
            "checkpoint_path": evaluation.checkpoint,
            "checkpoint_sha256": sha256 or "",
        }
        db.execute(_INSERT_RESULT, values)


def _key_conditions(run_id: str, variant: str, selection: str) -> tuple[ColumnElement[bool], ...]:
    columns = results.c
    return columns.run_id == run_id, columns.variant == variant, columns.selection == selection


def _to_evaluation(row: AnyRow) -> Evaluation:
    counted = {name: getattr(row, name) for name in _EVALUATION_FIELDS}
    return Evaluation(**counted, hits=row.hits, checkpoint=row.checkpoint_path)


def _headline_rows(db: Connection) -> list[BoardRow]:
    added_to_few = {"chain", "mixed"}
    names = [f.name for f in fields(BoardRow) if f.name not in added_to_few]
    state_index = names.index("state")
    board_rows = []
    for row in db.execute(_headline_query(names)):
        values = list(row)  # by position: with keywords ten thousand rows take twice as long
        values[state_index] = RunState(values[state_index])
        board_rows.append(BoardRow(*values))
    return board_rows


def _headline_query(names: Sequence[str]) -> AnySelect:
    """Return the query for these fields of headlines, with those of their sibling evaluations."""
    last, best = results.alias("last"), results.alias("best")
    deployed = results.alias("deployed")
    aliased_columns = {
        "n_correct_last": last.c.n_correct,
        "n_correct_best": best.c.n_correct,
        "n_correct_deployed": deployed.c.n_correct,
        "exactness": deployed.c.precision,
        "file_bytes": deployed.c.size_bytes,
    }
    columns = [
        aliased_columns[name]
        if name in aliased_columns
        else (live_runs if name in _RUN_FIELDS else results).c[name]
        for name in names
    ]
    return (
        select(*columns)
        .join(live_runs, live_runs.c.id == results.c.run_id)
        .outerjoin(last, _same_variant(last, "last"))
        .outerjoin(best, _same_variant(best, "best"))
        .outerjoin(
            deployed,
            (deployed.c.run_id == results.c.run_id) & (deployed.c.variant == DEPLOYED),
        )
        .where(results.c.headline.is_(True), live_runs.c.state == RunState.SUCCEEDED)
        .order_by(live_runs.c.seq)
    )


def _chains(db: Connection) -> dict[str, str]:
    """Return, for each run that goes on from others, their ids, the first one first."""
    links = select(run_parents.c.run_id, run_parents.c.parent_id)
    before = {
        row.run_id: row.parent_id
        for row in db.execute(links.where(run_parents.c.role == EXTENSION_ROLE))
    }
    chains = {}
    for run_id in before:
        ids = [run_id]
        while ids[0] in before:
            ids.insert(0, before[ids[0]])
        chains[run_id] = " → ".join(ids[:-1])
    return chains


_NO_OVERRIDES = '%"overrides":[]%'  # as ``to_json`` writes a recipe


def _mixed(db: Connection) -> set[str]:
    """Return the runs whose overrides give some layers bits of their own."""
    query = select(live_runs.c.id, live_runs.c.recipe).where(
        live_runs.c.recipe.like('%"overrides":[%'), live_runs.c.recipe.not_like(_NO_OVERRIDES)
    )
    return {
        row.id
        for row in db.execute(query)
        if any(
            override.get(key) is not None
            for _, override in from_json(row.recipe)["quant"]["overrides"]
            for key in ("weight_bits", "act_bits")
        )
    }


def _same_variant(other: FromClause, selection: str) -> ColumnElement[bool]:
    same: ColumnElement[bool] = (other.c.run_id == results.c.run_id) & (
        other.c.variant == results.c.variant
    )
    return same & (other.c.selection == selection)


def _failed_rows(db: Connection) -> list[BoardRow]:
    columns = [live_runs.c[name] for name in _RUN_FIELDS]
    query = (
        select(live_runs.c.id.label("run_id"), *columns, live_runs.c.recipe, live_runs.c.message)
        .where(live_runs.c.state == RunState.FAILED)
        .order_by(live_runs.c.seq)
    )
    return [_to_failed_row(row) for row in db.execute(query)]


def _to_failed_row(row: AnyRow) -> BoardRow:
    values = row._asdict()
    recipe, message = from_json(values.pop("recipe")), values.pop("message")
    quant = recipe.get("quant", {})
    return _to_board_row(
        values
        | {
            "dataset": _dataset_label(recipe.get("data", {})),
            "arch": recipe.get("model", {}).get("name", ""),
            "weight_bits": quant.get("weight_bits", 32),
            "act_bits": quant.get("act_bits", 32),
            "notes": message,
        }
    )


def _dataset_label(data: JsonObject) -> str:
    """Return what a result of these images would say: the folder, or the dataset's name."""
    folder = str(data.get("path") or "").rstrip("/").rpartition("/")[2]
    return folder or str(data.get("name", ""))


def _to_board_row(values: JsonObject) -> BoardRow:
    return BoardRow(**{**values, "state": RunState(values["state"])})
