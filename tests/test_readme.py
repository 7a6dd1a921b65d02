"""The Python examples of README.md and docs/python.md run as written, and the README stays short."""

import re

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.doc_pages import blocks, pages
from tests.test_docs import COMPILED
from tests.test_unirep import needs_weights


def code(page: str) -> str:
    """The page's Python blocks that run, as one text."""
    every = [block for block in blocks(page) if block.language == "python"]
    return "\n".join(block.text for block in every if (page, block.first) not in COMPILED)


@pytest.mark.long
@needs_weights
def test_readme_examples_give_what_they_say():
    names: dict = {}
    exec(code("README.md"), names)
    assert names["vectors"].shape == (3, 2080)
    assert names["vectors"].dtype == np.float32
    assert np.isfinite(names["vectors"]).all()


@pytest.mark.long
@needs_weights
def test_python_page_examples_give_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code("docs/python.md"), names)
    assert names["vectors"].shape == (4, 2080)
    assert np.array_equal(names["again"], names["vectors"])
    assert names["own"].shape == (3, 36)
    assert names["features"].shape == (8, 2080)
    assert names["sigma"].shape == (64, 64)
    assert names["score"].shape == (20, 2)
    assert np.isfinite(names["score"]).all()
    assert 0 <= float(names["f"]) <= 1


def test_five_questions_are_one_link_away():
    """Which pool, own activations, new predictions, an accelerator, extending it."""
    text = (ROOT / "README.md").read_text()
    assert "## Which pool should I use?" in text
    assert "\ncovjax predict " in text
    for page in ("docs/activations.md", "docs/install.md", "CONTRIBUTING.md", "docs/write-your-own-autoencoder.md"):
        assert f"]({page})" in text, page


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900


PAGES = pages()


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target
