"""One self-contained HTML page of a dashboard: a table of all latents, and the details of the one that is chosen."""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from covjax.comparison.page import Html, escape, fold, listing, note, page, relative
from covjax.dashboards.build import Dashboard
from covjax.dashboards.script import SCRIPT

PART = 128  # latents whose records are unpacked together
COLUMNS = {
    "latent": "its number",
    "density": "share of tokens on which it is active",
    "peak": "letters around the largest activation",
    "label": "the label with the smallest p",
    "annotation": "the annotation with the smallest p",
    "max": "largest activation",
    "sequences": "sequences in which it is active",
    "stability": "mean cosine with the matching latent of the other trainings",
}
STYLE = """
.letters{font:14px/1.6 ui-monospace,'DejaVu Sans Mono',monospace;overflow-wrap:anywhere;margin:.1rem 0;
 white-space:pre-wrap}.letters i{font-style:normal}.letters small{color:var(--soft)}
h3{font-size:1rem;margin:1.2rem 0 .2rem}
input{font:inherit;width:100%;max-width:28rem;padding:.3rem .5rem;border:1px solid var(--soft)}
th button{font:inherit;font-weight:600;border:0;background:none;padding:0;cursor:pointer;color:inherit}
#more{font:inherit;margin:.6rem 0;padding:.3rem .8rem}
#detail{border-top:2px solid var(--ink);margin-top:1.5rem}
#detail table{width:auto}
@media(max-width:40rem){th:first-child,td:first-child{min-width:0}}
"""
READING = (
    "Density is the share of tokens on which a latent is active, which means above 0. Highest activations show the "
    "highest token of each sequence, for at most ten sequences. Random activations show two tokens from each quarter "
    "of the active tokens.",
    "Lift says how much more often two latents are active on the same token than if they were independent. PMI is the "
    "log₂ of lift. Phi is the correlation of the two indicators; the list is ordered by it.",
    "Labels and annotations come from Fisher's exact test for more overlap than by chance, adjusted by Holm over all "
    "names and latents of the page. Names with an adjusted p of at most 0.05 are shown. Sequences of one family, and "
    "tokens of one sequence, are not independent, so p ranks the names but proves nothing.",
    "Stability is the cosine of the decoder row with its partner in another training, matched one to one.",
    "Logits show how the head's output for the mean token changes when the latent's decoder row, times its mean "
    "activation, is added to that token, in a sequence of this one token.",
    "The page shows what a latent is active on, not what it causes.",
)


def dashboard_page(board: Dashboard, records: Iterator[dict[str, Any]]) -> Iterator[str]:
    """The page in pieces; `records` are those of all latents in order."""
    parts, rows, index = list[str](), list[dict[str, Any]](), list[dict[str, Any]]()
    for record in records:
        rows.append(record)
        index.append(_entry(record))
        if len(rows) == PART:
            parts.append(pack(rows))
            rows = []
    parts += [pack(rows)] if rows else []
    columns = [{"name": name, "title": title, "values": values} for name, title, values in _columns(index)]
    title = relative(board.facts["autoencoder"])
    dead = sum(not entry["tokens"] for entry in index)
    body = [
        f"<h1>{escape(title)}</h1>",
        note("; ".join(f"{name}: {relative(value)}" for name, value in board.facts.items() if name != "autoencoder")),
        listing([*map(relative, board.notes), f"{dead:,} latents are never active on these tokens."]),
        "<p><label>Search by number, letters or label <input id='search' type='search'></label></p>",
        "<p class='note' id='count'>Unpacking …</p><noscript>This page needs JavaScript.</noscript>",
        "<div class='scroll' role='region' tabindex='0' aria-label='latents'><table><thead><tr id='head'></tr></thead>"
        "<tbody id='rows'></tbody></table></div><button id='more' hidden>more rows</button>",
        "<section id='detail'></section>",
        fold("How to read this", listing(READING)),
    ]
    whole = page(f"{title}: latents", body, STYLE)
    start, end = whole.rsplit("</body>", 1)
    yield start
    data: dict[str, str] = {"index": pack({"columns": columns, "text": [entry["text"] for entry in index]})}
    data |= {f"part-{place}": part for place, part in enumerate(parts)}
    for name, packed in data.items():
        yield f"<script type='text/plain' id='{name}'>{packed}</script>\n"
    yield f"<script>const PART={PART};{SCRIPT}</script></body>{end}"


def pack(data: Any) -> Html:
    """JSON, compressed, as text that can stand in a page; the same data give the same text."""
    packed = gzip.compress(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(), 6, mtime=0)
    return Html(base64.b64encode(packed).decode())


def _entry(record: dict[str, Any]) -> dict[str, Any]:
    """What the table and the search need of one latent."""
    entry = {name: record[name] for name in ("latent", "tokens", "density", "sequences", "max")}
    words = ["".join(each["letters"]).strip() for each in record["top"][:3]]
    for kind in ("label", "annotation"):
        if (rows := record.get(f"{kind}s")) is not None:
            entry[kind] = rows[0]["name"] if rows else ""
            words += [each["name"] for each in rows]
    if "stability" in record:
        entry["stability"] = float(f"{np.mean(list(record['stability'].values())):.3g}")
    return entry | {"peak": _peak(record), "text": " ".join(words)}


def _peak(record: dict[str, Any]) -> str:
    """The letters about the highest activation, three tokens on each side."""
    if not record["top"]:
        return ""
    first = record["top"][0]
    place = int(np.argmax(first["values"]))
    return "".join(first["letters"][max(place - 3, 0) : place + 4]).strip()


def _columns(index: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, list[Any]]]:
    """Name, explanation and values of every column of the table."""
    for name, title in COLUMNS.items():
        if name in index[0]:
            yield name, title, [entry[name] for entry in index]
