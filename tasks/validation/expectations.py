"""The only importer of Great Expectations: hold tables of statistics to a suite of checks.

Great Expectations judges; this module turns each ``Check`` into its expectation, runs one suite a
table, and turns the results into a ``Verdict``. Of a large table it is given the rows that decide
(``tasks.validation.screen``), and the numbers of rows as a table of their own. The import costs
seconds, so it happens inside the function that needs it. Three traps are closed here: a missing
column comes back as a failed result with an exception inside, so that is looked at; an empty table
would pass everything, so the number of rows is an expectation too; and analytics and progress bars
are off.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.validation.checks import KEYS, Check, digest_of_checks, shard_checks
from tasks.validation.screen import MOST_FAILURES, Screened, screen
from tasks.validation.verdict import Failure, Outcome, Verdict
from tasks.workspace import QUIET

_ROWS = "row_count"
_SITE = "validation"
_DRIFT_ROWS = 512  # rows of a shard for which the limit of the drift is meant


def judge(
    tables: Mapping[str, pd.DataFrame],
    checks: Sequence[Check],
    rows: Mapping[str, int],
    *,
    docs: Path | None = None,
) -> Verdict:
    """Hold tables to a suite.

    Args:
        tables: Table by name, each with the columns tile, sensor and band and measured columns.
        checks: The suite; every check's table must be in ``tables``.
        rows: Fewest rows that each table must have, at least 1.
        docs: Folder for Great Expectations' own pages (they hold the time of the run); None to
            write none.

    Returns:
        The verdict. A column that no row has is a failure, never a pass.
    """
    screened = {
        name: screen(table, [check for check in checks if check.table == name])
        for name, table in tables.items()
    }
    counts = pd.DataFrame([dict.fromkeys(KEYS, "") | {name: len(t) for name, t in tables.items()}])
    judged = {name: found.table for name, found in screened.items()} | {_ROWS: counts}
    least = [Check(name, _ROWS, name, low, None, "too few rows") for name, low in rows.items()]
    results = _run(judged, (*checks, *least), docs)
    outcomes = [_outcome(check, screened[check.table]) for check in checks]
    failures = [
        failure
        for check in checks
        for failure in _failures(check, results[check.table, check.name], judged[check.table])
    ]
    for check in least:
        if not results[_ROWS, check.name]["success"]:
            expected = f"at least {rows[check.name]} rows in the table {check.name}"
            failures.append(Failure("", "", "", _ROWS, f"{len(tables[check.name])} rows", expected))
    sizes = {name: len(table) for name, table in tables.items()}
    suite = digest_of_checks(tuple(checks))
    return Verdict(tuple(outcomes), tuple(sorted(failures)), suite, sizes)


def _outcome(check: Check, found: Screened) -> Outcome:
    failed = found.failed[check.name]
    if check.column not in found.table.columns:
        failed = 1  # it cannot be judged, which is a failure of the table as a whole
    bounds = (check.table, check.column, check.low, check.high, check.expected)
    return Outcome(check.name, *bounds, check.why, found.judged[check.name], failed)


def shard_verdict(rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """Judge the shards of d-pixels.

    Args:
        rows: One ``tasks.validation.tables.shard_statistics`` a shard.

    Returns:
        The verdict; a failure's ``tile`` is the shard's name.
    """
    table = pd.DataFrame([dict(row) for row in rows]).rename(columns={"shard": "tile"})
    if len(table):
        table = table.assign(
            sensor="",
            band="",
            observations=table["s2_observations"] + table["s1_observations"],
            drift=_drift(table),
        )
    return judge({"shards": table}, shard_checks(), {"shards": 1})


def _drift(table: pd.DataFrame) -> pd.Series:
    """Return each shard's largest relative distance of a band's mean from the mean over all.

    A mean over n rows scatters as 1 / sqrt(n), so the distance is given as it would be with 512.
    """
    means = table[[name for name in table.columns if "_mean_" in name]].astype(np.float64)
    weights = np.stack(
        [table[name.split("_mean_")[0] + "_observations"] for name in means.columns], axis=1
    )
    shared = np.nansum(means.to_numpy() * weights, axis=0) / np.maximum(
        (means.notna().to_numpy() * weights).sum(axis=0), 1.0
    )
    drift: pd.Series = (means / np.maximum(shared, 1.0) - 1).abs().max(axis=1)
    return drift.mul(np.sqrt(table["rows"] / _DRIFT_ROWS))


def _run(
    tables: Mapping[str, pd.DataFrame], checks: Sequence[Check], docs: Path | None
) -> dict[tuple[str, str], dict[str, Any]]:
    """Run one Great Expectations suite a table; returns each result by (table, check)."""
    os.environ.update(QUIET)
    with warnings.catch_warnings():
        # Its import and its pages use deprecated parts of other libraries; none is our doing.
        warnings.simplefilter("ignore")
        return _results(tables, checks, docs)


def _results(
    tables: Mapping[str, pd.DataFrame], checks: Sequence[Check], docs: Path | None
) -> dict[tuple[str, str], dict[str, Any]]:
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction, ValidationAction
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    actions: list[ValidationAction] = []
    if docs is not None:
        context.add_data_docs_site(_SITE, _site(docs))
        actions.append(UpdateDataDocsAction(name=_SITE, site_names=[_SITE]))
    source = context.data_sources.add_or_update_pandas("tables")
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for name, table in tables.items():
        ours = [check for check in checks if check.table == name]
        suite = context.suites.add_or_update(
            gx.ExpectationSuite(name=name, expectations=_expectations(ours))
        )
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("whole")
        definition = context.validation_definitions.add_or_update(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        checkpoint = gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            actions=actions,
            result_format={
                "result_format": "SUMMARY",
                "partial_unexpected_count": MOST_FAILURES,
                "unexpected_index_column_names": _keys_of(table),
            },
        )
        outcome = context.checkpoints.add_or_update(checkpoint).run(
            batch_parameters={"dataframe": table}
        )
        for run in outcome.run_results.values():
            for result in run.results:
                content: Any = result.to_json_dict()
                results[name, content["expectation_config"]["meta"]["check"]] = content
    return results


def _expectations(checks: Sequence[Check]) -> list[Any]:
    from great_expectations.expectations.core.expect_column_values_to_be_between import (
        ExpectColumnValuesToBeBetween,
    )

    return [
        ExpectColumnValuesToBeBetween(
            column=check.column,
            min_value=check.low,
            max_value=check.high,
            meta={"check": check.name},
            notes=f"{check.name}: {check.why}",
        )
        for check in checks
    ]


def _site(docs: Path) -> Any:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(docs),
        },
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def _failures(check: Check, result: Mapping[str, Any], table: pd.DataFrame) -> list[Failure]:
    if result["success"]:
        return []
    places = result["result"].get("partial_unexpected_index_list")
    if not places:
        # An exception inside the result, e.g. no row of the table has the column.
        return [Failure("", "", "", check.name, "not measurable", check.expected)]
    notes = {}
    if check.note:
        keys = _keys_of(table)
        addresses = zip(*(table[key] for key in keys), strict=True)
        notes = dict(zip(addresses, table[check.note], strict=True))
    failures = []
    for place in places:
        note = f" ({notes[tuple(place[key] for key in keys)]})" if notes else ""
        failures.append(
            Failure(
                str(place["tile"]),
                str(place["sensor"]),
                str(place["band"]),
                check.name,
                f"{place[check.column]:.4g}{note}",
                f"{check.expected} ({check.why})",
            )
        )
    return failures


def _keys_of(table: pd.DataFrame) -> list[str]:
    """Return the columns that address one row: files need their name too, labels their year."""
    return [*KEYS, *(name for name in ("file", "year") if name in table.columns)]
