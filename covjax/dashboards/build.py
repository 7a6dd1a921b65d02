"""A dashboard of a sparse autoencoder: one pass over a store, then everything known of each latent."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from covjax.autoencoders import load as load_autoencoder
from covjax.autoencoders.sparse import Crosscoder, SparseAutoencoder, Transcoder
from covjax.dashboards.codes import Corpus, choose_sequences, encode_store
from covjax.dashboards.enrichment import Enrichment, annotation_enrichment, label_enrichment
from covjax.dashboards.latents import BANDS, BINS, EACH, TOP, Latents, context_windows, describe_latents
from covjax.dashboards.logits import Logits, logit_effects
from covjax.dashboards.relations import Together, cooccurring, decoder_neighbours, stability
from covjax.data.store import TokenStore, read_run
from covjax.encoders import load as load_encoder
from covjax.errors import InputError, shown

SIGNIFICANT = 0.05  # Holm-adjusted: names above it are not listed
LISTED = 5  # names of a latent


@dataclasses.dataclass(frozen=True)
class Dashboard:
    """Everything known of the latents of an autoencoder; `record` puts together that of one.

    `facts` say what it is of, `notes` what a reader must know. `windows` are the first and last tokens (half-open,
    among all tokens read) of every context, `values` the latent's there. `neighbours` are latents with a similar
    decoder row, with their cosines; `stability` has a column for each autoencoder compared.
    """

    facts: Mapping[str, str]
    notes: tuple[str, ...]
    corpus: Corpus
    latents: Latents
    windows: Int[np.ndarray, "latents contexts 2"]
    values: Float[np.ndarray, "latents contexts width"]
    together: Together
    neighbours: tuple[Int[np.ndarray, "latents n"], Float[np.ndarray, "latents n"]]
    stability: Mapping[str, Float[np.ndarray, "latents"]]
    labels: Enrichment | None
    annotations: Enrichment | None
    logits: Logits | None

    def __len__(self) -> int:
        return len(self.latents.tokens)

    @property
    def tokens(self) -> int:
        """How many tokens were read."""
        return int(self.corpus.starts[-1])

    def record(self, latent: int) -> dict[str, Any]:
        """What is known of one latent, as JSON takes it; see docs/dashboard.md for the keys."""
        own = self.latents
        contexts = [self._context(latent, place) for place in range(TOP + BANDS * EACH)]
        bands = [contexts[TOP + EACH * band :][:EACH] for band in range(BANDS)]
        record: dict[str, Any] = {
            "latent": latent,
            "tokens": int(own.tokens[latent]),
            "density": _rounded(own.tokens[latent] / self.tokens),
            "sequences": int(own.sequences[latent]),
            "mean": _rounded(own.mean[latent]),
            "max": _rounded(own.largest[latent]),
            "histogram": {"width": _rounded(own.largest[latent] / BINS), "counts": own.histogram[latent].tolist()},
            "top": [each for each in contexts[:TOP] if each],
            "quarters": [
                {"low": _rounded(low), "high": _rounded(high), "contexts": [each for each in band if each]}
                for (low, high), band in zip(own.edges[latent], bands)
            ],
            "together": [
                {"latent": int(other), "tokens": int(count), "lift": lift, "pmi": pmi, "phi": phi}
                for other, count, lift, pmi, phi in zip(
                    *(column[latent].tolist() for column in self.together[:2]),
                    *(map(_rounded, column[latent]) for column in self.together[2:5]),
                )
                if other >= 0
            ],
            "neighbours": [
                {"latent": int(other), "cosine": _rounded(cosine)}
                for other, cosine in zip(*(column[latent] for column in self.neighbours))
            ],
        }
        if self.stability:
            record["stability"] = {name: _rounded(each[latent]) for name, each in self.stability.items()}
        for name, each in (("labels", self.labels), ("annotations", self.annotations)):
            if each is not None:
                record[name] = enriched(each, latent)
        if self.logits is not None:
            pairs = zip(self.logits.classes[latent], self.logits.effects[latent])
            effects = [{"class": self.logits.names[place], "effect": _rounded(effect)} for place, effect in pairs]
            half = len(effects) // 2  # of a head with few classes both halves may have all of them
            raised = [each for each in effects[:half] if each["effect"] > 0]
            record["logits"] = {"raised": raised, "lowered": [each for each in effects[half:] if each["effect"] < 0]}
        return record

    def _context(self, latent: int, place: int) -> dict[str, Any] | None:
        """One context: its sequence, the number of its first token there from 0, its tokens' letters and values."""
        first, last = self.windows[latent, place].tolist()
        if first == last:
            return None
        row = int(np.searchsorted(self.corpus.starts, first, "right")) - 1
        start = first - int(self.corpus.starts[row])
        values = [_rounded(value) for value in self.values[latent, place, : last - first]]
        letters = token_letters(self.corpus.texts[row], start, start + last - first)
        return {"sequence": self.corpus.ids[row], "start": start, "letters": letters, "values": values}


def token_letters(text: Any, first: int, last: int) -> list[str]:
    """What some tokens of a sequence stand for, each up to where the next begins, so that they read as the text does.

    Numbers, counted from 1, where that is not known.
    """
    if text.spans is None:
        return [f"{place + 1} " for place in range(first, last)]
    starts = text.spans[first:last, 0].tolist()
    return [text.letters[a:b] for a, b in zip(starts, [*starts[1:], int(text.spans[last - 1, 1])])]


def enriched(tests: Enrichment, latent: int) -> list[dict[str, Any]]:
    """The names with an adjusted p of at most 0.05, the smallest first, at most five."""
    order = np.lexsort((tests.p[latent], tests.adjusted[latent]))[:LISTED]
    return [
        {
            "name": tests.names[place],
            "both": int(tests.both[latent, place]),
            "active": int(tests.active[latent]),
            "having": int(tests.having[place]),
            "total": tests.total,
            "p": _rounded(tests.p[latent, place]),
            "p_holm": _rounded(tests.adjusted[latent, place]),
        }
        for place in order
        if tests.adjusted[latent, place] <= SIGNIFICANT
    ]


def dashboard(
    autoencoder: Any,
    store: str | Path,
    *,
    layer: int | None = None,
    labels: str = "",
    annotations: str = "",
    compare: Sequence[str] = (),
    encoder: str = "",
    tokens: int = 1_000_000,
    reach: int = 10,
    seed: int = 0,
) -> Dashboard:
    """What every latent of a sparse autoencoder does on the tokens of a store.

    Args:
        autoencoder: the module, or a name that `covjax.autoencoders.load` takes.
        store: folder that `covjax extract --keep-tokens true` wrote.
        layer: which of the store's; None where it has one.
        labels: table of labelled sequences with the ids of the store; `covjax.data.table.read_table` reads it.
        annotations: named stretches of the sequences; `covjax.data.annotations.read_annotations` reads them.
        compare: other trainings of the same autoencoder.
        encoder: the store's encoder, for what latents do to the logits of its head.
        tokens: read at most; of a larger store so many of random sequences.
        reach: tokens on each side of a context.
        seed: of what is drawn.

    Raises InputError for an autoencoder that is not sparse or of another width, a store without letters, and files,
    layers and encoders that do not fit.
    """
    module, name = _sparse(autoencoder, "autoencoder")
    layers = read_run(store)["token_layers"]
    if layer is None and len(layers) != 1:
        raise InputError(f"layer: the store has {layers or 'no tokens'}; name one: --layer N")
    opened = TokenStore(store, layers[0] if layer is None else layer)
    made = opened.run["identity"]
    headed = load_encoder(encoder) if encoder else None
    if headed is not None and headed.weights_digest != made["weights"]:
        raise InputError(f"encoder: the store is from {made['encoder']!r}, not {encoder!r}: their weights differ")
    others = [_sparse(each, "compare") for each in compare]
    decoder = np.asarray(module.decoder[...])
    matched = {other: stability(decoder, np.asarray(each.decoder[...])) for each, other in others}
    rows = choose_sequences(opened.lengths, tokens, seed)
    corpus, codes = encode_store(module, opened, rows)
    count = f"all {len(rows):,}" if len(rows) == len(opened) else f"{len(rows):,} of {len(opened):,} drawn"
    notes = [f"Read: {codes.shape[0]:,} tokens of {count} sequences."]
    by_label, by_annotation = None, None
    if labels:
        by_label, lines = label_enrichment(labels, corpus, codes)
        notes += lines
    if annotations:
        by_annotation, lines = annotation_enrichment(annotations, corpus, codes)
        notes += lines
    together = cooccurring(codes, seed)
    if together.tokens < codes.shape[0]:
        notes.append(f"Pairs of latents are counted on {together.tokens:,} random tokens.")
    columns = codes.tocsc()
    del codes
    latents = describe_latents(columns, corpus.starts, seed)
    windows, values = context_windows(columns, latents.contexts, corpus.starts, reach)
    effects = logit_effects(headed, opened.layer, module, corpus.mean, latents.mean) if headed is not None else None
    facts = {
        "autoencoder": f"{name}, {type(module).__name__}, {len(decoder):,} latents",
        "encoder": f"{made['encoder']}, layer {opened.layer}",
        "store": os.fspath(store),
    }
    return Dashboard(
        facts=facts,
        notes=tuple(notes),
        corpus=corpus,
        latents=latents,
        windows=windows,
        values=values,
        together=together,
        neighbours=decoder_neighbours(decoder),
        stability=matched,
        labels=by_label,
        annotations=by_annotation,
        logits=effects,
    )


def _sparse(given: Any, argument: str) -> tuple[SparseAutoencoder, str]:
    module = load_autoencoder(given) if isinstance(given, str | Path) else given
    if not isinstance(module, SparseAutoencoder):
        raise InputError(
            f"{argument}: {shown(str(given), 60)} is {type(module).__name__}; a dashboard needs a sparse autoencoder"
        )
    if isinstance(module, Crosscoder | Transcoder):
        raise InputError(
            f"{argument}: {shown(str(given), 60)} is {type(module).__name__}, of several layers; a dashboard is of an "
            "autoencoder of one"
        )
    return module, os.fspath(given) if isinstance(given, str | Path) else type(module).__name__


def _rounded(value: Any) -> float:
    """Four digits, which is what a page shows."""
    return float(f"{float(value):.4g}")
