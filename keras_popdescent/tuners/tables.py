"""A search as tables: a row a member, and the long form with a row a measurement."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_popdescent._imports import optional_import
from keras_popdescent.errors import MissingExtraError
from keras_popdescent.history import History
from keras_popdescent.operators.fitness import cost

# execution -> its history, and the trials of its members by member id (those that are known)
Executions = Sequence[tuple[History, Mapping[int, str]]]


def result_rows(executions: Executions) -> list[dict[str, Any]]:
    """Return a dict for each member ever born, the best score first, those without one last.

    Args:
        executions: The histories of a search.
    """
    rows = []
    for number, (history, trials) in enumerate(executions):
        births = history.births()
        # A member that has stopped reports nothing any more.
        logs = {
            member.member_id: dict(member.logs)
            for record in history.iterations()
            for member in record.members
            if member.logs
        }
        born = {b.member_id: r.iteration for r in history for b in r.births}
        for row in history.member_table():
            member_id = row["member_id"]
            values = births[member_id].values
            parent = row["parents"][0] if row["parents"] else None
            rows.append(
                {
                    "trial_id": trials.get(member_id),
                    "execution": number,
                    "member_id": member_id,
                    "slot": row["slot"],
                    "parent": parent,
                    "born": born[member_id],
                    "iterations": row["iterations"],
                    "inherited_steps": row["inherited_steps"],
                    "gradient_steps": row["gradient_steps"],
                    "best_score": row["best_score"],
                    "score": row["score"],
                    **logs.get(member_id, {}),
                    **values,
                }
            )
    direction = executions[0][0].direction if executions else "min"
    return sorted(rows, key=lambda row: cost(row["best_score"], direction))


def long_rows(executions: Executions) -> list[dict[str, Any]]:
    """Return a dict for each member, iteration and metric; the score is one of the metrics.

    Members that did not train in an iteration report nothing and have no rows in it.

    Args:
        executions: The histories of a search.
    """
    return [
        {
            "trial_id": trials.get(member.member_id),
            "execution": number,
            "iteration": record.iteration,
            "slot": member.slot,
            "member_id": member.member_id,
            "gradient_steps": member.gradient_steps,
            "metric": metric,
            "value": value,
        }
        for number, (history, trials) in enumerate(executions)
        for record in history.iterations()
        for member in record.members
        if member.logs
        for metric, value in {"score": member.score, **dict(member.logs)}.items()
    ]


def frame(rows: list[dict[str, Any]]) -> Any:
    """Return rows as a pandas DataFrame, or as they are where pandas is not installed."""
    try:
        pandas = optional_import("pandas", "frames", "a table as a DataFrame")
    except MissingExtraError:
        return rows
    table = pandas.DataFrame(rows)
    # Without it a missing parent would make all of them floats.
    return table.astype({"parent": "Int64"}) if "parent" in table else table


def write_csv(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write rows to a CSV file; what a row has not stays empty.

    Args:
        rows: Dicts.
        path: The file; its folder is made where it is not there.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
