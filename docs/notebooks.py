"""Tutorials as Jupyter notebooks, made of their pages.

python docs/notebooks.py runs/notebooks

A Python block is a cell of code, the text block under it is that cell's output, and all else is text. Tests run the
blocks and compare what they print, so the outputs of a notebook are those of its page.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.M | re.S)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s]+)(?=\))")


def tutorials() -> list[str]:
    """The pages that become notebooks, from the root of the repository."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs/tutorials").glob("*.md"))


def repository() -> str:
    """The address of the code, from mkdocs.yml."""
    return re.search(r"^repo_url: (\S+)", (ROOT / "mkdocs.yml").read_text(), re.M)[1]


def notebook(page: str) -> str:
    """The notebook of a page as JSON (nbformat 4.5), its links to other pages as addresses."""
    text = (ROOT / page).read_text()
    cells: list[dict[str, Any]] = []
    place = output_at = 0
    for block in FENCE.finditer(text):
        if block[2] == "python":
            _add_text(cells, text[place : block.start()], page)
            cells.append({"cell_type": "code", "execution_count": None, "outputs": [], "source": block[3].rstrip("\n")})
            place, output_at = block.end(), block.end() + len("\n\n")
        elif block[2] == "text" and block.start() == output_at:
            cells[-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": block[3]}]
            place = block.end()
    _add_text(cells, text[place:], page)
    numbered = [{"id": f"cell-{i}", "metadata": {}, **cell} for i, cell in enumerate(cells)]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    whole = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": numbered}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _add_text(cells: list[dict[str, Any]], text: str, page: str) -> None:
    def address(link: re.Match) -> str:
        return f"{repository()}/blob/main/{os.path.normpath(os.path.join(os.path.dirname(page), link[1]))}"

    if text := text.strip():
        cells.append({"cell_type": "markdown", "source": LINK.sub(address, text)})


def main(folder: str) -> None:
    """Write every tutorial's notebook into a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for page in tutorials():
        path = Path(folder, f"{Path(page).stem}.ipynb")
        path.write_text(notebook(page), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
