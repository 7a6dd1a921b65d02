"""Are the contributions worth believing? Deleted tokens, matches of a pattern, and the letters behind a direction."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from covjax.activations import ArrayTokens
from covjax.embedding.fitted import FittedRecipe
from covjax.encoders import tokenize
from covjax.errors import InputError, shown
from covjax.explanation.contributions import pooled, score
from covjax.explanation.explain import Direction, Explanation, each_sequence
from covjax.metrics import interval, resample_counts

RARE = 0.005  # letters with a smaller share of the tokens are not named


@dataclasses.dataclass(frozen=True)
class AgainstChance:
    """A mean over sequences beside that of chance, their difference, and its 95 % bootstrap interval over sequences."""

    value: float
    chance: float
    difference: float
    interval: tuple[float, float] | None
    sequences: int


def deletion_test(
    fitted: FittedRecipe,
    tokens: ArrayTokens,
    explanation: Explanation,
    share: float = 0.05,
    draws: int = 10,
    resamples: int = 1000,
    seed: int = 0,
) -> list[AgainstChance | None]:
    """For every label by how much its score drops where the tokens that add most are masked, and where random ones are.

    `tokens` are those that were explained. At least one token is masked, and at most all but one: sequences of a single
    token are left out. The tokens that stay are pooled again in float64; the encoder does not run again, so that they
    still know of their neighbours. None where fewer than two sequences are left.
    """
    drops, contributions = [], explanation.contributions

    def drop(row: int, projected: Sequence[np.ndarray], masked: np.ndarray) -> np.ndarray:
        left = explanation.bias
        for block, x in zip(explanation.blocks, projected, strict=True):
            left = left + score(block, pooled(block, np.delete(x, masked, axis=0)))
        return np.asarray(explanation.scores[row] - left)

    for row, z in each_sequence(fitted, tokens, "delete"):
        if len(z) < 2:
            continue
        count = min(math.ceil(share * len(z)), len(z) - 1)
        random, projected = np.random.default_rng([seed, row]), [block.project(z) for block in explanation.blocks]
        order = np.argsort(-contributions[row], axis=0, kind="stable")[:count]
        top = [drop(row, projected, order[:, label])[label] for label in range(len(explanation.labels))]
        others = [drop(row, projected, random.permutation(len(z))[:count]) for _ in range(draws)]
        drops.append((top, np.mean(others, axis=0)))
    if len(drops) < 2:
        return [None] * len(explanation.labels)
    values, chances = (np.array(each) for each in zip(*drops))
    return [compared(values[:, j], chances[:, j], resamples, seed) for j in range(len(explanation.labels))]


@dataclasses.dataclass(frozen=True)
class PatternTest:
    """Do the tokens that add most lie in the matches of a pattern?

    `top` is how often the first of them does. `enrichment` is how many times more of them lie there than of as many
    random tokens, with its 95 % bootstrap interval over sequences.
    """

    top: AgainstChance
    enrichment: float
    interval: tuple[float, float] | None


def pattern_test(
    pattern: str,
    sequences: Sequence[str],
    explanation: Explanation,
    label: int,
    rows: Sequence[int],
    share: float = 0.05,
    resamples: int = 1000,
    seed: int = 0,
) -> PatternTest | None:
    """How many of a sequence's tokens that add most to a label's score lie in a match of a pattern, beside chance.

    Of those `rows` whose sequence has a match, and a token for every letter; chance is the share of their letters that
    a match covers. `share` of the tokens are those that add most, at least one. None where the sequences are fewer
    than two.
    """
    hits, shares, chances = [], [], []
    for row in rows:
        contributions = explanation.tokens[row][:, label].sum(1)
        if len(contributions) == len(sequences[row]):
            inside = matches(pattern, sequences[row])
            if inside.any():
                order = np.argsort(-contributions, kind="stable")[: math.ceil(share * len(inside))]
                hits.append(float(inside[order[0]]))
                shares.append(inside[order].mean())
                chances.append(inside.mean())
    if len(hits) < 2:
        return None
    counts = resample_counts([str(i) for i in range(len(hits))], resamples, seed)
    ends = interval((counts @ shares) / (counts @ chances))
    top = compared(np.array(hits), np.array(chances), resamples, seed)
    return PatternTest(top, float(np.sum(shares) / np.sum(chances)), ends)


def matches(pattern: str, sequence: str) -> np.ndarray:
    """Which letters lie in a match of a regular expression, overlapping ones included; InputError for a bad one."""
    try:
        compiled = re.compile(f"(?=({pattern}))", re.IGNORECASE)
    except re.error as error:
        raise InputError(f"pattern: {shown(pattern)} is not a regular expression: {error}") from None
    inside = np.zeros(len(sequence), bool)
    for match in compiled.finditer(sequence):
        inside[match.start(1) : match.end(1)] = True
    return inside


def compared(
    values: Float[np.ndarray, "n"], chances: Float[np.ndarray, "n"], resamples: int, seed: int
) -> AgainstChance:
    """Means of both, and the interval of their difference."""
    gaps = values - chances
    counts = resample_counts([str(i) for i in range(len(gaps))], resamples, seed)
    ends = interval(counts @ gaps / counts.sum(1))
    return AgainstChance(float(values.mean()), float(chances.mean()), float(gaps.mean()), ends, len(gaps))


@dataclasses.dataclass(frozen=True)
class Context:
    """A place where a latent is large: the sequence's row, the token (from 0), and the latent's values around it.

    `values` are those of the tokens from `start` on.
    """

    row: int
    place: int
    start: int
    values: Float[np.ndarray, "t"]

    @property
    def value(self) -> float:
        """The latent at the place."""
        return float(self.values[self.place - self.start])


@dataclasses.dataclass(frozen=True)
class LatentContexts:
    """A latent, the share of tokens in which it is above 0, and the sequences where it is largest, the first first."""

    latent: int
    density: float
    contexts: list[Context]


def latent_contexts(
    fitted: FittedRecipe,
    tokens: ArrayTokens,
    explanation: Explanation,
    latents: Sequence[int],
    count: int = 3,
    reach: int = 12,
) -> list[LatentContexts]:
    """For every latent the `count` sequences in which it is largest, `reach` tokens to both sides of the place.

    `tokens` are those that were explained; a sequence is there once. Of equal values the sequence and the token that
    come first are ahead.
    """
    columns: dict[int, tuple[int, int]] = {}
    for number, block in reversed(list(enumerate(explanation.blocks))):
        if block.latents is not None:
            columns |= {int(latent): (number, place) for place, latent in enumerate(block.latents.numbers)}
    contexts: list[list[Context]] = [[] for _ in latents]
    active, total = np.zeros(len(latents), int), 0
    for row, z in each_sequence(fitted, tokens, "contexts"):
        projected = {number: explanation.blocks[number].project(z) for number in {n for n, _ in columns.values()}}
        total += len(z)
        for which, latent in enumerate(latents):
            number, column = columns[latent]
            line = projected[number][:, column]
            place = int(np.argmax(line))
            active[which] += np.count_nonzero(line > 0)
            if line[place] > 0:
                start = max(place - reach, 0)
                contexts[which].append(Context(row, place, start, line[start : place + reach + 1].copy()))
                contexts[which] = sorted(contexts[which], key=lambda each: (-each.value, each.row))[:count]
    return [LatentContexts(*each) for each in zip(latents, (active / total).tolist(), contexts, strict=True)]


def direction_letters(
    fitted: FittedRecipe,
    tokens: ArrayTokens,
    explanation: Explanation,
    directions: Sequence[Direction],
    texts: Sequence[Sequence[str]],
    count: int = 4,
) -> list[list[tuple[str, float]]]:
    """For every direction v the letters (tokens' texts) that lie along it most.

    Of a matrix's: the mean square of v·y at the letter over that at all tokens. Of a vector's: the mean of v·x there.
    Letters that are fewer than 0.5 % of the tokens are left out.
    """
    names = {text: place for place, text in enumerate(dict.fromkeys(text for each in texts for text in each))}
    sums, often = np.zeros((len(directions), len(names))), np.zeros(len(names))
    for row, z in each_sequence(fitted, tokens, "letters"):
        places = np.array([names[text] for text in texts[row]])
        np.add.at(often, places, 1)
        projected = [block.project(z) for block in explanation.blocks]
        for number, each in enumerate(directions):
            block, x = explanation.blocks[each.block], projected[each.block]
            x = x - x.mean(0) if block.is_matrix and block.of == "covariance" else x
            line = x @ each.vector
            np.add.at(sums[number], places, line**2 if block.is_matrix else line)
    known, out = often >= RARE * often.sum(), []
    for each, total in zip(directions, sums):
        values = total / np.maximum(often, 1)
        if explanation.blocks[each.block].is_matrix:
            values = values / max(total.sum() / often.sum(), np.finfo(float).tiny)
        order = [place for place in np.argsort(-values, kind="stable") if known[place]][:count]
        every = list(names)
        out.append([(every[place], float(values[place])) for place in order])
    return out


def token_texts(encoder: Any, sequence: str, count: int) -> list[str]:
    """What stands behind each of a sequence's `count` pooled tokens: its letter, the vocabulary's word, or a number."""
    if count == len(sequence):
        return list(sequence)
    ids = getattr(getattr(encoder, "vocabulary", None), "ids", None)
    if ids is not None:
        numbers, _, pool = tokenize(encoder, [sequence])
        words = {number: word for word, number in ids.items()}
        own = [words.get(int(number), "?") for number in numbers[0][pool[0]]]
        if len(own) == count:
            return [word.removeprefix("##").strip("Ġ▁") or word for word in own]
    return [str(place + 1) for place in range(count)]
