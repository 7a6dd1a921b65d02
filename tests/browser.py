"""Pages in headless Chromium: their measures at a width, a picture, and what is printed."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A frame has the width of a phone where a window of headless Chromium has a least one of its own.
FRAME = """<!doctype html><body style="margin:0"><iframe id="page" style="border:0;width:{width}px;height:{height}px"
 srcdoc="{page}"></iframe>{script}"""
MEASURE = """<pre id="measures"></pre><script>
const frame = document.getElementById("page");
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  const boxes = (svg) => [...svg.querySelectorAll("g[id*='text_']")].map((each) => {
    const box = each.getBoundingClientRect();
    return {id: each.id, left: box.left, right: box.right, top: box.top, bottom: box.bottom};
  }).filter((box) => box.right > box.left);
  const rects = (all) => [...all].map((each) => {
    const box = each.getBoundingClientRect();
    return {left: box.left, right: box.right, top: box.top, bottom: box.bottom, height: box.height};
  });
  document.getElementById("measures").textContent = JSON.stringify({
    width: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight,
    figures: [...page.querySelectorAll("svg")].filter((svg) => svg.getBoundingClientRect().width).map((svg) => {
      const box = svg.getBoundingClientRect();
      return {left: box.left, right: box.right, top: box.top, bottom: box.bottom, texts: boxes(svg)};
    }),
    captions: rects(page.querySelectorAll("p.caption")), firsts: rects(page.querySelectorAll("td:first-child")),
  });
};
</script>"""


def needs_chromium() -> str:
    """The path of the browser; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: pages are not drawn")
    return CHROMIUM


def run(folder: Path, *arguments: str) -> str:
    """What Chromium prints, without a profile of its own beside the folder's."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += ["--hide-scrollbars", "--force-device-scale-factor=1", "--virtual-time-budget=5000"]
    done = subprocess.run([needs_chromium(), *options, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def opened(page: str) -> str:
    """The page with everything unfolded that a reader can unfold."""
    return page.replace("<details>", "<details open>")


def measures(page: str, width: int, folder: Path) -> dict[str, Any]:
    """Sizes of a page and boxes of the texts of its figures, in pixels, at a width."""
    frame = FRAME.format(width=width, height=900, page=html.escape(page), script=MEASURE)
    (folder / "frame.html").write_text(frame, encoding="utf-8")
    drawn = run(folder, "--dump-dom", "--window-size=1400,1000", (folder / "frame.html").as_uri())
    found = re.search(r'<pre id="measures">(.+?)</pre>', drawn)
    assert found, drawn[-500:]
    return json.loads(html.unescape(found[1]))


def picture(page: str, width: int, folder: Path, path: Path, height: int = 900) -> None:
    """A PNG of the page at a width."""
    frame = FRAME.format(width=width, height=height, page=html.escape(page), script="")
    (folder / "frame.html").write_text(frame, encoding="utf-8")
    run(folder, f"--screenshot={path}", f"--window-size={max(width, 500)},{height}", (folder / "frame.html").as_uri())


def printed(page: str, folder: Path) -> bytes:
    """The page as PDF."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    run(folder, f"--print-to-pdf={folder / 'page.pdf'}", "--no-pdf-header-footer", (folder / "page.html").as_uri())
    return (folder / "page.pdf").read_bytes()


def pages(pdf: bytes) -> int:
    """Pages of a PDF that Chromium wrote: the largest /Count of its page tree."""
    return max((int(each) for each in re.findall(rb"/Count (\d+)", pdf)), default=0)


def overlaps(texts: list[dict[str, Any]], slack: float = 1.0) -> list[tuple[str, str]]:
    """Texts of one figure whose boxes share more than `slack` pixels in both directions."""
    pairs = []
    for i, a in enumerate(texts):
        for b in texts[i + 1 :]:
            across = min(a["right"], b["right"]) - max(a["left"], b["left"])
            down = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
            if across > slack and down > slack:
                pairs.append((a["id"], b["id"]))
    return pairs
