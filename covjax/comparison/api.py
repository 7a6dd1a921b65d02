"""`covjax.compare` in Python: a table in, a typed result out."""

import dataclasses
import difflib
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from covjax.comparison.config import CompareConfig
from covjax.comparison.model import Model
from covjax.comparison.results import Results
from covjax.comparison.verdict import evidence, verdict
from covjax.errors import InputError, shown
from covjax.jobs.disk import new_text


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of a comparison: `results` is the content of `results.json` in `folder`, as typed objects."""

    results: Results
    folder: Path

    @property
    def verdict(self) -> str:
        """The answer in one sentence: the pool that validation chose, its gains, and what they are evidence of."""
        return verdict(self.results)

    @property
    def evidence(self) -> str:
        """What explains a gain: co-occurrence, quadratic, marginals, position, distribution, training, probe; or none.

        "open" where no control was compared.
        """
        return evidence(self.results)

    def records(self) -> list[dict[str, Any]]:
        """One flat record for every recipe and probe: its name, size, and scores with intervals on the test set."""
        out = []
        for row in self.results.rows:
            for probe, fit in row.probes.items():
                record = {
                    "recipe": row.label,
                    **{key: getattr(row, key) for key in ("title", "role", "rank", "num_features")},
                }
                record |= {"layer": row.layer} if self.results.layers else {}
                record |= {"probe": probe, "penalty": fit.penalty, "validation": fit.validation}
                for metric, score in fit.test.items():
                    record[metric] = score.value
                    record[f"{metric}_low"], record[f"{metric}_high"] = score.interval
                    record[f"{metric}_minus_mean"] = score.difference
                    low, high = score.difference_interval
                    record[f"{metric}_minus_mean_low"], record[f"{metric}_minus_mean_high"] = low, high
                out.append(record)
        return out

    def frame(self) -> Any:
        """`records` as a pandas DataFrame if pandas is installed, else the list of records."""
        try:
            import pandas
        except ImportError:
            return self.records()
        return pandas.DataFrame.from_records(self.records())

    def report(self, folder: str | Path) -> Path:
        """Copy the report into a folder and return its path. It is one file that needs no network.

        Raises InputError if it cannot be written, or if the comparison's folder is gone.
        """
        page, target = self.folder / "report.html", Path(folder) / "report.html"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (target.exists() and target.samefile(page)):
                shutil.copyfile(page, target)
        except OSError as error:
            raise InputError(f"folder: {target} cannot be written from {page}: {error.strerror}") from None
        return target

    def best(self, encoder: Any = None) -> Model:
        """The row that validation chose: its embedder and probe in one object; see `Model`.

        `encoder` is needed only if the comparison's own encoder cannot be loaded by its name.
        """
        return Model.load(self.folder / "model", encoder)


def compare(data: Any, *, activations: Any = None, output: str | Path | None = None, **options: Any) -> Comparison:
    """Compare covariance pooling with mean pooling and the controls on one table.

    Args:
        data: path of a table (see `covjax.data.read_table`), or a pandas DataFrame with the same columns.
        activations: token activations instead of an encoder: a path (`covjax.activations.files.open_arrays`), a
            mapping from the table's ids to arrays (tokens, features), or a list of arrays in the table's order. The
            table then needs no sequences.
        output: folder for results, report, model and checkpoints, by default `runs/` and the table's name. An
            interrupted run continues there.
        options: fields of `CompareConfig`, such as `encoder`, `rows`, `task`, `resamples`; lists may stand for tuples.
            `layers` may be `"all"` or a list of numbers.

    Raises InputError for bad data, an unknown option or value, and a folder that holds another comparison.
    """
    from covjax.comparison.compare import compare as run

    fields = {field.name for field in dataclasses.fields(CompareConfig)} - {"data", "output", "activations"}
    if odd := sorted(set(options) - fields):
        near = difflib.get_close_matches(odd[0], fields, 1)
        guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(fields))}"
        raise InputError(f"compare has no option {shown(odd[0])}; {guess}")
    given = {name: _plain(value) for name, value in options.items()}
    is_frame = hasattr(data, "to_csv")
    if not is_frame and not isinstance(data, str | os.PathLike):
        raise InputError(f"data: {type(data).__name__} is neither a path of a table nor a pandas DataFrame")
    name = "table" if is_frame else Path(data).name.split(".")[0]
    given.setdefault("name", name)
    if isinstance(layers := given.get("layers"), int | tuple) and not isinstance(layers, bool):
        given["layers"] = ",".join(map(str, layers if isinstance(layers, tuple) else (layers,)))
    if isinstance(activations, str | os.PathLike):
        given["activations"], activations = os.fspath(activations), None
    folder = Path(output or f"runs/{name}")
    path = _write_frame(data, folder) if is_frame else Path(data)
    config = CompareConfig(data=str(path), output=str(folder), **given)
    return Comparison(run(config, activations=activations), folder)


def _plain(value: Any) -> Any:
    """A value as a config has it: lists as tuples, paths as text, NumPy's numbers as Python's."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def _write_frame(frame: Any, folder: Path) -> Path:
    """The frame as a table in the folder, named by its content: that of an earlier run there is not written over."""
    text = frame.to_csv(index=False)
    path = folder / f"table-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:12]}.csv"
    if not path.is_file():
        with new_text(path) as file:
            file.write(text)
    return path
