"""Train a small language model of a genome, or of proteins, alone: masked letters, the architecture of NTv3 or ESM-2.

    covjax train encoder genome.fa.gz --holdout chr4,chr12 --output runs/lm
    covjax compare windows.csv --encoder runs/lm/encoder
    covjax train encoder p.fasta --kind esm --holdout 0.05 --output runs/plm

15 % of the bases of a window are hidden, and the model names them from the rest, on both strands. A base counts less
the more often it stands in the genome among the same neighbours. The records of --holdout are never trained on; their
bases are what the model is judged by, beside models that count k bases on each side. With --kind esm the same is done
with proteins: near copies are drawn as one and lie on one side, --holdout is the share that is held out.

Batches are split over all devices. A run killed at any point goes on from its newest checkpoint and ends bit-identical.
Writes `checkpoints`, `log.jsonl`, `tensorboard`, `held-out.json`, `figures` and `encoder`, a folder in the Hugging Face
layout.
"""

from collections.abc import Sequence

from covjax.jobs.cli import run_job
from covjax.training.config import EncoderConfig

MAIN_OPTIONS = ("data", "kind", "holdout", "output", "steps", "length", "width", "blocks")


def main(argv: Sequence[str], command: str = "covjax train encoder") -> int:
    """The command under the name it was typed by; exit status 2 and one line for a user's error."""
    return run_job(command, __doc__ or "", EncoderConfig, argv, MAIN_OPTIONS, _run)


def _run(config: EncoderConfig, force: bool) -> None:
    from covjax.training.encoder import KINDS, train_encoder

    report = train_encoder(config, force=force)
    if report:
        rivals = report["k-mers"]
        best = min(rivals, key=lambda k: rivals[k]["nats"])
        print(
            f"held-out: {report['model']['all']['nats']:.4f} nats a hidden {KINDS[config.kind].letter}; the best k-mer "
            f"model, {best} on each side, {rivals[best]['nats']:.4f}; encoder in {config.output}/encoder"
        )
