"""What `eval.stability` trains, and how often; apart from the command, whose module a config would import anew."""

import dataclasses

from covjax.errors import InputError
from covjax.options import option
from covjax.training.autoencoder_config import AutoencoderConfig


@dataclasses.dataclass(frozen=True)
class StabilityConfig:
    """What is trained, and how often."""

    name: str = option("my-autoencoder", "title of the report")
    output: str = option("runs/stability", "folder of the trainings, the numbers and the report")
    train: AutoencoderConfig = dataclasses.field(default_factory=AutoencoderConfig)
    seeds: tuple[int, ...] = option((0, 1, 2), "of the initial parameters and of the order of the examples")
    table: str = option(
        "", "labelled CSV or TSV (see covjax.comparison.compare): train on its training rows, and probe"
    )
    penalties: tuple[float, ...] = option((1e-4, 1e-3, 1e-2, 1e-1, 1.0), "ridge grid, chosen on validation")

    def check(self) -> None:
        """Raise InputError naming the first field whose value is not allowed."""
        if len(self.seeds) < 2 or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds: {self.seeds} is not allowed; expected two or more different ones, >= 0")
        dataclasses.replace(self.train, data=self.table, store="").check() if self.table else self.train.check()
        if not self.penalties or min(self.penalties) <= 0:
            raise InputError(f"penalties: {self.penalties} is not allowed; expected numbers > 0")
