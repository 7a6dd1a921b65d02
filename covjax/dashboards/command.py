"""The command `covjax dashboard`: an autoencoder and a store in, one page and JSON out."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covjax.data.text import whole_number
from covjax.errors import InputError
from covjax.jobs.cli import exit_on_input_error, parse
from covjax.jobs.disk import refuse_existing
from covjax.notes import progress, silence
from covjax.options import at_least, check_options, option

if TYPE_CHECKING:  # JAX takes seconds to import, and the help needs none of it
    from covjax.dashboards.build import Dashboard

PAGE, RECORDS, BATCHES = "dashboard.html", "latents.jsonl", "neuronpedia"
DESCRIPTION = """Show what every latent of a sparse autoencoder is active on: one page, with JSON beside it.

    covjax dashboard runs/sae/autoencoder --store runs/extraction
    covjax dashboard runs/sae/autoencoder --store runs/extraction --labels t.csv

SAE is a folder that covjax train wrote, or one of SAELens, dictionary_learning, sparsify or Gemma Scope, on disk or on
the hub. The store is what covjax extract --keep-tokens true wrote.
"""


@dataclasses.dataclass(frozen=True)
class DashboardConfig:
    """The settings of `covjax dashboard`."""

    autoencoder: str = option("", "folder or hub name of a sparse autoencoder")
    store: str = option("", "folder that covjax extract --keep-tokens true wrote")
    output: str = option("runs/dashboard", f"folder for {PAGE}, {RECORDS} and {BATCHES}/")
    layer: int | None = option(None, "layer of the store; needed if it has several")
    labels: str = option("", "table of labelled sequences with the store's ids, for enrichment")
    annotations: str = option("", "BED, GFF or TSV of stretches of the store's sequences, for enrichment")
    compare: tuple[str, ...] = option((), "the same autoencoder from other seeds, separated by commas")
    encoder: str = option("", "the store's encoder, for effects on the logits of its head")
    tokens: int = option(1_000_000, "tokens to read; from a larger store, random sequences", **at_least(1))
    reach: int = option(10, "tokens on each side of a context", **at_least(0))
    seed: int = option(0, "seed of random choices", **at_least(0))


def main(argv: Sequence[str], command: str = "covjax dashboard") -> int:
    """Make a dashboard; exit status 2 and one line for a user's error."""
    with exit_on_input_error(command):
        first = ("autoencoder", "store", "output", "labels", "annotations", "compare", "encoder")
        force = "replace the dashboard that is there"
        config, flags = parse(
            command, DESCRIPTION, DashboardConfig, _joined(argv), first, files=("autoencoder",), force=force
        )
        check_options(config)
        if not (config.autoencoder and config.store):
            absent = "store" if config.autoencoder else "autoencoder"
            raise InputError(f"{absent}: none is named; {command} runs/sae/autoencoder --store runs/extraction")
        path = Path(config.output) / PAGE
        refuse_existing("output", path, flags.force, "folder")
        from covjax.dashboards.build import dashboard
        from covjax.jobs.compiled import store_compiled_programs

        with silence(flags.quiet):
            store_compiled_programs()
            options = dataclasses.asdict(config)
            del options["output"]
            board = dashboard(options.pop("autoencoder"), options.pop("store"), **options)
            write_dashboard(board, config.output)
        print(f"{len(board):,} latents over {board.tokens:,} tokens")
        print(f"page: {path}")
    return 0


def _joined(argv: Sequence[str]) -> list[str]:
    """`--compare A B` as `--compare A,B`."""
    out: list[str] = []
    for word in argv:
        if len(out) > 1 and out[-2] == "--compare" and not word.startswith("-"):
            out[-1] += f",{word}"
        else:
            out.append(word)
    return out


def write_dashboard(board: "Dashboard", folder: str | Path) -> Path:
    """Write the page, a record a line, and the same in Neuronpedia's layout; return the page's path.

    Raises InputError for files that cannot be written.
    """
    from covjax.dashboards.page import PART, dashboard_page
    from covjax.jobs.folder import write_text

    folder = Path(folder)

    def records() -> Iterator[dict[str, Any]]:
        batch = list[dict[str, Any]]()
        lines = list[str]()
        for latent in progress(range(len(board)), unit="latent"):
            record = board.record(latent)
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            batch.append(record)
            yield record
            if len(batch) == PART or latent == len(board) - 1:
                content = json.dumps(neuronpedia(board, batch), ensure_ascii=False)
                write_text(folder / BATCHES / f"batch-{latent // PART}.json", content)
                batch.clear()
        write_text(folder / RECORDS, "".join(lines))

    write_text(folder / PAGE, "".join(dashboard_page(board, records())))
    for file in (folder / BATCHES).glob("batch-*.json"):  # of a larger autoencoder that stood here before
        number = whole_number(file.stem.removeprefix("batch-"))
        if number is not None and number * PART >= len(board):
            file.unlink()
    return folder / PAGE


def neuronpedia(board: "Dashboard", records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Records in the layout that SAEDashboard writes for Neuronpedia; figures without a key there are left out.

    A group of contexts is a bin: the highest have bin_min and bin_contains of -1, as there.
    """
    return {
        "model_id": board.facts["encoder"].rpartition(", layer ")[0],
        "layer": int(board.facts["encoder"].rpartition(", layer ")[2]),
        "sae_set": board.facts["autoencoder"],
        "features": [_feature(board, record) for record in records],
    }


def _feature(board: "Dashboard", record: dict[str, Any]) -> dict[str, Any]:
    histogram, logits = record["histogram"], record.get("logits", {"raised": [], "lowered": []})
    bins: list[tuple[Any, ...]] = [(-1, record["max"], -1, record["top"])]
    bins += [(each["low"], each["high"], 0.25, each["contexts"]) for each in reversed(record["quarters"])]
    return {
        "feature_index": record["latent"],
        "correlated_features_indices": [each["latent"] for each in record["together"]],
        "correlated_features_pearson": [each["phi"] for each in record["together"]],
        "neg_str": [each["class"] for each in logits["lowered"]],
        "neg_values": [each["effect"] for each in logits["lowered"]],
        "pos_str": [each["class"] for each in logits["raised"]],
        "pos_values": [each["effect"] for each in logits["raised"]],
        "frac_nonzero": record["density"],
        "freq_hist_data_bar_values": [histogram["width"] * (i + 0.5) for i in range(len(histogram["counts"]))],
        "freq_hist_data_bar_heights": histogram["counts"],
        "n_prompts_total": len(board.corpus.ids),
        "dataset": board.facts["store"],
        "activations": [
            {
                "bin_min": low,
                "bin_max": high,
                "bin_contains": share,
                "tokens": each["letters"],
                "values": each["values"],
            }
            for low, high, share, contexts in bins
            for each in contexts
        ],
    }
