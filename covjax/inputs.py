"""One check for each kind of numeric argument that is read on the host: what comes in, and the one array it becomes.

Lists, NumPy, JAX and PyTorch arrays (any device, any float type) and data frames are taken; text, dates, complex
numbers and ragged lists are refused. A missing value is NaN (None and masked entries become NaN).
"""

import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from covjax.errors import DtypeError, InputError, shown

# What users may give: whatever the checks below take, or refuse with a message of their own. So nothing else checks
# these types.
TableLike = Annotated[Any, Float[np.ndarray, "n k"]]
VectorLike = Annotated[Any, Float[np.ndarray, "n"]]
NumbersLike = Annotated[Any, Sequence[float]]

MISSING = ("refuse", "ignore")


def is_concrete(array: Any) -> bool:
    """Whether the values can be looked at, that is, outside `jit`, `vmap` and `grad`."""
    return not isinstance(array, jax.core.Tracer)


def host_array(values: Any, name: str) -> np.ndarray:
    """The values as a NumPy array of booleans, integers or floats, none of them changed.

    Raises InputError naming the argument for anything that is not an array of numbers.
    """
    if not is_concrete(values):
        raise InputError(f"{name}: its values are not known inside jit, vmap or grad; call this outside of them")
    array = values if isinstance(values, np.ndarray) else _convert(values, name)
    if isinstance(array, np.ma.MaskedArray):
        array = np.ma.filled(array.astype(np.float64), np.nan) if np.ma.getmaskarray(array).any() else array.data
    if array.dtype == object:
        array = _numbers_of(array, name)
    if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        example = f", such as {shown(array.flat[0])}" if array.size and array.dtype.kind in "SU" else ""
        raise DtypeError(f"{name}: numbers or booleans are needed, got {array.dtype}{example}")
    return array


def is_torch(values: Any) -> bool:
    """Whether it behaves like a PyTorch tensor; PyTorch itself is never imported."""
    return is_concrete(values) and all(hasattr(values, method) for method in ("detach", "cpu", "numpy"))


def _convert(values: Any, name: str) -> np.ndarray:
    if is_torch(values):
        tensor = values.detach().cpu()
        try:
            return tensor.numpy()
        except TypeError:  # bfloat16 and 8 bits, which NumPy lacks: exact in float32
            return tensor.float().numpy()
    if hasattr(values, "toarray"):
        raise InputError(f"{name}: a sparse matrix is not taken; give its toarray()")
    if isinstance(values, list | tuple):
        values = [_convert(value, name) if is_torch(value) else value for value in values]
    try:
        return np.asarray(values)
    except ValueError:
        raise InputError(f"{name}: a list of {len(values)} entries of different lengths is not one array") from None


def _numbers_of(array: np.ndarray, name: str) -> np.ndarray:
    for value in array.flat:
        if value is not None and not isinstance(value, numbers.Real | np.bool_):
            kind = type(value).__name__
            raise DtypeError(f"{name}: numbers or booleans are needed, got {shown(value)} ({kind}); missing: NaN")
    return np.array([np.nan if value is None else float(value) for value in array.flat]).reshape(array.shape)


def check_table(values: Any, name: str, rows: int | None = None, columns: int | None = None) -> np.ndarray:
    """Values of n samples as (n, k); a vector (n,) is one column.

    Raises InputError for another rank, no sample, no column, and numbers of them that are not those given.
    """
    array = host_array(values, name)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name}: shape {np.shape(array)} must be (n >= 1, k >= 1), or (n,) for one column")
    if rows is not None and len(array) != rows:
        raise InputError(f"{name}: {len(array)} rows, but {rows} are needed, one for each sample")
    if columns is not None and array.shape[1] != columns:
        raise InputError(f"{name}: {array.shape[1]} columns, but {columns} are needed")
    return array


def check_finite(array: np.ndarray, name: str, remedy: str = "") -> None:
    """Raise InputError naming the first NaN or infinite value of a table and how many there are."""
    bad = ~np.isfinite(array)
    if bad.any():
        place = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), np.argwhere(bad)[0]))
        raise InputError(f"{name}: {int(bad.sum())} of {array.size} values are NaN or inf, first at {place}{remedy}")


def check_labels(
    values: Any, name: str = "targets", missing: str = "refuse", rows: int | None = None
) -> tuple[Bool[np.ndarray, "n k"], Bool[np.ndarray, "n k"] | None]:
    """Labels as booleans, and which of them are present: None where all are.

    Booleans, integers and floats 0 and 1 mean the same. NaN is a missing label: refused, or with `missing="ignore"`
    given as False and not present. Raises InputError for other values, named with their place, and shapes.
    """
    table = check_table(values, name, rows)
    if table.dtype == bool:
        check_missing(missing)
        return table, None
    present = _present(table, name, missing)
    bad = ~((table == 0) | (table == 1)) & (True if present is None else present)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(f"{name}: labels are 0 and 1, got {_plain(table[row, column])} at row {row}, column {column}")
    return table == 1, present


def _plain(value: np.generic) -> str:
    """A number with as many digits as tell it from its neighbours: 0.9999999 is not 1."""
    return repr(float(value)).removesuffix(".0")


def check_classes(
    values: Any, name: str = "targets", missing: str = "refuse", rows: int | None = None
) -> tuple[Bool[np.ndarray, "n k"], Bool[np.ndarray, "n k"] | None]:
    """One-hot rows of exclusive classes as booleans, and which rows are present: None where all are.

    With `missing="ignore"` a row that is all NaN is missing. Raises InputError for class numbers (with the remedy),
    rows without exactly one class, rows partly NaN, and like `check_labels`.
    """
    table = check_table(values, name, rows)
    with np.errstate(invalid="ignore"):
        known = table if table.dtype == bool else table[np.isfinite(table)]
        if table.shape[1] == 1 or (known > 1).any():
            raise InputError(
                f"{name}: shape {np.shape(values)} are not one-hot rows of k >= 2 exclusive classes; class numbers "
                f"y (n,) become them by np.eye(k, dtype=bool)[y]"
            )
    labels, present = check_labels(table, name, missing)
    whole = np.ones(len(labels), bool) if present is None else present.any(1)
    if present is not None and (part := whole & ~present.all(1)).any():
        raise InputError(f"{name}: row {int(np.argmax(part))} is partly NaN; exclusive classes are missing row by row")
    if (odd := whole & (labels.sum(1) != 1)).any():
        row = int(np.argmax(odd))
        raise InputError(f"{name}: row {row} has {int(labels[row].sum())} classes; exclusive classes need exactly one")
    return labels, present


def check_numbers(
    values: Any, name: str = "targets", missing: str = "refuse", rows: int | None = None
) -> tuple[Float[np.ndarray, "n k"], Bool[np.ndarray, "n k"] | None]:
    """Targets as float64, and which of them are present: None where all are.

    NaN is a missing value: refused, or with `missing="ignore"` given as 0 and not present. Raises InputError for inf,
    and shapes.
    """
    table = check_table(values, name, rows).astype(np.float64)
    present = _present(table, name, missing)
    return (table, None) if present is None else (np.where(present, table, 0), present)


def _present(table: np.ndarray, name: str, missing: str) -> np.ndarray | None:
    check_missing(missing)
    empty = np.isnan(table)
    if missing == "refuse" or not empty.any():
        check_finite(table, name, '; missing="ignore" leaves NaN out, output by output' if empty.any() else "")
        return None
    check_finite(np.where(empty, 0, table), name)
    return ~empty


def check_missing(missing: str) -> None:
    """Raise InputError unless it is one of MISSING."""
    if missing not in MISSING:
        raise InputError(f"missing: {shown(missing)} is not one of {', '.join(MISSING)}")


def check_scores(values: Any, shape: tuple[int, ...], name: str = "scores") -> Float[np.ndarray, "n k"]:
    """Scores as floats of the type they came in, as many as there are in the truth.

    Raises InputError for another shape than the truth's, NaN and inf.
    """
    table = check_table(values, name)
    if table.shape != shape:
        raise InputError(f"{name}: shape {table.shape} must equal the truth's, which is {shape}")
    if table.dtype.kind != "f":
        table = table.astype(np.float32 if jnp.issubdtype(table.dtype, jnp.floating) else np.float64)
    check_finite(table, name)
    return table


def check_counts(counts: Any | None, rows: int) -> Float[np.ndarray, "resamples n"] | None:
    """How often each of the examples stands in each resample, as float64.

    Raises InputError for another shape than (resamples, n), and numbers that are not whole or below 0.
    """
    if counts is None:
        return None
    table = host_array(counts, "counts")
    if table.ndim != 2 or table.shape[1] != rows or not len(table):
        raise InputError(f"counts: shape {table.shape} must be (resamples, {rows})")
    table = table.astype(np.float64)
    bad = ~(np.isfinite(table) & (table >= 0) & (table == np.floor(table)))
    if bad.any():
        raise InputError(f"counts: {_plain(table[bad][0])} is not a whole number >= 0")
    return table


def check_features(values: Any, name: str = "features", columns: int | None = None) -> np.ndarray:
    """Features (n, p) of n samples in the type they came in; a vector is refused, for it could be either.

    `columns` is the number that there must be: 0 for coordinates of samples that are all equal.

    Raises InputError for another rank or number of columns, no sample, NaN and inf.
    """
    array = host_array(values, name)
    wrong = array.ndim != 2 or not len(array)
    if wrong or (array.shape[1] < 1 if columns is None else array.shape[1] != columns):
        wanted = "p >= 1" if columns is None else columns
        raise InputError(f"{name}: shape {array.shape} must be (samples >= 1, {wanted}); a single one: x[None]")
    check_finite(array, name)
    return array


def check_whole(value: Any, name: str, least: int) -> None:
    """Raise InputError unless it is a whole number from `least` on; True is none."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}: {shown(value)} must be a whole number >= {least}")


def check_penalties(penalties: Any, name: str = "penalties", least: float = 0.0, most: float = np.inf) -> list[float]:
    """A non-empty sequence of finite numbers > 0, from `least` to `most`, as floats; InputError for anything else."""
    array = host_array(penalties, name)
    if array.ndim != 1 or not len(array):
        raise InputError(f"{name}: {shown(penalties)} must be a list of numbers > 0")
    for value in array:
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name}: {float(value)} must be > 0 and finite")
        if not least <= value <= most:
            raise InputError(f"{name}: {float(value)} must be from {least:g} to {most:g}, for float32")
    return [float(value) for value in array]


def patterns(
    present: Bool[np.ndarray, "n k"],
) -> Iterator[tuple[Bool[np.ndarray, "n"], np.ndarray]]:
    """The rows that are present and the columns of which that is so: columns with the same rows come together."""
    groups: dict[bytes, list[int]] = {}
    packed = np.packbits(present, axis=0).T
    for column, key in enumerate(packed):
        groups.setdefault(key.tobytes(), []).append(column)
    for columns in groups.values():
        yield present[:, columns[0]], np.array(columns)


def exact_mean(
    values: Float[np.ndarray, "n k"], weights: Float[np.ndarray, "n"] | None = None
) -> Float[np.ndarray, "k"]:
    """Mean of every column in float64, corrected by the mean of the deviations from it.

    A rounded mean of equal numbers is often not that number; this one is, so that a constant does not vary.
    """
    w = np.full(len(values), 1 / len(values)) if weights is None else weights / weights.sum()
    mean = w @ values
    return mean + w @ (values - mean)


def by_output(
    metric: Callable[..., np.ndarray],
    truth: np.ndarray,
    scores: np.ndarray,
    counts: Float[np.ndarray, "r n"] | None,
    present: Bool[np.ndarray, "n k"] | None,
) -> Float[np.ndarray, "*r k"]:
    """`metric(truth, scores, counts)`, outputs with the same present rows together; NaN for one that has no row."""
    if present is None:
        return metric(truth, scores, counts)
    out = np.full((*([] if counts is None else [len(counts)]), truth.shape[1]), np.nan)
    for rows, columns in patterns(present):
        if rows.any():
            part = truth[rows][:, columns], scores[rows][:, columns]
            out[..., columns] = metric(*part, None if counts is None else counts[:, rows])
    return out
