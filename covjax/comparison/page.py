"""What all pages are made of: escaped text, numbers, intervals, tables and figures, in HTML and Markdown."""

import dataclasses
import hashlib
import html
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from covjax.comparison.results import Interval, Results, side
from covjax.jobs.disk import json_digest
from covjax.notes import visible

STYLE = """
:root{--ink:#1b1b1b;--soft:#5f5f5f;--line:#ddd;--good:#00614a;--bad:#a33c00}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--ink);background:#fff;
 max-width:64rem;margin:0 auto;padding:1rem;overflow-wrap:break-word}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.answer{font-size:1.15rem;border-left:.3rem solid var(--soft);padding:.2rem 0 .2rem .8rem}
.answer.yes{border-color:var(--good)}.answer.no{border-color:var(--bad)}
.doubt{border:1px solid #d9a400;background:#fff8e1;padding:.5rem .8rem;font-size:.9rem}
.doubt ul{margin:.2rem 0;padding-left:1.2rem}
/* A shadow stands at each end behind which there is more; the two covers scroll with the table and hide it there. */
.scroll{overflow-x:auto;background:linear-gradient(90deg,#fff 80%,transparent) 0 0/1rem 100% no-repeat local,
 linear-gradient(270deg,#fff 80%,transparent) 100% 0/1rem 100% no-repeat local,
 linear-gradient(90deg,#0005,#0000) 0 0/.9rem 100% no-repeat scroll,
 linear-gradient(270deg,#0005,#0000) 100% 0/.9rem 100% no-repeat scroll}
.scroll:focus-visible{outline:2px solid #0072b2}
table{border-collapse:separate;border-spacing:0;font-size:.85rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.3rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:#fff;z-index:1}
thead th{border-bottom:2px solid var(--ink);vertical-align:bottom}
tr.role td{background:#00000009;font-weight:600;position:static}
tr.role span{position:sticky;left:.5rem}
.interval{color:var(--soft);font-size:.92em}
.above{color:var(--good);font-weight:600}.below{color:var(--bad);font-weight:600}
td small{display:block;color:var(--soft);font-size:.9em}
figure{margin:1.5rem 0;max-width:32rem}figure svg{width:100%;height:auto;display:block}
figure.wide{max-width:56rem}figure.wide svg{min-width:38rem}
figcaption,.note{color:var(--soft);font-size:.9rem}p.caption{margin:.8rem 0 .3rem}
dt{font-weight:600;break-after:avoid}dd{margin:0 0 .4rem 1.2rem}
summary{cursor:pointer;margin:.6rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem;background:#f7f7f7;padding:.6rem}
@media(min-width:62rem){figure:not(.wide):has(figcaption){max-width:none;display:grid;
 grid-template-columns:32rem 1fr;gap:1.5rem;align-items:center}}
@media(max-width:40rem){th:first-child,td:first-child{white-space:normal;min-width:7.5rem;max-width:10rem}
 th,td{padding:.3rem .35rem}th{white-space:normal}td .interval{display:block}
 tr.role td:first-child{white-space:nowrap;max-width:none}}
@media print{body{max-width:none;padding:0;font-size:10pt}.scroll{overflow:visible;background:none}table{font-size:8pt}
 th,td{padding:.15rem .25rem}th:first-child,td:first-child{position:static;white-space:normal}dl{columns:2}
 thead{display:table-header-group}figure,tr,.keep,.doubt,.answer{break-inside:avoid}h2,.caption{break-after:avoid}
 tbody tr:nth-child(-n+2),tr.role{break-after:avoid}tbody tr:nth-last-child(-n+2){break-before:avoid}
 section{break-inside:avoid}
 figure:not(.wide):has(figcaption){max-width:none;display:grid;grid-template-columns:22rem 1fr;gap:1rem;
 align-items:center;margin:.6rem 0}figure.wide{max-width:none}
 figure.wide svg{min-width:0}}
"""


SHORT = 14  # rows of a table that a printed page does not break


class Html(str):
    """Markup, which stands in a page as it is; every other text is escaped."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table with a CSS class or a text that the pointer shows."""

    content: str
    kind: str = ""
    title: str = ""


Row = Sequence[str | Cell]


def escape(text: object) -> Html:
    """The text inside an element or a quoted attribute; `Html` stays as it is."""
    return text if isinstance(text, Html) else Html(html.escape(visible(text), quote=True))


def number(value: float) -> str:
    """A value with three decimals; a larger one with fewer."""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def signed(value: float) -> str:
    """A difference with its sign in six characters: one that three decimals round to zero keeps its first digit."""
    if value == 0 or 0.0005 <= abs(value) < 99.9995:
        return f"{value:+.3f}" if abs(value) < 10 else f"{value:+.2f}"
    return f"{value:+.0f}" if 1 < abs(value) < 99999.5 else f"{value:+.0e}"


def interval_text(interval: Interval | None, form: Callable[[float], str] = signed) -> str:
    """Both ends in square brackets; says so where there is none."""
    return "(no interval)" if interval is None else f"[{form(interval[0])}, {form(interval[1])}]"


def gain_text(value: float, interval: Interval | None) -> str:
    """A difference with its interval, where it has one."""
    return signed(value) if interval is None else f"{signed(value)} {interval_text(interval)}"


def soft(text: object) -> Html:
    """Grey and small: what stands beside a value."""
    return Html(f"<span class='interval'>{escape(text)}</span>")


def difference(value: float, interval: Interval | None, form: Callable[[float], str] = signed) -> Html:
    """A difference and its interval; green where that lies above zero, orange where below."""
    where = side(interval)
    kind = where if where in ("above", "below") else ""
    return Html(f"<span class='{kind}'>{form(value)}</span> {soft(interval_text(interval, form))}")


def table(head: Sequence[str], rows: Sequence[Row | str], kind: str = "", caption: str = "") -> Html:
    """A table that scrolls where the page is narrow, under its caption, which does not.

    The first column stays in sight; a row that is one text heads those after it.
    """
    lines = [f"<table{_attribute('class', kind)}>"]
    lines.append(f"<thead><tr>{''.join(f'<th>{escape(each)}</th>' for each in head)}</tr></thead><tbody>")
    for row in rows:
        if isinstance(row, str):
            lines.append(f"<tr class='role'><td colspan='{len(head)}'><span>{escape(row)}</span></td></tr>")
        else:
            lines.append(f"<tr>{''.join(map(_cell, row))}</tr>")
    above = f"<p class='caption note'>{escape(caption)}</p>" if caption else ""
    # With the keyboard one scrolls what can have the focus.
    box = f"<div class='scroll' role='region' tabindex='0'{_attribute('aria-label', caption or 'table')}>"
    short = " class='keep'" if len(rows) <= SHORT else ""
    return Html(f"<div{short}>{above}{box}{''.join(lines)}</tbody></table></div></div>")


def _cell(cell: str | Cell) -> str:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    return f"<td{_attribute('class', cell.kind)}{_attribute('title', cell.title)}>{escape(cell.content)}</td>"


def _attribute(name: str, value: str) -> str:
    return f" {name}='{escape(value)}'" if value else ""


def figure(svg: str, caption: str, kind: str = "", shown: bool = True) -> Html:
    """An SVG with its caption, which screen readers get too; `shown`: whether it also stands below.

    One of the kind `wide` scrolls where the page is narrow, the others shrink.
    """
    below = f"<figcaption>{escape(caption)}</figcaption>" if shown else ""
    image = f"<div class='scroll' tabindex='0'>{svg}</div>" if kind == "wide" else svg
    return Html(f"<figure{_attribute('class', kind)} role='img' aria-label='{escape(caption)}'>{image}{below}</figure>")


def section(title: str, *parts: str) -> Html:
    """Markup under a heading, which stays on one printed page where it fits on one."""
    return Html(f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>")


def fold(summary: str, *parts: str) -> Html:
    """Markup that a reader opens; on paper only the summary stands."""
    return Html(f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>")


def relative(text: str) -> str:
    """A command or a path with its absolute paths written from the folder where the page is made."""

    def short(word: str) -> str:
        name, equals, value = word.rpartition("=")
        return f"{name}{equals}{os.path.relpath(value)}" if os.path.isabs(value) and value != "/" else word

    return re.sub(r"[^\s'\",]+", lambda match: short(match[0]), text)


def commands(lines: Mapping[str, str]) -> Html:
    """Commands, each under what it is for."""
    return Html("".join(f"<p>{escape(why)}</p><pre>{escape(command)}</pre>" for why, command in lines.items()))


def note(text: str) -> Html:
    """A paragraph in small grey letters."""
    return Html(f"<p class='note'>{escape(text)}</p>")


def listing(items: Sequence[str]) -> Html:
    """A list with bullets."""
    return Html(f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>")


def page(title: str, parts: Sequence[str], style: str = "") -> str:
    """A whole page that needs no network; `style` is added to that of all pages."""
    head = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>\n"
        f"<title>{escape(title)} – covjax</title><style>{STYLE}{style}</style></head><body>"
    )
    return "\n".join([head, *parts]) + "</body></html>"


_STAMP = re.compile(r"<!-- ([0-9a-f]{64})((?: \w+)*) -->")


def stamped(text: str, results: Results, path: Path, figures: Iterable[str]) -> str:
    """A page with a last line that names its figures, those in `figures` beside `path`, and seals all it is made of.

    These are the results, its text, its figures, the folder that its paths are relative to, and what draws it.
    """
    names = list(figures)
    return f"{text}\n<!-- {' '.join([_seal(text, results, path, names), *names])} -->"


def is_current(path: Path, results: Results) -> bool:
    """Whether the page there is what would be written of these results now, with all its figures."""
    try:
        text, _, line = path.read_bytes().decode().rpartition("\n")
    except (OSError, UnicodeDecodeError):
        return False
    stamp = _STAMP.fullmatch(line)
    return stamp is not None and stamp[1] == _seal(text, results, path, stamp[2].split())


def _seal(text: str, results: Results, path: Path, figures: Sequence[str]) -> str:
    files = [path.parent / "figures" / f"{name}.png" for name in figures]
    files += sorted(Path(__file__).parent.glob("*.py"))
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "" for file in files]
    return json_digest([text, results.dump(), digests, os.getcwd(), version("matplotlib")])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
