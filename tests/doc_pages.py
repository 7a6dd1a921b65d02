"""The code blocks of the pages: found, run, and their output compared with what the page shows.

python -m tests.doc_pages docs/tutorials/proteins.md

runs a page and writes what its blocks print into the text blocks that follow them; what the others print is shown.
"""

import ast
import contextlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from docs.notebooks import FENCE

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


class Block(NamedTuple):
    """A fenced block of a page: its language, its text, the line it begins at."""

    page: str
    language: str
    text: str
    line: int

    @property
    def first(self) -> str:
        """Its first line of code, by which lists of exceptions name it."""
        return self.text.splitlines()[0].strip()


def pages() -> list[str]:
    """Every page of prose, from the root of the repository."""
    above = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"]
    return above + sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = (ROOT / page).read_text()
    return [
        Block(page, match[2], re.sub(f"^{match[1]}", "", match[3], flags=re.M), text.count("\n", 0, match.start()) + 1)
        for match in FENCE.finditer(text)
    ]


def commands(block: Block) -> Iterator[str]:
    """The commands of a shell block, each one line, without comments."""
    for line in block.text.replace("\\\n", "").splitlines():
        if line := re.sub(r"(^|\s)#.*", "", line).strip():
            yield from (part.strip() for part in re.split(r"&&|;|\|", line))


def outputs(page: str) -> Iterator[tuple[Block, str, str | None]]:
    """Run a page's Python blocks in one name space: (block, what it printed, the text block that follows it)."""
    names: dict = {"__name__": "__page__"}
    every = blocks(page)
    for block, after in zip(every, [*every[1:], None]):
        if block.language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.parse(block.text), f"{page}:{block.line}", "exec"), names)
        yield block, printed.getvalue(), after.text if after is not None and shows(block, after) else None


def shows(block: Block, after: Block) -> bool:
    """Whether a block is the output of the Python block that ends one empty line above it."""
    end = block.line + block.text.count("\n") + 1
    return block.language == "python" and after.language == "text" and after.line == end + 2


def same(printed: str, shown: str, absolute: float = 0.03, relative: float = 0.03) -> bool:
    """Whether two texts have the same words, and numbers that are near: processors round sums differently."""
    if NUMBER.sub("", printed).split() != NUMBER.sub("", shown).split():
        return False
    numbers = [list(map(_value, NUMBER.findall(text))) for text in (printed, shown)]
    if len(numbers[0]) != len(numbers[1]):
        return False
    return all(abs(a - b) <= max(absolute * (b % 1 != 0), relative * abs(b)) for a, b in zip(*numbers))


def _value(text: str) -> float:
    return float(text.rstrip(",").replace(",", ""))


def write(page: str) -> None:
    """Run a page and put what its blocks print into the text blocks that follow them."""
    text = (ROOT / page).read_text()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for _, printed, shown in outputs(page):
            if shown is None:
                print(printed)
            else:
                text = text.replace(f"```text\n{shown}```", f"```text\n{printed}```", 1)
    (ROOT / page).write_text(text)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    for each in sys.argv[1:]:
        write(each)
