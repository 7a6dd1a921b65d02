"""Numbers of the pages that take seconds to make again: `python -m eval.claims` makes them and compares.

Each is read from its page, so a page that is edited is compared as it is now. Exit status 1 where one differs. Numbers
that take longer have their command beside them; `pytest -m slow tests/test_quickstart.py` compares the quickstart's.
"""

import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

import covjax
from covjax.comparison.config import CompareConfig
from covjax.data import Dataset, assign_splits, drop_rare, read_table
from covjax.encoders.ntv3 import NTv3
from covjax.encoders.weights import AskedTensors
from covjax.recipes.mixtures import PARTS
from covjax.tasks.configs import CONFIGS
from covjax.training.config import EncoderConfig
from covjax.training.genome import DNA
from covjax.training.language import MaskedModel, initial_weights, write_texts

ROOT = Path(__file__).resolve().parents[1]


class Claim(NamedTuple):
    """A number of a page: the words around it, `{}` in its place, and what makes it again."""

    page: str
    words: str
    make: Callable[[], float]
    tolerance: float = 0.0


class Outcome(NamedTuple):
    """A claim with the number that the page shows, None where the words are not there, and the number made again."""

    claim: Claim
    shown: float | None
    made: float

    @property
    def agrees(self) -> bool:
        """Whether both are the same within the claim's tolerance."""
        return self.shown is not None and abs(self.shown - self.made) <= self.claim.tolerance


def covariance_numbers(features: int) -> int:
    """Numbers of the pooled covariance of an encoder with that many features; nothing is computed."""
    pooled = jax.eval_shape(covjax.get_pooler("covariance"), jax.ShapeDtypeStruct((2, features), np.float32))
    return pooled.shape[0]


@cache
def _quickstart() -> Dataset:
    config: CompareConfig = CONFIGS["quickstart"]()
    data = assign_splits(read_table(config.data, "multilabel"))
    return drop_rare(data, config.min_positives)


def _share_of_relevant() -> float:
    data = _quickstart()
    train, test = (data.targets[data.rows(split)].astype(int) for split in ("train", "test"))
    return 100 * float((test @ train.T > 0).mean())


def _parameters() -> float:
    """Parameters, in millions, of the language model that `covjax train encoder` trains by default."""
    config = EncoderConfig()
    with tempfile.TemporaryDirectory() as folder:
        write_texts(Path(folder), DNA.files(config))
        encoder = NTv3("start", Path(folder), np.float32, AskedTensors(initial_weights(0)))
        model = MaskedModel(encoder, config.dtype)
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) / 1e6


def _mixtures(steps: int) -> int:
    return math.comb(steps + len(PARTS) - 1, steps)


CLAIMS = (
    Claim("README.md", "(3, {}) float32", lambda: covariance_numbers(64)),
    Claim("README.md", "try first: {} proteins", lambda: len(_quickstart().targets)),
    Claim("docs/command.md", "d(d + 1)/2 numbers, {} at d = 320", lambda: covariance_numbers(320)),
    Claim("docs/faq.md", "{} at d = 1,280", lambda: covariance_numbers(1280)),
    Claim("docs/rivals.md", "about the {} numbers of a covariance of 64 features", lambda: covariance_numbers(64)),
    Claim("docs/results.md", "over {} Gene Ontology terms", lambda: _quickstart().targets.shape[1]),
    Claim("docs/results.md", "terms, {} held-out proteins", lambda: len(_quickstart().rows("test"))),
    Claim("docs/retrieval.md", "({} train, 400 validation", lambda: len(_quickstart().rows("train"))),
    Claim("docs/retrieval.md", "much is relevant: {} %", _share_of_relevant, tolerance=0.5),
    Claim("docs/train-encoder.md", "the default has {} million parameters", _parameters, tolerance=0.005),
    Claim("docs/auto.md", "the {} mixtures in halves", lambda: _mixtures(2)),
    Claim("docs/auto.md", "the whole simplex of {} mixtures", lambda: _mixtures(4)),
)


def shown(claim: Claim, text: str) -> float | None:
    """The number that a page's text has in the place of `{}`; None where the words are not there."""
    words = [r"\s+".join(map(re.escape, part.split())) for part in claim.words.split("{}")]
    gaps = [r"\s*" if part != part.rstrip() else "" for part in claim.words.split("{}")]
    pattern = f"{words[0]}{gaps[0]}" + r"(-?\d[\d,]*(?:\.\d+)?)\s*" + words[1]
    match = re.search(pattern, text)
    return float(match[1].replace(",", "")) if match else None


def outcomes(claims: tuple[Claim, ...] = CLAIMS, root: Path = ROOT) -> Iterator[Outcome]:
    """Every claim, made again and compared with its page."""
    for claim in claims:
        yield Outcome(claim, shown(claim, (root / claim.page).read_text()), float(claim.make()))


def main(argv: list[str]) -> int:
    """The command; exit status 1 where a page says something else."""
    for claim, seen, made in (results := list(outcomes())):
        text = "not on the page" if seen is None else f"{seen:g}"
        print(f"{claim.page:<24} {claim.words:<54} page {text:<10} here {made:.6g}")
    wrong = sum(not result.agrees for result in results)
    print(f"{len(results) - wrong} of {len(results)} numbers agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
