"""The command `covjax explain`: a comparison's model and a file of sequences in, one page and its arrays out."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool

from covjax.comparison.results import read_results
from covjax.data.sequences import check_readable, read_tidy
from covjax.errors import InputError, shown
from covjax.jobs.cli import exit_on_input_error, parse
from covjax.jobs.disk import TEMPORARY, cell_text, put, refuse_existing, writing
from covjax.notes import silence
from covjax.options import at_least, check_options, option

if TYPE_CHECKING:  # JAX takes seconds to import, and the help needs none of it
    from covjax.comparison.model import Model
    from covjax.explanation.report import Material

PAGE, ARRAYS = "explanation.html", "explanation.npz"
DESCRIPTION = """Show what the score of a comparison's model is made of: one page, with a section for each label.

    covjax explain runs/mine/model --data my.csv --output runs/mine/explained
    covjax explain runs/go/model go.csv --labels GO:0005524 --pattern 'GK[ST]'

With the table of the comparison, its test sequences are explained (predictions.csv beside the model lists them). With
another file, all its sequences are.
"""


@dataclasses.dataclass(frozen=True)
class ExplainConfig:
    """The settings of `covjax explain`."""

    model: str = option("", "folder model/ that `covjax compare` wrote")
    data: str = option(
        "", "sequences: FASTA, CSV, TSV, Parquet or text; of the comparison's own table, the test split is used"
    )
    output: str = option("runs/explanation", f"folder for the page, {PAGE}, and its arrays, {ARRAYS}")
    encoder: str = option("", "where the encoder is now, if it has moved since the comparison")
    labels: tuple[str, ...] = option((), "labels to explain, separated by commas; empty: the six most frequent")
    sequences: int = option(
        200, "most sequences to explain; if there are more, that many are drawn, with a note", **at_least(2)
    )
    pattern: str = option("", "regular expression, such as '[AG].{4}GK[ST]': are the top tokens in its matches?")
    masked: float = option(
        0.05,
        "share of the tokens, those that add most, that is masked and that --pattern looks at",
        allowed=lambda x: 0 < x < 1,
        rule="above 0, below 1",
    )
    resamples: int = option(1000, "bootstrap resamples", **at_least(100))
    seed: int = option(0, "seed of all random draws", **at_least(0))
    max_length: int = option(2000, "longest sequence allowed, in letters; longer ones are refused", **at_least(1))
    force_letters: bool = option(False, "accept letters other than those that the encoder reads")


ODD = 0.1  # of the predictions: more that are others than in the comparison are of another table
MOST = 6  # labels of a page that nobody chose them for


class _Known(NamedTuple):
    """What `predictions.csv` says of a sequence."""

    split: str
    truth: str
    prediction: str


def main(argv: Sequence[str], command: str = "covjax explain") -> int:
    """Explain a comparison's model; exit status 2 and one line for a user's error."""
    with exit_on_input_error(command):
        first = ("model", "data", "output", "labels", "pattern", "encoder")
        force = "replace the page that is there"
        config, flags = parse(command, DESCRIPTION, ExplainConfig, argv, first, files=("model", "data"), force=force)
        check_options(config)
        if not (config.model and config.data):
            absent = "data" if config.model else "model"
            raise InputError(f"{absent}: none is named; {command} runs/mine/model --data my.csv")
        path = Path(config.output) / PAGE
        refuse_existing("output", path, flags.force, "folder")
        from covjax.comparison.model import Model
        from covjax.explanation.evidence import matches
        from covjax.explanation.report import explanation_page, summary
        from covjax.jobs.compiled import store_compiled_programs
        from covjax.jobs.folder import write_text

        matches(config.pattern, "")
        with silence(flags.quiet):
            store_compiled_programs()
            material = make_material(config, Model.load(config.model, config.encoder or None))
            write_text(path, explanation_page(material))
            _write_arrays(path.with_name(ARRAYS), material)
        for label, title in enumerate(material.titles):
            print(f"{title}: {summary(material, label)}")
        print(f"page: {path}")
    return 0


def make_material(config: ExplainConfig, model: "Model") -> "Material":
    """Read the file, explain what is to be explained, and test it; InputError for what cannot be."""
    from covjax.comparison.model import cells
    from covjax.explanation import evidence
    from covjax.explanation.explain import explain, model_blocks
    from covjax.explanation.report import DIRECTIONS, TERMS, Material

    if model.reading is not None:
        raise InputError(f"model: {config.model} is of activations made elsewhere; use covjax.explain(model, arrays)")
    model_blocks(model, config.labels)  # refused before hours of work
    ids, sequences = read_tidy(config.data, config.max_length)
    check_readable(config.data, ids, sequences, model.embedder.load_encoder(), config.force_letters)
    known = _known(config)
    splits = np.array([known[name].split if name in known else "" for name in ids])
    every = np.flatnonzero(splits == "test") if (splits == "test").any() else np.arange(len(ids))
    what = "test sequences" if (splits == "test").any() else f"sequences of {config.data}"
    if len(every) < 2:
        raise InputError(f"data: {len(every)} sequence to explain; at least 2 are needed")
    rows = every
    if len(every) > config.sequences:
        rows = np.sort(np.random.default_rng(config.seed).choice(every, config.sequences, replace=False))
    count = f"all {len(rows):,}" if len(rows) == len(every) else f"{len(rows):,} drawn of {len(every):,}"
    notes = [f"Explained: {count} {what}."]
    notes += [] if known else ["No predictions.csv with a split beside the model: training sequences are unknown."]
    truth = [known[ids[row]].truth if ids[row] in known else None for row in rows]
    labels, has = _labels(config, model, truth, notes)
    train = [sequences[row] for row in np.flatnonzero(splits == "train")]
    tokens = model.embedder.tokens([sequences[row] for row in rows])
    predictions = cells(model.decide(model.scores(tokens)), model.task, model.labels)
    _check_same(config, model, known, {ids[row]: each for row, each in zip(rows, predictions)})
    explained = explain(model, tokens, labels=labels, reference=train or tokens)
    fitted, encoder = model.embedder.fitted_, model.embedder.load_encoder()
    texts = [evidence.token_texts(encoder, sequences[row], len(each)) for row, each in zip(rows, explained.tokens)]
    top = [explained.directions(label, DIRECTIONS) for label in range(len(labels))]
    letters = iter(
        evidence.direction_letters(fitted, tokens, explained, [each for some in top for each in some], texts)
    )
    chosen = [sequences[row] for row in rows]
    if config.pattern and not any(len(each) == len(text) for each, text in zip(explained.tokens, chosen)):
        notes.append(f"{config.pattern} is not tested: {encoder.name} does not have one token for every letter.")
    draw = {"resamples": config.resamples, "seed": config.seed}
    patterns = [
        evidence.pattern_test(
            config.pattern, chosen, explained, label, _holders(has, label, len(rows)), config.masked, **draw
        )
        if config.pattern
        else None
        for label in range(len(labels))
    ]
    terms = [term for label in range(len(labels)) for term in explained.latent_terms(label, TERMS)]
    latents = sorted({latent for term in terms for latent in term.latents})
    return Material(
        model=config.model,
        facts={
            "recipe": fitted.recipe.name,
            "encoder": encoder.name,
            "probe": f"{model.probe_name}, {model.task}",
            "data": config.data,
        },
        notes=notes,
        reference=f"{len(train):,} training sequences" if train else "the sequences explained",
        explanation=explained,
        titles=_titles(config, labels),
        ids=[ids[row] for row in rows],
        texts=texts,
        has=has,
        pattern=config.pattern,
        masked=config.masked,
        deletions=evidence.deletion_test(fitted, tokens, explained, config.masked, **draw),
        patterns=patterns,
        letters=[[next(letters) for _ in some] for some in top],
        latents=evidence.latent_contexts(fitted, tokens, explained, latents) if latents else [],
    )


def _known(config: ExplainConfig) -> dict[str, _Known]:
    """Split and truth by id, from the comparison's predictions beside the model; nothing where there are none."""
    path = Path(config.model).absolute().parent / "predictions.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and "split" not in rows[0]:
        return {}  # of folds: their model was fitted on all, and the predictions are other models'
    return {cell_text(row["id"]): _Known(*(cell_text(row[name]) for name in _Known._fields)) for row in rows}


def _check_same(
    config: ExplainConfig, model: "Model", known: Mapping[str, _Known], predictions: Mapping[str, str]
) -> None:
    """Refuse a file whose ids are those of the comparison's table and whose sequences are others."""
    both = [name for name in predictions if name in known]
    other = [name for name in both if known[name].prediction != predictions[name]]
    if model.task != "regression" and len(other) > ODD * len(both):
        raise InputError(
            f"data: {config.data} has ids of the comparison's predictions.csv, but for {len(other):,} of {len(both):,} "
            f"(first: {shown(other[0])}) the model predicts another label than there; give the comparison's own table, "
            "or other ids"
        )


def _labels(
    config: ExplainConfig, model: "Model", truth: Sequence[str | None], notes: list[str]
) -> tuple[tuple[str, ...], Bool[np.ndarray, "n k"] | None]:
    """The labels to explain and which sequences have them, where that is known."""
    if model.task == "regression" or None in truth:
        has = None
    else:
        sets = [{each} if model.task == "multiclass" else set(str(each).split(";")) for each in truth]
        has = np.array([[name in each for name in model.labels] for each in sets])
    names = config.labels or model.labels
    if not config.labels and len(names) > MOST:
        order = range(len(names)) if has is None else np.argsort(-has.sum(0), kind="stable")
        names = tuple(model.labels[place] for place in list(order)[:MOST])
        most = "first" if has is None else "most frequent"
        notes.append(f"The {MOST} {most} of {len(model.labels)} labels are shown; --labels chooses others.")
    return names, None if has is None else has[:, [model.labels.index(name) for name in names]]


def _titles(config: ExplainConfig, labels: Sequence[str]) -> list[str]:
    """The labels with the names that the comparison's report gives them."""
    path = Path(config.model).absolute().parent / "results.json"
    terms = read_results(path).terms if path.is_file() else ()
    names = {term.label: term.name for term in terms if term.name != term.label}
    return [f"{label}, {names[label]}" if label in names else label for label in labels]


def _holders(has: np.ndarray | None, label: int, count: int) -> list[int]:
    """The sequences that have a label; all where that is not known."""
    return list(range(count)) if has is None else [int(row) for row in np.flatnonzero(has[:, label])]


def _write_arrays(path: Path, material: "Material") -> None:
    """Scores and contributions of all tokens, one after the other (`lengths` parts them), as `.npz`."""
    explained = material.explanation
    part = path.with_name(f".{path.name}.{TEMPORARY}")
    arrays = {name: getattr(explained, name) for name in ("bias", "scores", "constant", "residual")}
    arrays |= {"ids": np.array(material.ids, str), "labels": np.array(explained.labels, str)}
    arrays |= {"lengths": np.array([len(each) for each in explained.tokens])}
    arrays |= {"contributions": np.concatenate(explained.tokens)}
    for block, moments in zip(explained.blocks, explained.moments):
        if block.latents is not None and moments is not None:
            arrays[f"{block.name}_latents"] = np.array(block.latents.names)
            arrays[f"{block.name}_weights"] = block.latents.weights(block.weights)
            arrays[f"{block.name}_moments"] = moments
    try:
        with writing(path, sum(array.nbytes for array in arrays.values())):
            with part.open("wb") as file:
                np.savez_compressed(file, **arrays)
            put(part, path)
    finally:
        part.unlink(missing_ok=True)
