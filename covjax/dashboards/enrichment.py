"""Which labels of sequences and annotations of tokens a latent prefers: Fisher's exact test with Holm's correction."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from covjax.dashboards.codes import Corpus
from covjax.data.annotations import Stretch, read_annotations
from covjax.data.table import read_table
from covjax.data.text import Skipped, warn
from covjax.errors import InputError, shown
from covjax.metrics import holm

MOST_NAMES = 200  # of more, the most frequent are tested, which is said


class Enrichment(NamedTuple):
    """Every name against every latent, over `total` sequences or tokens, of which `having` have the name.

    `both` have the name and the latent active. `p` is Fisher's exact test for more of these than chance, `adjusted` by
    Holm over all `tests`; 1 where there is none: a latent that is never active, a name that all or none have.
    """

    names: tuple[str, ...]
    total: int
    having: Int[np.ndarray, "names"]
    active: Int[np.ndarray, "latents"]
    both: Int[np.ndarray, "latents names"]
    p: Float[np.ndarray, "latents names"]
    adjusted: Float[np.ndarray, "latents names"]
    tests: int


def enrichment(active: sparse.spmatrix, has: sparse.spmatrix, names: Sequence[str]) -> Enrichment:
    """Test all names; `active` (units, latents) and `has` (units, names) are not 0 where they are true."""
    from scipy.stats import hypergeom  # a second of importing

    active, has = ((each != 0).astype(np.int64) for each in (active, has))
    total, having = has.shape[0], np.asarray(has.sum(0)).ravel()
    often = np.asarray(active.sum(0)).ravel()
    both = np.asarray((active.T @ has).todense())
    tested = (often > 0)[:, None] & ((having > 0) & (having < total))[None]
    p, adjusted = np.ones(both.shape), np.ones(both.shape)
    rows, columns = np.nonzero(tested)
    # P(X >= both) of the hypergeometric distribution.
    p[tested] = np.clip(hypergeom.sf(both[tested] - 1, total, having[columns], often[rows]), 0, 1)
    if tested.any():
        adjusted[tested] = holm(p[tested])
    return Enrichment(tuple(names), total, having, often, both, p, adjusted, int(tested.sum()))


def label_enrichment(path: str, corpus: Corpus, codes: sparse.csr_matrix) -> tuple[Enrichment, list[str]]:
    """Labels of a table's sequences against the latents active anywhere in them, and what is to be said of it.

    Raises InputError for a table of numbers, and one that shares fewer than two ids with the corpus.
    """
    data = read_table(path, needs_sequence=False, missing="drop")
    if data.task == "regression":
        raise InputError(f"labels: {path} holds numbers; enrichment needs classes or labels")
    places = {name: row for row, name in enumerate(data.ids)}
    rows = np.array([row for row, name in enumerate(corpus.ids) if name in places], int)
    if len(rows) < 2:
        raise InputError(
            f"labels: {path}: {len(rows)} of its ids are in the store ({shown(data.ids[0], 40)}, …; there "
            f"{shown(corpus.ids[0], 40)}, …); give the ids of the file that was extracted"
        )
    targets = data.targets[[places[corpus.ids[row]] for row in rows]].astype(bool)
    order = np.sort(np.argsort(-targets.sum(0), kind="stable")[:MOST_NAMES])
    notes = [f"Labels of {len(rows):,} of {len(corpus.ids):,} sequences from {path}.", *data.notes]
    notes += _said(len(order), targets.shape[1], "labels")
    names = [data.target_names[place] for place in order]
    tokens = np.arange(codes.shape[0])
    owner = np.searchsorted(corpus.starts, tokens, "right") - 1
    member = sparse.csr_matrix((np.ones(len(tokens), np.float32), (owner, tokens)), (len(corpus.ids), len(tokens)))
    return enrichment((member @ codes)[rows], sparse.csr_matrix(targets[:, order]), names), notes


def annotation_enrichment(path: str, corpus: Corpus, codes: sparse.csr_matrix) -> tuple[Enrichment, list[str]]:
    """Annotations of stretches against the latents active on their tokens, and what is to be said of it.

    A token has an annotation that overlaps what it stands for. Raises InputError as `read_annotations`, where none is
    of a sequence of the corpus, and where it is not known what the tokens stand for.
    """
    stretches = read_annotations(path)
    places = {name: row for row, name in enumerate(corpus.ids)}
    own = [each for each in stretches if each.sequence in places]
    if not own:
        raise InputError(
            f"annotations: {path}: none of its sequences is in the store ({shown(stretches[0].sequence, 40)}, …; there "
            f"{shown(corpus.ids[0], 40)}, …); the first column is a sequence's id, and positions count within it"
        )
    frequent = [name for name, _ in Counter(each.name for each in own).most_common()]
    names = sorted(frequent[:MOST_NAMES])
    notes = [f"Annotations: {len(own):,} of {len(stretches):,} in {path} belong to these sequences."]
    notes += _said(len(names), len(frequent), "annotations")
    tokens, columns = _places(path, own, names, corpus)
    has = sparse.csr_matrix((np.ones(len(tokens)), (tokens, columns)), (codes.shape[0], len(names)))
    return enrichment(codes, has, names), notes


def _places(path: str, stretches: Sequence[Stretch], names: Sequence[str], corpus: Corpus) -> tuple[np.ndarray, ...]:
    """Tokens and names that go together."""
    rows = {name: row for row, name in enumerate(corpus.ids)}
    numbers = {name: number for number, name in enumerate(names)}
    skipped, parts = Skipped(path, "annotations"), [(np.empty(0, int), np.empty(0, int))]
    for each in stretches:
        text = corpus.texts[rows[each.sequence]]
        if text.spans is None:
            raise InputError(
                f"annotations: the store does not say which letters of {shown(each.sequence)} its tokens are"
            )
        if each.end > len(text.letters):
            skipped.add(
                f"{shown(each.sequence, 40)} has {len(text.letters)} letters, the annotation ends at {each.end}"
            )
        elif each.name in numbers:
            low = int(np.searchsorted(text.spans[:, 1], each.start, "right"))
            high = int(np.searchsorted(text.spans[:, 0], each.end, "left"))
            tokens = corpus.starts[rows[each.sequence]] + np.arange(low, max(low, high))
            parts.append((tokens, np.full(len(tokens), numbers[each.name])))
    skipped.close(len(stretches) - skipped.count, warn)
    tokens, columns = (np.concatenate(each) for each in zip(*parts))
    return tokens, columns


def _said(tested: int, total: int, what: str) -> list[str]:
    return [f"The {tested} most frequent of {total:,} {what} are tested."] if tested < total else []
