"""One self-contained HTML page of an explanation: a section a label."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from covjax.comparison.page import Html, Row, escape, figure, interval_text, listing, note, number, page, signed, table
from covjax.explanation.contributions import COMPLETE, PARTS
from covjax.explanation.evidence import AgainstChance, LatentContexts, PatternTest, matches
from covjax.explanation.explain import Direction, Explanation, LatentTerm
from covjax.explanation.latents import Latents, term_name
from covjax.explanation.pictures import BASES, STYLE, coloured, draw_letters, draw_profile, draw_tracks

DIRECTIONS, TERMS, EXAMPLES = 5, 8, 3
WINDOW = 0.05  # of the positions: how wide is the window that is looked for

READING = (
    "The score is that of the probe: the log odds (logit) of a logistic probe, or the score of ridge itself. It is the "
    "bias, plus the contributions of all tokens, plus what belongs to no single token (constant and residual).",
    "Mean, variance and co-occurrence are the parts of the score that come from the sequence's mean token, from the "
    "squares of single features around that mean, and from the products of two different features. Features are the "
    "encoder's, or principal components if the recipe uses them. They are standardised over the training tokens and "
    "numbered from 0.",
    "The share of a part is its covariance with the score, divided by the variance of the score, over the explained "
    "sequences. Shares sum to 100 %; a negative share works against the others.",
    "An eigen-direction v of the label's weights W, with its eigenvalue λ, adds λ vᵀ f(S) v to the score. A positive λ "
    "rewards variation along v, a negative one penalises it. The letters shown vary most along v: the number is the "
    "mean square of their tokens along v, divided by that of all tokens. A mean has only one direction, and its "
    "letters show the mean itself.",
    "Masking leaves tokens out of the pool. The encoder does not run again, so the other tokens still contain "
    "information about the masked ones.",
    "A contribution shows what the probe uses, not what causes the label. Activations depend on context, so a token "
    "can carry information about its neighbours.",
)
METHODS: dict[str | None, str] = {
    None: "The recipe is linear in what it pools: contributions are exact.",
    "sqrt": "Contributions to the square root are first-order (Daleckii–Krein derivative), times Euler's factor of "
    "two, with which they sum to the score. The constant is the part of the ridge.",
    "log": "Contributions to the logarithm follow the straight path from the mean matrix of {reference} (integrated "
    "gradients). They explain the difference from the score there, which is the constant. What the numerical "
    f"integration misses is the residual: at most {100 * COMPLETE:g} % of that difference or of the scores' standard "
    "deviation. It is not spread over the tokens.",
}


@dataclasses.dataclass(frozen=True)
class Material:
    """Everything that the page shows; sequences are in the order of `explanation`, labels in that of its labels.

    `has` says which sequences have a label, where that is known; `letters` belong to the first directions of a label.
    """

    model: str
    facts: Mapping[str, str]
    notes: Sequence[str]
    reference: str
    explanation: Explanation
    titles: Sequence[str]
    ids: Sequence[str]
    texts: Sequence[Sequence[str]]
    has: Bool[np.ndarray, "n k"] | None
    pattern: str
    masked: float
    deletions: Sequence[AgainstChance | None]
    patterns: Sequence[PatternTest | None]
    letters: Sequence[Sequence[Sequence[tuple[str, float]]]]
    latents: Sequence[LatentContexts] = ()


def explanation_page(material: Material) -> str:
    """The whole page; it needs no network."""
    explanation = material.explanation
    spectral = next((block.spectral for block in explanation.blocks if block.spectral), None)
    parts = [
        f"<h1>{escape(material.model)}: what is its score made of?</h1>",
        note("; ".join(f"{name}: {value}" for name, value in material.facts.items())),
        listing([*material.notes, METHODS[spectral].format(reference=material.reference)]),
    ]
    for label in range(len(explanation.labels)):
        parts.append(_section(material, label))
    parts += _latents_section(material)
    parts += ["<h2>How to read this</h2>", listing(READING)]
    return page(f"{material.model} explained", parts, STYLE)


def summary(material: Material, label: int) -> str:
    """What explains one label's scores, in a few sentences."""
    explanation = material.explanation
    shares, directions = explanation.shares(label), explanation.directions(label)
    first = directions[: min(3, len(directions))]
    sizes = np.abs(explanation.parts[:, label]).max(0)
    parts = [f"{_percent(shares[name])} {name}" for name, size in zip(PARTS, sizes) if size]
    made = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    text = (
        f"The differences between the scores of {len(explanation.scores)} sequences are {made}. "
        f"{_count(len(first))} of {len(directions):,} directions {'carries' if len(first) == 1 else 'carry'} "
        f"{_percent(sum(each.share for each in first))}."
    )
    if terms := explanation.latent_terms(label, 3):
        has = _has(material, label)
        means = ", ".join(f"{term_name(each.latents)}: {signed(_gap(each, has))}" for each in terms)
        what = "mean" if has is None else "mean with the label minus mean without"
        text += f" Latents with the largest shares ({what}): {means}."
    if (test := material.deletions[label]) is not None:
        text += (
            f" Masking the {100 * material.masked:g} % of tokens that add most lowers the score by "
            f"{number(test.value)}, masking as many random ones by {number(test.chance)}: {signed(test.difference)} "
            f"{interval_text(test.interval)}, 95 % bootstrap interval."
        )
    text += _position(_profiles(material, label))
    if (pattern := material.patterns[label]) is not None:
        top = pattern.top
        text += (
            f" {top.sequences} sequences have a match of {material.pattern}. The token that adds most is in the match "
            f"in {_percent(top.value)} of them, by chance in {_percent(top.chance)}: {_points(top.difference)} "
            f"points {interval_text(top.interval, _points)}. Of the {100 * material.masked:g} % of tokens that add "
            f"most, {pattern.enrichment:.1f} times as many are in the match as of random tokens "
            f"{interval_text(pattern.interval, '{:.1f}'.format)}."
        )
    elif material.pattern:
        text += (
            f" {material.pattern} is not tested: that needs two sequences with a match and a token for every letter."
        )
    return text


def _has(material: Material, label: int) -> Bool[np.ndarray, "n"] | None:
    """Which sequences have the label, where some do and some do not."""
    has = None if material.has is None else material.has[:, label]
    return None if has is None or has.all() or not has.any() else has


def _gap(term: LatentTerm, has: Bool[np.ndarray, "n"] | None) -> float:
    """What a term adds on average to sequences with the label above what it adds to others; to all, where unknown."""
    return float(term.values.mean() if has is None else term.values[has].mean() - term.values[~has].mean())


def _profiles(material: Material, label: int) -> list[tuple[str, Float[np.ndarray, "t"]]]:
    """Mean contributions by position, of sequences with the label first; none where sequences have several lengths."""
    if len({len(tokens) for tokens in material.explanation.tokens}) > 1:
        return []
    values = np.stack([each[:, label] for each in material.explanation.contributions])
    if (has := _has(material, label)) is None:
        return [("all sequences", values.mean(0))]
    return [("sequences with the label", values[has].mean(0)), ("without", values[~has].mean(0))]


def _position(profiles: Sequence[tuple[str, Float[np.ndarray, "_"]]]) -> str:
    """Where the score of sequences with the label is higher than without: the window of `WINDOW` with most of it."""
    if len(profiles) < 2:
        return ""
    gap = profiles[0][1] - profiles[1][1]
    width = math.ceil(WINDOW * len(gap))
    sums = np.convolve(gap, np.ones(width), "valid")
    first = int(np.argmax(sums))
    if not gap.sum() > 0:
        return ""
    return (
        f" Sequences with the label score {number(float(gap.sum()))} higher than those without; positions "
        f"{first + 1} to {first + width}, {_percent(width / len(gap))} of {len(gap)}, "
        f"contribute {_percent(sums[first] / gap.sum())} of this."
    )


def _section(material: Material, label: int) -> str:
    explanation, name = material.explanation, material.titles[label]
    first, _, more = summary(material, label).partition(". ")
    parts = [f"<h2>{escape(name)}</h2>", f"<p><b>{escape(first)}.</b> {escape(more)}</p>"]
    parts += [_parts_table(explanation, label)]
    parts += [note("Directions of the weights with the largest shares, and the letters and features along them:")]
    parts += [_directions_table(material, label)]
    if terms := explanation.latent_terms(label, TERMS):
        what = "A latent adds its mean times its weight, a pair the mean of its product. Contexts are below."
        parts += [note(f"Latents of the sparse autoencoder with the largest shares. {what}")]
        parts += [_terms_table(terms, _has(material, label))]
    if profiles := _profiles(material, label):
        svg = draw_profile(profiles, f"profile-{label}")
        parts.append(figure(svg, f"Mean contribution to {name} by position."))
    order = np.argsort(-explanation.scores[:, label], kind="stable")
    count = min(EXAMPLES, len(order) // 2)
    rows = [*order[:count], *order[len(order) - count :]]
    contributions = [explanation.contributions[row][:, label] for row in rows]
    largest = max(np.abs(each).max() for each in contributions)
    parts.append(
        note(
            f"Highest and lowest scores. Blue letters add to the score, orange letters lower it. The strongest colour "
            f"means above 70 % of {largest:.3g}, the largest contribution here."
            + (f" Underlined: {material.pattern}." if material.pattern else "")
        )
    )
    tracks, spans = [], []
    for place, (row, values) in enumerate(zip(rows, contributions)):
        texts, head = material.texts[row], _head(material, row, label)
        if place in (0, count):
            parts.append(f"<h3>{'highest' if place == 0 else 'lowest'}</h3>")
        parts.append(note(head) + coloured(texts, values, float(largest), material.pattern))
        tracks.append((head, values))
        is_letters = material.pattern and all(len(text) == 1 for text in texts)
        spans.append(matches(material.pattern, "".join(texts)) if is_letters else None)
    svg = draw_tracks(tracks, spans, f"tracks-{label}")
    grey = f"; grey: {material.pattern}" if material.pattern else ""
    parts.append(figure(svg, f"Contributions to {name} along the same sequences, highest scores first{grey}."))
    if all(text.upper() in BASES or text.upper() == "N" for row in rows for text in material.texts[row]):
        lines = [(_head(material, row, label), material.texts[row], each) for row, each in zip(rows, contributions)]
        caption = (
            f"The bases around the strongest contribution to {name}, drawn as high as they contribute. Letters "
            "below the line lower the score."
        )
        parts.append(figure(draw_letters(lines), caption))
    return "\n".join(parts)


def _head(material: Material, row: int, label: int) -> str:
    has = "" if material.has is None else ", with the label" if material.has[row, label] else ", without it"
    return f"{material.ids[row]}: score {number(float(material.explanation.scores[row, label]))}{has}"


def _parts_table(explanation: Explanation, label: int) -> Html:
    columns = dict(zip(PARTS, explanation.parts[:, label].T))
    columns |= {"constant": explanation.constant[:, label], "residual": explanation.residual[:, label]}
    rows: list[Row] = []
    for name, share in explanation.shares(label).items():
        if not np.abs(columns[name]).max():
            continue
        most, average = np.abs(columns[name]).max(), float(columns[name].mean())
        value = f"up to {most:.0e}" if name == "residual" else signed(average)
        rows.append([name, _percent(share), value])
    rows.append(["bias", "", signed(float(explanation.bias[label]))])
    rows.append(["score", "100 %", signed(float(explanation.scores[:, label].mean()))])
    return table(["part of the score", "share", "mean"], rows)


def _directions_table(material: Material, label: int) -> Html:
    explanation = material.explanation
    several = len(explanation.blocks) > 1
    rows: list[Row] = []
    for place, (each, letters) in enumerate(zip(explanation.directions(label, DIRECTIONS), material.letters[label]), 1):
        block = explanation.blocks[each.block]
        name = f"{place}, {block.name if block.of != 'deviation' else 'deviation'}" if several else str(place)
        form = "{} ×{:.1f}" if block.is_matrix else "{} {:+.2f}"
        along = ", ".join(form.format(text, value) for text, value in letters)
        numbers = [f"{each.eigenvalue:+.3g}", _percent(each.share), signed(each.average)]
        rows.append([name, *numbers, along, _top(each, block.latents)])
    named = "features" if all(block.latents is None for block in explanation.blocks) else "latents"
    head = ["direction", "λ", "share", "mean", "letters along it", named]
    return table(head, rows)


def _top(direction: Direction, latents: Latents | None, count: int = 3) -> str:
    """The features, or latents, that a direction has most of, numbered from 0."""
    order = np.argsort(-np.abs(direction.vector), kind="stable")[:count]
    numbers = order if latents is None else latents.numbers[order]
    return ", ".join(f"{name} ({direction.vector[place]:+.2f})" for name, place in zip(numbers, order))


def _terms_table(terms: Sequence[LatentTerm], has: Bool[np.ndarray, "n"] | None) -> Html:
    rows: list[Row] = []
    for each in terms:
        name = term_name(each.latents).removeprefix("latent ")
        means = [each.values.mean()] if has is None else [each.values[has].mean(), each.values[~has].mean()]
        rows.append([name, _percent(each.share), *(signed(float(mean)) for mean in means), f"{each.weight:+.3g}"])
    return table(["latent", "share", *(["mean"] if has is None else ["with label", "without"]), "weight"], rows)


def _latents_section(material: Material) -> list[str]:
    """Of every latent that a label's table names, where it is largest."""
    if not material.latents:
        return []
    parts = [
        "<h2>Latents and their contexts</h2>",
        note(
            "Where the latents of the tables above are largest among the explained sequences, one place per sequence. "
            "The darker a token, the larger the latent there. The percentage is the share of tokens on which the "
            "latent is above 0."
        ),
    ]
    for each in material.latents:
        parts.append(
            f"<h3 id='latent-{each.latent}'>latent {each.latent}, {100 * each.density:.2g} % of the tokens</h3>"
        )
        for context in each.contexts:
            texts = material.texts[context.row][context.start : context.start + len(context.values)]
            head = f"{material.ids[context.row]}, token {context.place + 1}: {number(context.value)}"
            parts.append(note(head) + coloured(texts, context.values, each.contexts[0].value, "", context.start + 1))
    return parts


def _percent(share: float) -> str:
    return "– (no differences)" if np.isnan(share) else f"{round(100 * share)} %"


def _points(share: float) -> str:
    return f"{100 * share:+.0f}"


def _count(count: int) -> str:
    return {1: "One", 2: "Two", 3: "Three"}[count]
