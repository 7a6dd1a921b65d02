"""The drawings of an explanation: contributions along sequences, by position, and as coloured letters."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from covjax.comparison.figures import WIDTH, plt, svg_text
from covjax.comparison.page import Html, escape
from covjax.explanation.evidence import matches
from covjax.notes import figure_text

UP, DOWN = "#0072B2", "#D55E00"  # Okabe-Ito
LEVELS = (0.06, 0.2, 0.45, 0.7)  # of the largest contribution; a letter below the first has no colour
STYLE = "".join(
    f".{sign}{level}{{background:rgba({colour},{alpha})}}"
    for sign, colour in (("p", "0,114,178"), ("n", "213,94,0"))
    for level, alpha in enumerate((0.15, 0.3, 0.5, 0.75), 1)
)
STYLE += (
    ".letters{font:14px/1.6 ui-monospace,'DejaVu Sans Mono',monospace;overflow-wrap:anywhere;margin:.2rem 0 1rem}"
    ".letters i{font-style:normal}.letters u{text-decoration-thickness:2px;text-underline-offset:3px}"
    "h3{font-size:1rem;margin:1.2rem 0 .2rem}"
)


def coloured(
    texts: Sequence[str], values: Float[np.ndarray, "t"], largest: float, pattern: str, first: int = 1
) -> Html:
    """The tokens' texts on a background of the size and sign of their contributions; matches are underlined.

    Neighbours of one colour share an element. `first` is the number of the first token.
    """
    gap = " " if any(len(text) > 1 for text in texts) else ""
    inside = matches(pattern, "".join(texts)) if pattern and not gap else np.zeros(len(texts), bool)
    kinds = [("n" if value < 0 else "p", int(np.searchsorted(LEVELS, abs(value) / (largest or 1)))) for value in values]
    out, start = [], 0
    for stop in range(1, len(texts) + 1):
        if stop < len(texts) and kinds[stop] == kinds[start] and inside[stop] == inside[start]:
            continue
        text = escape(gap.join(texts[start:stop]))
        text = Html(f"<u>{text}</u>") if inside[start] else text
        sign, level = kinds[start]
        if level:
            where = f"{first + start}" if stop == start + 1 else f"{first + start} to {first + stop - 1}"
            text = Html(f"<i class='{sign}{level}' title='{where}: {values[start:stop].sum():+.3g}'>{text}</i>")
        out.append(text)
        start = stop
    return Html(f"<p class='letters'>{gap.join(out)}</p>")


def draw_tracks(
    tracks: Sequence[tuple[str, Float[np.ndarray, "_"]]], spans: Sequence[np.ndarray | None], name: str
) -> str:
    """Lines of contributions along sequences, each with its title and, in grey, its letters in a match, as SVG."""
    figure, axes = plt.subplots(
        len(tracks), figsize=(WIDTH, 1.15 * len(tracks) + 0.3), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, (title, values), span in zip(axes[:, 0], tracks, spans, strict=True):
        places = np.arange(1, len(values) + 1)
        if span is not None:
            axis.fill_between(places, 0, 1, where=span, transform=axis.get_xaxis_transform(), color="0.85", step="mid")
        axis.fill_between(places, 0, values.clip(0), color=UP, linewidth=0, alpha=0.5)
        axis.fill_between(places, 0, values.clip(max=0), color=DOWN, linewidth=0, alpha=0.5)
        axis.plot(places, values, color="black", linewidth=0.6)
        axis.axhline(0, color="black", linewidth=0.4)
        axis.set_xlim(0, len(values) + 1)
        axis.set_title(figure_text(title, 56), fontsize=8, loc="left")
        axis.tick_params(labelsize=7)
    axes[-1, 0].set_xlabel("token", fontsize=8)
    figure.supylabel("contribution to the score", fontsize=8)
    return _short(svg_text(figure, name))


def draw_profile(lines: Sequence[tuple[str, Float[np.ndarray, "t"]]], name: str) -> str:
    """Mean contributions by position, a line each, as SVG."""
    figure, axis = plt.subplots(figsize=(WIDTH, 2.2), layout="constrained")
    for (title, values), colour in zip(lines, (UP, "0.45"), strict=False):
        axis.plot(np.arange(1, len(values) + 1), values, color=colour, linewidth=1, label=title)
    axis.axhline(0, color="black", linewidth=0.4)
    axis.tick_params(labelsize=7)
    axis.set_xlabel("position", fontsize=8)
    axis.set_ylabel("mean contribution", fontsize=8)
    axis.legend(frameon=False, fontsize=8)
    return _short(svg_text(figure, name))


BASES = {"A": "#009E73", "C": "#0072B2", "G": "#E69F00", "T": "#D55E00", "U": "#D55E00"}  # other letters are grey
REACH, STEP, HALF, CAPITAL = (
    20,
    9,
    26,
    7.3,
)  # letters to both sides; a letter's width, half a line, a capital of size 10


def draw_letters(lines: Sequence[tuple[str, Sequence[str], Float[np.ndarray, "_"]]]) -> Html:
    """The bases around the strongest contribution of every sequence, as high as they contribute, as SVG.

    A letter below the line takes away from the score. All lines have one scale.
    """
    largest = max(float(np.abs(values).max()) for _, _, values in lines) or 1.0
    width, height, parts = (2 * REACH + 1) * STEP, 2 * HALF + 14, []
    for number, (title, texts, values) in enumerate(lines):
        place, base = int(np.argmax(np.abs(values))), number * height + 14 + HALF
        start, stop = max(place - REACH, 0), min(place + REACH + 1, len(values))
        head = figure_text(f"{title}, positions {start + 1} to {stop}", 64)
        parts.append(f"<text x='0' y='{number * height + 9}' font-size='9'>{escape(head)}</text>")
        parts.append(f"<path d='M0 {base}H{(stop - start) * STEP}' stroke='#999' stroke-width='.5'/>")
        for step, (text, value) in enumerate(zip(texts[start:stop], values[start:stop])):
            size = value / largest * HALF / CAPITAL
            if abs(size) < 0.02:
                continue
            colour = BASES.get(text.upper(), "#777")
            parts.append(
                f"<text transform='translate({(step + 0.5) * STEP:g} {base}) scale(1 {abs(size):.3f})' "
                f"y='{0 if size > 0 else CAPITAL}' fill='{colour}' class='base'>{escape(text.upper())}</text>"
            )
    style = "<style>.base{font:bold 10px 'DejaVu Sans Mono',monospace;text-anchor:middle}</style>"
    box = f"viewBox='0 0 {width} {len(lines) * height}'"
    return Html(f"<svg xmlns='http://www.w3.org/2000/svg' {box} font-family='sans-serif'>{style}{''.join(parts)}</svg>")


def _short(svg: str) -> str:
    """Paths to a tenth of a point: nobody sees more, and a page has many."""
    return re.sub(r'(?<= d=")[^"]*', lambda path: " ".join(re.sub(r"(\.\d)\d+", r"\1", path[0]).split()), svg)
