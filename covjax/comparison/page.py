"""What all pages are made of: escaped text, numbers, intervals, tables and figures, in HTML and Markdown."""

import dataclasses
import html
from collections.abc import Callable, Sequence

from covjax.comparison.results import Interval, side
from covjax.notes import visible

STYLE = """
:root{--ink:#1b1b1b;--soft:#666;--line:#ddd;--good:#00614a;--bad:#a33c00}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--ink);background:#fff;
 max-width:64rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin-top:2rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.3rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{border-bottom:2px solid var(--ink);vertical-align:bottom}
tr.role td{background:#f4f4f4;font-weight:600;text-align:left}
.interval{color:var(--soft);font-size:.92em}
.above{color:var(--good);font-weight:600}.below{color:var(--bad);font-weight:600}
figure{margin:1.5rem auto;max-width:40rem}figure svg{width:100%;height:auto;display:block}
caption{text-align:left;padding:.3rem 0}
figcaption,.note{color:var(--soft);font-size:.9rem}
details pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.75rem;background:#f7f7f7;padding:.6rem}
@media print{body{max-width:none;padding:0;font-size:11pt}.scroll{overflow:visible}table{font-size:8pt}
 th,td{padding:.15rem .25rem}figure,tr{break-inside:avoid}h2{break-after:avoid}
 figure{max-width:24rem;margin:.8rem auto}}
"""


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
    """A table that scrolls where the page is narrow; a row that is one text heads those after it."""
    lines = [f"<table{_attribute('class', kind)}>"]
    lines += [f"<caption class='note'>{escape(caption)}</caption>"] if caption else []
    lines.append(f"<thead><tr>{''.join(f'<th>{escape(each)}</th>' for each in head)}</tr></thead><tbody>")
    for row in rows:
        if isinstance(row, str):
            lines.append(f"<tr class='role'><td colspan='{len(head)}'>{escape(row)}</td></tr>")
        else:
            lines.append(f"<tr>{''.join(map(_cell, row))}</tr>")
    return Html(f"<div class='scroll'>{''.join(lines)}</tbody></table></div>")


def _cell(cell: str | Cell) -> str:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    return f"<td{_attribute('class', cell.kind)}{_attribute('title', cell.title)}>{escape(cell.content)}</td>"


def _attribute(name: str, value: str) -> str:
    return f" {name}='{escape(value)}'" if value else ""


def figure(svg: str, caption: str, kind: str = "", shown: bool = True) -> Html:
    """An SVG with its caption, which screen readers get too; `shown`: whether it also stands below."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if shown else ""
    return Html(f"<figure{_attribute('class', kind)} role='img' aria-label='{escape(caption)}'>{svg}{below}</figure>")


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


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
