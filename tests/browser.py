"""Pages in headless Chromium: their measures at a width, and how many pages they print."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A frame has the width of a phone, where a window of headless Chromium has a least width of its own. One start of the
# browser measures all pages: it takes longer than they do.
MEASURE = """<pre id="measures"></pre><script>
const box = (each) => {
  const {left, right, top, bottom} = each.getBoundingClientRect();
  return {id: each.id, left, right, top, bottom};
};
const measure = (frame) => {
  const page = frame.contentDocument, root = page.documentElement;
  const figures = [...page.querySelectorAll("svg")].map((svg) => ({
    ...box(svg), texts: [...svg.querySelectorAll("g[id*='text_']")].map(box).filter((each) => each.right > each.left),
  }));
  const captions = [...page.querySelectorAll("p.caption")].map(box);
  const scrolls = [...page.querySelectorAll(".scroll")].map((each) => {
    each.scrollLeft = 1e4;  // to its end: the first column has to be there still
    const firsts = [...each.querySelectorAll("td:first-child:not([colspan])")].map((cell) => box(cell).left);
    return {...box(each), moved: each.scrollLeft, captions: each.querySelectorAll("caption,.caption").length,
            away: Math.max(0, ...firsts.map((left) => Math.abs(left - box(each).left)))};
  });
  return {width: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight, figures, captions, scrolls};
};
window.onload = () => {
  const frames = [...document.querySelectorAll("iframe")];
  document.getElementById("measures").textContent = JSON.stringify(
    Object.fromEntries(frames.map((frame) => [frame.id, measure(frame)])));
};
</script>"""


def needs_chromium() -> str:
    """The path of the browser; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: pages are not drawn")
    return CHROMIUM


def run(folder: Path, *arguments: str) -> str:
    """What Chromium prints, its profile in the folder."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += ["--hide-scrollbars", "--force-device-scale-factor=1"]
    done = subprocess.run([needs_chromium(), *options, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def measures(pages: Mapping[str, str], widths: Sequence[int], folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Of every page at every width: sizes, boxes of figures with their texts, of captions and of what scrolls, in px.

    What a reader can unfold is unfolded.
    """
    size = "border:0;height:900px"
    frames = [
        f"<iframe id='{name} {width}' style='{size};width:{width}px' srcdoc='{html.escape(page)}'></iframe>"
        for name, page in pages.items()
        for width in widths
    ]
    text = f"<!doctype html><meta charset='utf-8'><body>{''.join(frames)}{MEASURE}"
    text = text.replace("&lt;details&gt;", "&lt;details open&gt;")
    (folder / "frames.html").write_text(text, encoding="utf-8")
    drawn = run(folder, "--dump-dom", "--window-size=1400,1000", (folder / "frames.html").as_uri())
    found = re.search(r'<pre id="measures">(.+?)</pre>', drawn)
    assert found, drawn[-500:]
    keyed = json.loads(html.unescape(found[1]))
    return {(name, width): keyed[f"{name} {width}"] for name in pages for width in widths}


def printed(page: str, folder: Path) -> int:
    """How many pages Chromium prints: the largest /Count of the PDF's tree."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    run(folder, f"--print-to-pdf={folder / 'page.pdf'}", "--no-pdf-header-footer", (folder / "page.html").as_uri())
    return max(map(int, re.findall(rb"/Count (\d+)", (folder / "page.pdf").read_bytes())), default=0)


def overlaps(texts: Sequence[Mapping[str, Any]], slack: float = 1.0) -> list[tuple[str, str]]:
    """Texts of one figure whose boxes share more than `slack` pixels in both directions."""
    pairs = []
    for i, a in enumerate(texts):
        for b in texts[i + 1 :]:
            across = min(a["right"], b["right"]) - max(a["left"], b["left"])
            down = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
            if across > slack and down > slack:
                pairs.append((a["id"], b["id"]))
    return pairs
