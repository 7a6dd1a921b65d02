"""Whatever a label holds, figures and pages are drawn, show it as text and run nothing."""

from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest

from covjax.comparison import figures, report
from covjax.comparison.figures import save_figure
from covjax.comparison.page import escape
from covjax.notes import figure_text, visible
from tests.suite_examples import changed, example
from tests.test_suite_summary import WINS

LABELS = {
    "mathematics": "$\\frac{x$ and $y_{$",
    "one dollar": "a $ b",
    "backslash": "\\alpha\\",
    "escaped dollar": "a\\$b$",
    "NUL": "a\x00b",
    "control": "a\x1b[31m\r\n\tb",
    "right to left": "abc\u202edef\u2066",
    "surrogate": "a\ud800b",
    "not a character": "a\uffffb\U0010ffff",
    "no such letter in the font": "蛋白 \U0001f9ec",
    "long": "x" * 10_000,
    "long and dollars": "$" * 9_999,
    "tags": "<script>alert(1)</script>'\"&",
    "empty": "",
}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_a_label_is_drawn_as_text(tmp_path, label):
    text = figure_text(label)
    assert len(text.replace("\\$", "$")) <= 60
    assert not text or visible(text) == text
    figure, axes = plt.subplots(figsize=(2, 2))
    axes.set_yticks([0], [text])
    axes.set_title(text)
    assert axes.title._preprocess_math(text)[1] is False
    svg = save_figure(figure, "x", tmp_path)
    assert "<script" not in svg
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_plain_labels_stay_as_they_are():
    assert figure_text("GO:0005515 protein binding, β-sheet") == "GO:0005515 protein binding, β-sheet"
    assert figure_text("a\x00b\u202e") == "a\\x00b\\u202e"
    assert figure_text("x" * 50 + "y" * 50, 34).count("y") == 11
    assert escape("<b>'\x00") == "&lt;b&gt;&#x27;\\x00"


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)


def test_pages_and_figures_of_a_comparison_with_such_labels(tmp_path):
    names = [*LABELS.values()]
    terms = [{"label": n, "name": n, "positives": {"train": 3, "test": 3}} for n in names]
    results = example("<script>$\x00\ud800", WINS, contrasts={}, terms=terms, warnings=names)
    for place in range(len(WINS)):
        per_term = {"mcc": [0.5] * len(names)}
        results = changed(results, "rows", place, "probes", "ridge", "per_term", value=per_term)
    svgs = figures.draw_figures(results, tmp_path / "figures")
    report.write_report(results, svgs, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert not {"\x00", "\x1b", "\u202e"} & set(text)
