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
    "peak": "letters about the largest activation",
    "label": "the label with the smallest p",
    "annotation": "the annotation with the smallest p",
    "max": "largest activation",
    "sequences": "sequences in which it is active",
    "stability": "mean cosine with its own latent in the trainings compared",
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
    "Density is the share of tokens on which a latent is active, that is above 0. Highest activations: of each "
    "sequence its highest token, at most ten. Random ones: two from each quarter of the active tokens.",
    "Lift: how much more often two latents are active on one token than independent ones would be; PMI is its log₂; "
    "phi the correlation of the two indicators, by which the list is ordered.",
    "Labels and annotations: Fisher's exact test for more than chance, adjusted by Holm over all names and latents of "
    "the page; names with an adjusted p of at most 0.05. Sequences of one family, and tokens of one sequence, are not "
    "independent: p ranks names, it does not prove.",
    "Stability: the cosine of the decoder row with its own one in another training, one to one.",
    "Logits: what the head gives for the mean token with the latent's decoder row added, at the latent's mean "
    "activation, less the mean token's, in a sequence of that token alone.",
    "What a latent is active on is not what it causes.",
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
        listing([*map(relative, board.notes), f"{dead:,} latents are active on none of the tokens."]),
        "<p><label>Search numbers, letters, labels <input id='search' type='search'></label></p>",
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
