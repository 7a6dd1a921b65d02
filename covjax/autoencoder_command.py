"""Train an autoencoder on token activations: any registered kind, resumable at any point.

    covjax train proteins.fasta --encoder unirep-64 --kind tucker
    covjax train --store runs/extraction --kind topk --options latents=1024:k=16

Activations come from a store of `covjax extract --keep-tokens true` or straight from an encoder over a sequence file.
Examples are shuffled by index, tokens that do not fit into memory in blocks of sequences (--mix-tokens); batches are
split over all devices, with --distributed over those of all processes, each of which reads its own part;
--model-parallel splits the latents of a sparse autoencoder over several devices. --sweep trains one for every
combination of some settings in one pass. A run killed at any point goes on from its newest checkpoint and ends
bit-identical. Writes `checkpoints`, `log.jsonl`, `tensorboard`, `held-out.json` (density of the latents, loss
recovered), `figures` and `autoencoder`, which `covjax.autoencoders.load` reads.
"""

from collections.abc import Sequence

import numpy as np

from covjax.data import read_table
from covjax.data.sequences import read_sequences
from covjax.errors import InputError, shown
from covjax.jobs.cli import run_job
from covjax.notes import note
from covjax.training.config import AutoencoderConfig

MAIN_OPTIONS = ("data", "store", "encoder", "layer", "kind", "options", "steps", "output")


def main(argv: Sequence[str], command: str = "covjax train") -> int:
    """The command under the name it was typed by; exit status 2 and one line for a user's error."""
    return run_job(command, __doc__ or "", AutoencoderConfig, argv, MAIN_OPTIONS, _run)


def _run(config: AutoencoderConfig, force: bool) -> None:
    if config.labels and not config.sweep:
        raise InputError(f"labels: {shown(config.labels)} is for the page of a sweep; add --sweep k=16,32")
    if config.sweep:
        _sweep(config, force)
    else:
        _one(config, force)


def _one(config: AutoencoderConfig, force: bool) -> None:
    from covjax.training.autoencoder import train_autoencoder

    result = train_autoencoder(config, force=force)
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result.held_out.items())
    share = result.report.get("loss_recovered", {}).get("recovered_from_mean")
    figures += "" if share is None else f", loss recovered {share:.3f} (from mean ablation)"
    print(f"held-out after {config.steps:,} steps: {figures}; in {config.output}")


def _sweep(config: AutoencoderConfig, force: bool) -> None:
    from covjax.sweeps.sweep import PAGE, train_sweep

    labels, names = read_labels(config) if config.labels else (None, None)
    results = train_sweep(config, labels=labels, force=force, names=names)
    for row in results["members"]:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in row["held_out"].items())
        print(f"{row['name']}: {figures}{' *' * bool(row['on_front'])}")
    print(f"page: {config.output}/{PAGE} (*: on the front of FVU and L0)")


def read_labels(config: AutoencoderConfig) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of a sweep's sequences, (sequences, labels) booleans, and their names, matched by id.

    Raises InputError for a table of numbers, and for sequences that it does not label.
    """
    from covjax.data.store import read_run

    data = read_table(config.labels, needs_sequence=False, missing="drop")
    if data.task == "regression":
        raise InputError(f"labels: {config.labels} has numbers; probes of latents need classes or labels")
    ids = read_run(config.store)["ids"] if config.store else read_sequences(config.data)[0]
    places = {name: row for row, name in enumerate(data.ids)}
    if absent := [name for name in ids if name not in places]:
        source = config.store or config.data
        raise InputError(
            f"labels: {config.labels} lacks {len(absent):,} of the {len(ids):,} sequences of {source}, first "
            f"{shown(absent[0])}; give a table with a row for every id"
        )
    note(f"labels: {len(data.target_names)} of {config.labels}")
    return data.targets[[places[name] for name in ids]].astype(bool), data.target_names
