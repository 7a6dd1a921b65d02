"""The real data sets as standard tables: a few files a kind of data, all with honest splits and groups."""

import csv
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from covjax.data import check_splits, read_table
from covjax.data.splits import SPLITS
from covjax.data.targets import target_names_path, write_target_names
from covjax.errors import InputError
from covjax.jobs.disk import TEMPORARY, new_text, put, text_cell
from covjax.sources import dna, proteins, text, yeast
from covjax.sources.draw import Row, Sizes


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set: what it is, the column its answers stand in, who builds its rows, how many at most.

    Where it has several outputs with names, `build` gives these too. `covariates` name the columns of every row's own.
    """

    summary: str
    column: str
    build: Callable[[Path, Sizes], list[Row] | yeast.Named]
    sizes: Sizes = (3500, 1000, 1000)
    covariates: tuple[str, ...] = ()


SOURCES = {
    "go": Source("proteins, Gene Ontology molecular function", "labels", proteins.go, (3000, 800, 800)),
    "deeploc": Source("proteins, subcellular localisation", "label", proteins.deeploc),
    "lactamase": Source("beta-lactamase mutants, fitness", "label", proteins.lactamase),
    "splice": Source("human DNA, splice acceptor, donor or neither", "label", dna.splice),
    "promoter": Source("human DNA, core promoter or not", "label", dna.promoter),
    "yeast_h4": Source("yeast DNA, histone H4 or not", "label", dna.yeast_h4),
    "terminator": Source("yeast terminators, expression", "label", dna.terminator),
    "mnase": Source("yeast chromosome II, nucleosome occupancy", "targets", dna.mnase),
    **{
        f"mnase_{window}": Source(
            f"the same, {window:,} nt around centres that have {max(dna.WINDOWS):,} nt of their block around them",
            "targets",
            functools.partial(dna.mnase, window=window, region=max(dna.WINDOWS)),
        )
        for window in dna.WINDOWS
    },
    **{
        f"yeast_chipexo{suffix}": Source(
            f"yeast genome in windows of {window:,} nt, ChIP-exo peaks of every protein",
            "targets",
            functools.partial(yeast.chipexo, window=window),
            sizes,
            yeast.WINDOW_COVARIATES,
        )
        for suffix, window, sizes in (
            ("", yeast.WINDOW, (8000, 2000, 4000)),
            ("_250", 250, (8000, 2000, 4000)),
            ("_4000", 4000, (2000, 500, 1000)),
        )
    },
    "yeast_occupancy": Source(
        "the same windows of 1,000 nt, ChIP-exo peaks of all proteins",
        "targets",
        yeast.occupancy,
        (8000, 2000, 4000),
        yeast.WINDOW_COVARIATES,
    ),
    "yeast_genes": Source(
        "yeast genes, coding sequence, expression and half-life",
        "targets",
        yeast.genes,
        (3000, 800, 1500),
        yeast.CODON_COVARIATES,
    ),
    "yeast_genes_flanks": Source(
        "the same genes, promoter and terminator",
        "targets",
        functools.partial(yeast.genes, flanks=True),
        (3000, 800, 1500),
    ),
    "trec": Source("questions, type of the answer", "label", text.trec, (3400, 1000, 500)),
    "subj": Source("sentences, subjective or objective", "label", text.subj, (3400, 1000, 1000)),
    "sentiment": Source("sentences, negative or positive", "label", text.sentiment, (3400, 1000, 1000)),
}


def write_source(name: str, path: str | Path, shared: str | Path, sizes: Sizes | None = None) -> Path:
    """Write a source as a standard table (`.csv.gz`) and return its path; prints what it holds and what it leaves out.

    `shared` is the folder with the real data (COVJAX_SHARED), `sizes` the most rows of train, validation and test in
    place of the source's own. The same data give the same bytes. The table passes `read_table` and `check_splits`
    before it appears under its name, so it is whole or not there. Outputs that have names get them in a table beside
    it (`covjax.data.targets.target_names_path`), for `--label-names`.

    Raises InputError for an unknown name, a path without `.csv.gz`, absent data, and sizes that leave no valid table.
    """
    if name not in SOURCES:
        raise InputError(f"source: {name!r} is not one of {', '.join(SOURCES)}")
    path, source = Path(path), SOURCES[name]
    if not path.name.endswith(".csv.gz"):
        raise InputError(f"path: {path} must end in .csv.gz")
    made = source.build(Path(shared), sizes or source.sizes)
    rows, names = made if isinstance(made, tuple) else (made, ())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{TEMPORARY}-") as folder:
            whole = Path(folder) / path.name
            _write(whole, (source.column, *source.covariates), rows)
            check_splits(read_table(whole, covariates=source.covariates))
            if names:
                write_target_names(target_names_path(path), names)
            put(whole, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    print(f"{name}: {describe(rows)}\nwritten to {path}")
    return path


def describe(rows: Sequence[Row]) -> str:
    """Rows, groups and length quantiles of every split, one line each."""
    lines = []
    for split in SPLITS:
        part = [row for row in rows if row.split == split]
        low, middle, high = np.quantile([len(row.sequence) for row in part], (0, 0.5, 1))
        groups = len({row.group for row in part})
        lines.append(
            f"{split:>10} {len(part):>6,} rows {groups:>6,} groups, length {low:.0f} / {middle:.0f} / {high:.0f}"
        )
    return "length as minimum / median / maximum\n" + "\n".join(lines)


def _write(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    with new_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        answer, *others = columns
        writer.writerow(["id", "sequence", answer, "split", "group", *others])
        for row in rows:
            cells = row.id, row.sequence, row.answer, row.split, row.group
            writer.writerow([*map(text_cell, cells), *(f"{number:.6g}" for number in row.covariates)])
