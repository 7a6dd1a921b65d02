"""Small runs of three commands for the tests of folders, damage, full disks and signals.

`python -m tests.jobs_worker KIND FOLDER [OPTION …]` is the command on the input that `write_inputs` put beside FOLDER.
"""

import sys
from pathlib import Path

import numpy as np

from covjax.comparison import command
from covjax.extraction import command as extract_command
from covjax.jobs.cli import exit_on_input_error
from covjax.training.autoencoder import train_autoencoder
from tests import test_extract  # registers the encoder "extraction-toy"
from tests.test_compare import OPTIONS, write_table  # registers the encoder "tiny"
from tests.toy_autoencoders import activations, config

KINDS = ("extract", "train", "compare")
ROWS = "mean,covariance,composition"


def write_inputs(folder: Path) -> None:
    """The table and the sequences that the commands read."""
    rng = np.random.default_rng(0)
    write_table(folder / "t.csv", rng, n=100)
    lengths = rng.choice([17, 44], 25)  # two, so that few programs are compiled
    letters = ("".join(rng.choice(list("ACGT"), n)) for n in lengths)
    (folder / "x.fasta").write_text("".join(f">s{i}\n{s}\n" for i, s in enumerate(letters)))


def run(kind: str, folder: Path, *options: str) -> None:
    """One of the commands, in this process; as on the command line, SystemExit for what the user can put right."""
    if kind == "extract":
        given = ["--data", str(folder.parent / "x.fasta"), "--encoder", "extraction-toy", "--layers", "0,-1"]
        given += ["--poolers", "mean,covariance", "--keep-tokens", "true", "--shard-size", "9", "--token-budget", "100"]
        extract_command.main([*given, "--output", str(folder), *options])
    elif kind == "compare":
        given = ["--data", str(folder.parent / "t.csv"), *OPTIONS, "--trained", "", "--ranks", "2", "--rows", ROWS]
        command.main([*given, "--probes", "ridge", "--output", str(folder), *options])
    else:
        steps = int(options[options.index("--steps") + 1]) if "--steps" in options else 12
        with exit_on_input_error("train"):
            train_autoencoder(config(folder, steps=steps, save_every=2), activations(), force="--force" in options)


if __name__ == "__main__":
    assert test_extract
    run(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
