"""Covariates: numeric columns of a table, which a sequence's embedding must beat."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from covjax.data.dataset import named_column
from covjax.data.targets import read_numbers
from covjax.data.text import Row
from covjax.errors import InputError, shown


def covariate_columns(
    path: str | Path, header: Row, names: Sequence[str], columns: Mapping[str, int]
) -> tuple[int, ...]:
    """Index in the header of every covariate; `columns` are those that already have a role.

    Raises InputError for a column that is not there, is named twice, or has a role: an answer predicts itself.
    """
    roles, out = {index: role for role, index in columns.items()}, list[int]()
    for name in names:
        index = named_column(path, header, name, "covariates")
        if index in roles or index in out:
            why = f"is the {roles[index]} already" if index in roles else "is named twice"
            raise InputError(f"{path}: covariates: column {shown(name)} {why}; leave it out")
        out.append(index)
    return tuple(out)


def read_covariates(
    names: Sequence[str], cells: Sequence[Sequence[str]], places: Sequence[str], semicolons: bool, notes: list[str]
) -> Float[np.ndarray, "n c"]:
    """The numbers of `cells`, one sequence of cells a covariate; `places` ("t.csv: line 5") are for messages.

    Decimal commas are read as `read_numbers` says, and noted. Raises InputError, naming the line, for a cell that is
    no number, is missing, or is not finite.
    """
    table = np.empty((len(places), len(names)))
    for j, (name, column) in enumerate(zip(names, cells, strict=True)):
        numbers, commas = read_numbers(column, places, semicolons)
        for place, cell, number in zip(places, column, numbers):
            if number is None or not np.isfinite(number):
                what = shown(cell.strip(), 40) if cell.strip() else "empty"
                raise InputError(
                    f"{place}: column {shown(name, 40)} is {what}; a covariate is a finite number in every row: fill "
                    "it in, write categories as columns of 0 and 1, or leave it out of --covariates"
                )
        table[:, j] = np.array(numbers, np.float64)
        if commas:
            notes.append(f"covariate {shown(name, 40)}: {commas}")
    return table
