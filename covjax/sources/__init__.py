"""The real data sets as standard tables: a few files a kind of data, all with honest splits and groups."""

import csv
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from covjax.data import check_splits, read_table
from covjax.data.audio import write_arrays
from covjax.data.splits import SPLITS
from covjax.data.targets import target_names_path, write_target_names
from covjax.errors import InputError
from covjax.jobs.disk import TEMPORARY, new_text, put, text_cell
from covjax.sources import dna, proteins, rna, speech, text, yeast
from covjax.sources.draw import Row, Sizes


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set: what it is, the column its answers stand in, who builds its rows, how many at most.

    Where it has several outputs with names, `build` gives these too. `covariates` name the columns of every row's own.
    `tokens` gives, in place of sequences, an array (tokens, features) for each of the ids: (id, array), in any order.
    """

    summary: str
    column: str
    build: Callable[[Path, Sizes], list[Row] | yeast.Named]
    sizes: Sizes = (3500, 1000, 1000)
    covariates: tuple[str, ...] = ()
    tokens: Callable[[Path, Sequence[str]], Iterator[tuple[str, np.ndarray]]] | None = None


AUDIO = (1500, 500, 500), (), speech.log_mel_frames  # sizes, no further columns, tokens
SOURCES = {
    "go": Source("proteins, Gene Ontology molecular function", "labels", proteins.go, (3000, 800, 800)),
    "ec": Source("enzymes, third-level classes", "labels", proteins.ec, (3000, 800, 800)),
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
    "rna_degradation": Source(
        "RNAs, rate of degradation and mean reactivities", "targets", rna.degradation, (1100, 240, 240), rna.STRUCTURE
    ),
    **{
        name: Source(f"spoken digits, log-mel frames, {name.split('_')[-1]} as test", "label", build, *AUDIO)
        for name, build in speech.DIGIT_TABLES.items()
    },
    "spoken_speakers": Source("speakers of digits, log-mel frames", "label", speech.speakers, *AUDIO),
}


def tokens_path(table: str | Path) -> Path:
    """The file of tokens beside a table of a source that has them."""
    table = Path(table)
    return table.with_name(f"{table.name.removesuffix('.csv.gz')}.npz")


def write_source(name: str, path: str | Path, shared: str | Path, sizes: Sizes | None = None) -> Path:
    """Write a source as a standard table (`.csv.gz`) and return its path; prints what it holds and what it leaves out.

    `shared` is the folder with the real data (COVJAX_SHARED), `sizes` the most rows of train, validation and test in
    place of the source's own. The same data give the same bytes. The table passes `read_table` and `check_splits`
    before it appears under its name, so it is whole or not there. A source with tokens writes them first, to
    `tokens_path(path)`. Outputs that have names get them in a table beside it
    (`covjax.data.targets.target_names_path`), for `--label-names`.

    Raises InputError for an unknown name, a path without `.csv.gz`, absent data, and sizes that leave no valid table.
    """
    if name not in SOURCES:
        raise InputError(f"source: {name!r} is not one of {', '.join(SOURCES)}")
    path, source = Path(path), SOURCES[name]
    if not path.name.endswith(".csv.gz"):
        raise InputError(f"path: {path} must end in .csv.gz")
    made = source.build(Path(shared), sizes or source.sizes)
    rows, names = made if isinstance(made, tuple) else (made, ())
    lengths = {row.id: len(row.sequence) for row in rows}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{TEMPORARY}-") as folder:
            whole = Path(folder) / path.name
            if source.tokens is not None:
                lengths = write_arrays(tokens_path(whole), source.tokens(Path(shared), list(lengths)))
            _write(whole, source, rows)
            has_letters = source.tokens is None
            check_splits(read_table(whole, needs_sequence=has_letters, covariates=source.covariates))
            if not has_letters:
                put(tokens_path(whole), tokens_path(path))
            if names:
                write_target_names(target_names_path(path), names)
            put(whole, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    print(f"{name}: {describe(rows, lengths)}\nwritten to {path}")
    return path


def describe(rows: Sequence[Row], lengths: Mapping[str, int]) -> str:
    """Rows, groups and length quantiles of every split, one line each; `lengths` are letters or tokens by id."""
    lines = []
    for split in SPLITS:
        part = [row for row in rows if row.split == split]
        low, middle, high = np.quantile([lengths[row.id] for row in part], (0, 0.5, 1))
        groups = len({row.group for row in part})
        lines.append(
            f"{split:>10} {len(part):>6,} rows {groups:>6,} groups, length {low:.0f} / {middle:.0f} / {high:.0f}"
        )
    return "length as minimum / median / maximum\n" + "\n".join(lines)


def _write(path: Path, source: Source, rows: Sequence[Row]) -> None:
    """Write the table; without a column `sequence` where the source has tokens."""
    letters = ["sequence"] if source.tokens is None else []
    with new_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", *letters, source.column, "split", "group", *source.covariates])
        for row in rows:
            cells = [row.id, *([row.sequence] if letters else []), row.answer, row.split, row.group]
            writer.writerow([*map(text_cell, cells), *(f"{number:.6g}" for number in row.covariates)])
