"""What a training reports: its log, loss on held-out tokens, figures."""

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from covjax.activations.windows import Activations, EncodedActivations, StoredActivations
from covjax.autoencoders.sparse.module import Sums, density_histogram, loss_recovered
from covjax.encoders.checks import through_head
from covjax.errors import InputError
from covjax.jobs.disk import read_line, sealed_line, writing
from covjax.jobs.folder import write_text
from covjax.notes import figure_text, note


class Log:
    """Writes `folder`/log.jsonl, and `folder`/tensorboard where the package tensorboardX is installed.

    Rows after `step` are those of a killed run beyond its last checkpoint: they are dropped, and will come again. Of
    the `rows` before it, those that are missing or not as they were written are said to be lost.
    Raises InputError where the folder cannot be written, or wandb is asked for but not installed.
    """

    def __init__(
        self, folder: str | Path, step: int, rows: int = 0, wandb: str = "", config: Mapping[str, Any] | None = None
    ):
        self._wandb = _wandb(wandb, folder, config) if wandb else None
        self.path = Path(folder) / "log.jsonl"
        before = [row for row in read_log(folder) if row["step"] <= step]
        if len(before) < rows:
            print(f"note: {self.path}: {rows - len(before)} of {rows} rows are missing or damaged", file=sys.stderr)
        self.rows = rows
        write_text(self.path, "".join(sealed_line(row) + "\n" for row in before))
        try:
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(f"output: {folder} cannot be written: {error.strerror}") from None
        self._board = _tensorboard(Path(folder) / "tensorboard", step)
        self._config = dict(config or {})

    def write(self, step: int, split: str, values: Mapping[str, float], seconds: float) -> None:
        """One row: `split` is "train" or "held-out"."""
        row = {"step": step, "split": split, **values, "seconds": round(seconds, 3)}
        with writing(self.path):
            self._file.write(sealed_line(row) + "\n")
            self._file.flush()
            for name, value in values.items():
                if self._board is not None:
                    self._board.add_scalar(f"{split}/{name}", value, step)
        self.rows += 1
        if self._wandb is not None:
            self._wandb.log({f"{split}/{name}": value for name, value in values.items()}, step=step)

    def draw(self, step: int, model: Any, total: Any) -> None:
        """Histograms for TensorBoard: of every parameter, and of how often latents are active, by powers of ten."""
        if self._board is None or jax.process_count() > 1:
            return
        for name, values in histograms(model, total).items():
            with writing(self.path):
                self._board.add_histogram(name, values, step)

    def finish(self, figures: Mapping[str, float]) -> None:
        """The settings beside the last figures, for TensorBoard's table of runs."""
        if self._board is None:
            return
        from tensorboardX.summary import hparams

        settings = {**self._config, **self._config.get("options", {})}
        plain = {name: value for name, value in settings.items() if isinstance(value, bool | int | float | str)}
        for summary in hparams(plain, {f"held-out/{name}": value for name, value in figures.items()}):
            with writing(self.path):
                self._board.file_writer.add_summary(summary)

    def close(self) -> None:
        """Finish all files."""
        with writing(self.path):
            self._file.close()
            if self._board is not None:
                self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


class NoLog:
    """The log of a process that is not the one that writes it; it counts the rows."""

    def __init__(self, rows: int = 0):
        self.rows = rows

    def write(self, step: int, split: str, values: Mapping[str, float], seconds: float) -> None:
        """Nothing but one row more."""
        self.rows += 1

    def draw(self, step: int, model: Any, total: Any) -> None:
        """Nothing."""

    def finish(self, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


MOST_VALUES = 2**18  # of a parameter in a histogram; of a larger one, evenly spread ones


def histograms(model: Any, total: Any) -> dict[str, Float[np.ndarray, "_"]]:
    """Values of every parameter by name, and of the latents that were active at all log₁₀ of the share of tokens."""
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param)):
        values = np.asarray(leaf, np.float32).ravel()
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        out[f"parameters/{name}"] = values[:: -(-len(values) // MOST_VALUES) or 1]
    if isinstance(total, Sums):
        share = np.asarray(total.fired, np.float64) / max(float(total.count), 1)
        if (share > 0).any():
            out["log10 density"] = np.log10(share[share > 0])
    return out


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """Rows of `folder`/log.jsonl that are as they were written; the last one of a killed run may be cut in half."""
    path = Path(folder) / "log.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return [row for line in lines if (row := read_line(line)) is not None]


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _wandb(project: str, folder: str | Path, config: Mapping[str, Any] | None) -> Any:
    try:
        import wandb
    except ImportError:
        raise InputError(f"wandb: {project!r} is requested, but the package wandb is not installed") from None
    return wandb.init(project=project, dir=str(folder), config=dict(config or {}), resume="allow")


HEAD_SEQUENCES = 200  # at most so many go through the encoder's head, whose activations are all held in memory
CHUNK = 4096  # tokens reconstructed at a time


def held_out_report(
    model: Any,
    figures: dict[str, float],
    total: Any,
    source: Activations,
    rows: Int[np.ndarray, "m"],
    token_budget: int = 8192,
) -> dict[str, Any]:
    """`figures`, and what else can be said, as JSON: a sparse autoencoder's density histogram and loss recovered.

    The loss is that of the encoder's own head with the reconstruction in the place of the layer's activations, over the
    first `HEAD_SEQUENCES` of the held-out sequences; it needs an autoencoder that maps tokens to tokens, an encoder
    with a head (of a store, the one that is named), and sequences that were encoded whole. Where there is none, the
    report and a note say why.

    Args:
        total: sums of all held-out batches, of `make_evaluation`.
        source: what the activations come from, before they were held in memory.
        rows: the held-out sequences.
        token_budget: tokens per batch of the encoder.
    """
    report: dict[str, Any] = {"figures": figures}
    if isinstance(total, Sums):
        report["density"] = density_histogram(total)
    if (
        getattr(model, "examples", "") == "tokens"
        and callable(model)
        and isinstance(source, EncodedActivations | StoredActivations)
        and len(source.layers) == 1
        and getattr(source.encoder, "has_head", False)
    ):
        try:
            encoded = source.token_ids(rows[:HEAD_SEQUENCES].tolist())
            report["loss_recovered"] = {"sequences": len(encoded)} | _recovered(
                model, source.encoder, source.layers[0], encoded, token_budget
            )
        except InputError as error:  # the training is done, whatever these sequences allow
            note(f"no loss recovered: {error}")
            report["loss_recovered"] = {"skipped": str(error)}
    return report


def _recovered(model: Any, encoder: Any, layer: int, encoded: list[Any], token_budget: int) -> dict[str, float]:
    activations, loss = through_head(encoder, layer, encoded, token_budget=token_budget)
    x = np.asarray(activations, np.float32)
    reconstruct = nnx.jit(lambda model, x: model(x))
    padded = np.pad(x, ((0, -len(x) % CHUNK), (0, 0)))
    back = np.concatenate([np.asarray(reconstruct(model, p)) for p in np.split(padded, len(padded) // CHUNK)])
    return loss_recovered(loss, x, back[: len(x)], x.mean(0))


def draw_training(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """One panel per logged figure against steps, training and held-out; written to `path`, unless nothing is logged."""
    if not rows:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in dict.fromkeys(k for row in rows for k in row) if name not in ("step", "split", "seconds")]
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), layout="constrained", squeeze=False)
    for name, axis in zip(names, axes[0]):
        for split in ("train", "held-out"):
            points = [(row["step"], row[name]) for row in rows if row["split"] == split and name in row]
            if points:
                axis.plot(*zip(*points), marker="o" if split == "held-out" else None, label=split)
        axis.set(xlabel="step", title=figure_text(name, 40))
        axis.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_density(histogram: Mapping[str, int], path: str | Path) -> None:
    """Number of latents by the share of tokens in which they are active (see `density_histogram`).

    The rarest bins are left out where they are empty: among few tokens no share is so small.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    never, *bins = histogram.items()
    bins = list(itertools.dropwhile(lambda each: not each[1], bins)) or bins[-1:]
    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    bars = axis.bar(["never", *(f"≥ {name}" for name, _ in bins)], [never[1], *(count for _, count in bins)])
    axis.bar_label(bars, fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.set(xlabel="share of held-out tokens in which a latent is active", ylabel="latents")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
