"""`covjax.compare` in Python: a table in, a typed result out."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from covjax.comparison.config import CompareConfig
from covjax.comparison.model import Model
from covjax.comparison.verdict import evidence, verdict
from covjax.errors import InputError, shown


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of a comparison: `results` is what stands in `results.json` of `folder`."""

    results: dict[str, Any]
    folder: Path

    @property
    def verdict(self) -> str:
        """The answer in one sentence: the pool that validation chose, its gains, and what they are evidence of."""
        return verdict(self.results)

    @property
    def evidence(self) -> str:
        """What the gain is evidence of: co-occurrence, quadratic, marginals, position, open or none."""
        return evidence(self.results)

    def records(self) -> list[dict[str, Any]]:
        """One flat record for every recipe and probe: its names, numbers, scores and intervals on the test set."""
        out = []
        for row in self.results["rows"]:
            for probe, fit in row["probes"].items():
                record = {key: row[key] for key in ("label", "title", "role", "rank", "num_features")}
                record = {"recipe": record.pop("label"), **record, "probe": probe, "penalty": fit["penalty"]}
                record["validation"] = fit["validation"]
                for metric, score in fit["test"].items():
                    record[metric] = score["value"]
                    record[f"{metric}_low"], record[f"{metric}_high"] = score["interval"]
                    record[f"{metric}_minus_mean"] = score["difference"]
                    low, high = score["difference_interval"]
                    record[f"{metric}_minus_mean_low"], record[f"{metric}_minus_mean_high"] = low, high
                out.append(record)
        return out

    def frame(self) -> Any:
        """`records` as a pandas DataFrame where pandas is installed, else the records."""
        try:
            import pandas
        except ImportError:
            return self.records()
        return pandas.DataFrame.from_records(self.records())

    def report(self, folder: str | Path) -> Path:
        """Copy the page into a folder; its path. The page is one file that needs no network."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self.folder / "report.html", folder / "report.html"))

    def best(self, encoder: Any = None) -> Model:
        """The row that validation chose, as embedder and probe in one object; see `Model`.

        `encoder` is needed only where the comparison's own cannot be loaded by its name.
        """
        return Model.load(self.folder / "model", encoder)


def compare(data: Any, *, output: str | Path | None = None, **options: Any) -> Comparison:
    """Compare covariance pooling with mean pooling and the controls on one table.

    Args:
        data: path of a table (see `covjax.data.read_table`), or a pandas DataFrame of the same columns.
        output: folder for results, report, model and checkpoints; a run that was interrupted goes on there.
            By default `runs/` and the table's name.
        options: fields of `CompareConfig`, such as `encoder`, `rows`, `task`, `resamples`; lists are taken as tuples.

    Raises InputError for bad data, an unknown option or value, and a folder of another comparison.
    """
    from covjax.comparison.compare import compare as run

    fields = {field.name for field in dataclasses.fields(CompareConfig)}
    if odd := sorted(set(options) - fields):
        raise InputError(f"compare has no option {shown(odd[0])}; there are {', '.join(sorted(fields))}")
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    if hasattr(data, "to_csv"):
        folder = Path(output or "runs/table")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "table.csv"
        data.to_csv(path, index=False)
    else:
        path = Path(data)
        folder = Path(output or f"runs/{path.name.split('.')[0]}")
    given.setdefault("name", path.name.split(".")[0])
    return Comparison(run(CompareConfig(data=str(path), output=str(folder), **given)), folder)
