"""Pages that are read: at the width of a phone and of a screen, and as PDF, in headless Chromium."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from covjax.comparison import figures
from covjax.comparison.datacard import DataCard, Predictions
from covjax.comparison.figures import draw_figures
from covjax.comparison.report import write_report
from covjax.comparison.results import Contrast
from covjax.data.splits import SPLITS
from covjax.tasks.report import write_suite
from eval import stability
from tests.browser import measures, needs_chromium, overlaps, printed
from tests.suite_examples import changed, example
from tests.test_suite_summary import LOSES, WINS

WIDTHS = (390, 1280)
LONG = "oxidoreductase activity, acting on paired donors, with incorporation of oxygen"
CLASSES = ("cytoplasm", "nucleus", LONG, "cell membrane", "$x_{", "endoplasmic reticulum")
SPOILT = """<!doctype html><div style="width:2000px">wide</div>
<svg width="200" height="50"><g id="text_1"><text x="10" y="20">one label</text></g>
<g id="text_2"><text x="20" y="22">another</text></g>
<g id="text_3"><text x="150" y="40">beyond the edge</text></g></svg>
<div class="scroll" style="width:100px;overflow:auto"><table><tr><td style="min-width:300px">name</td>
<td style="min-width:300px">1</td></tr></table></div>"""
CHAIN = {
    "variance": Contrast("mean_std", "mean", 0.05, (-0.02, 0.12), None),
    "quadratic": Contrast("mean_std", "mean_std", 0.0, (0.0, 0.0), None),
    "co-occurrence": Contrast("sqrt_covariance", "mean_std", 0.15, (0.03, 0.27), None),
}


def comparison(folder, name, results, card):
    svgs = draw_figures(results, folder / name, card)
    write_report(results, svgs, folder / f"{name}.html", card)
    return (folder / f"{name}.html").read_text(encoding="utf-8")


def card_of(predictions, outputs, labels=(), targets=()):
    spread = {split: (20.0, 130.5, 1999.0) for split in SPLITS}
    counts = {label: {split: 7 + i for split in SPLITS} for i, label in enumerate(labels)}
    measured = {split: (-1.5, 0.25, 1234.5) for split in targets}
    return DataCard("letters", spread, counts, measured, "always the same", tuple(outputs), predictions)


def with_per_term(results, metric, values):
    for place in range(len(results.rows)):
        shifted = [float(value) for value in np.clip(values + 0.02 * place, 0, 1)]
        results = changed(results, "rows", place, "probes", "ridge", "per_term", value={metric: shifted})
    return results


def classes(folder):
    rng = np.random.default_rng(0)
    truth = np.eye(len(CLASSES), dtype=bool)[rng.integers(0, len(CLASSES), 200)]
    scores = truth + rng.normal(size=truth.shape)
    chain = {name: vars(step) for name, step in CHAIN.items()}
    warnings = ["12 groups in the test set: bootstrap intervals over so few are too narrow", "mean, ridge: odd"]
    results = example(LONG, WINS, chain=chain, warnings=warnings)
    predictions = Predictions(truth, scores, rng.normal(size=truth.shape))
    return comparison(folder, "classes", results, card_of(predictions, CLASSES, CLASSES))


def numbers(folder):
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(60, 1)) * 1e4
    results = example("numbers", LOSES, task="regression")
    predictions = Predictions(truth, truth + 5e3 * rng.normal(size=truth.shape), truth * 0)
    return comparison(folder, "numbers", results, card_of(predictions, ["value"], targets=SPLITS))


def labels(folder):
    names = [f"GO:{i:07d} {LONG if i % 3 else 'binding'}" for i in range(40)]
    terms = [{"label": n, "name": n, "positives": {split: 3 for split in SPLITS}} for n in names]
    results = example("labels", WINS, terms=terms)
    results = with_per_term(results, "mcc", np.linspace(0.1, 0.9, 40))
    return comparison(folder, "labels", results, card_of(None, names, names))


def suite(folder):
    tasks = {f"a_task_{i}": example(f"task {i}", LOSES if i % 2 else WINS) for i in range(5)}
    done = {"status": "complete", "reason": "", "reused": False, "seconds": 12.0, "command": ""}
    runs = [{"task": key} | done for key in tasks]
    runs.append({"task": "absent"} | done | {"status": "failed", "reason": "data: no such file"})
    write_suite(tasks, runs, folder / "suite", "covjax tasks --all")
    return (folder / "suite" / "report.html").read_text(encoding="utf-8")


def seeds(folder):
    names = ("0–1", "0–2", "1–2", "random")
    cosines = {name: stability._distribution(np.linspace(0.1, 0.9, 50)) for name in names}
    held = {str(seed): {"fvu": 0.3, "l0": 16.0, "dead": 0.05} for seed in range(3)}
    results = {"name": "seeds", "matched_cosines": cosines, "held_out": held, "train": {"store": "/data/store"}}
    results["probe"] = {"metric": "MCC", "scores": {"0": 0.5, "1": 0.6}, "mean": 0.55, "spread": 0.1}
    (folder / "seeds").mkdir()
    stability.write_report(results, folder / "seeds")
    return (folder / "seeds" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The pages, and of every figure of a comparison its width and the sizes of its letters."""
    folder, looks, save = tmp_path_factory.mktemp("pages"), [], figures.save_figure

    def look(figure, *rest):
        svg = save(figure, *rest)
        texts = [text for text in figure.findobj(plt.Text) if text.get_text() and text.get_visible()]
        looks.append((figure.get_size_inches()[0], {text.get_fontsize() for text in texts}))
        return svg

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save_figure", look)
        made = {make.__name__: make(folder) for make in (classes, numbers, labels)}
    return made | {make.__name__: make(folder) for make in (suite, seeds)}, looks


@pytest.fixture(scope="module")
def pages(written):
    needs_chromium()
    return written[0]


@pytest.fixture(scope="module")
def browsed(pages, tmp_path_factory):
    return measures(pages | {"spoilt": SPOILT}, WIDTHS, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def measured(browsed):
    return {key: page for key, page in browsed.items() if key[0] != "spoilt"}


@pytest.mark.long
def test_no_page_is_wider_than_the_screen(measured):
    assert {key: page["scroll"] for key, page in measured.items() if page["scroll"] > page["width"]} == {}
    assert {page["width"] for page in measured.values()} == set(WIDTHS)


@pytest.mark.long
def test_a_page_that_is_too_wide_and_crossed_texts_are_seen(browsed):
    """What the other tests ask of all pages, asked of one that breaks every rule."""
    for width in WIDTHS:
        page = browsed["spoilt", width]
        assert page["scroll"] >= 2000 > page["width"]
        (figure,) = page["figures"]
        assert overlaps(figure["texts"]) == [("text_1", "text_2")]
        assert max(text["right"] for text in figure["texts"]) > figure["right"]
        assert page["scrolls"][0]["away"] > 100  # its first column does not stay


def test_no_two_texts_of_a_figure_share_room_and_none_leaves_it(measured):
    for key, page in measured.items():
        assert page["figures"], key
        for figure in page["figures"]:
            assert overlaps(figure["texts"]) == [], key
            for text in figure["texts"]:
                assert figure["left"] - 1 <= text["left"] <= text["right"] <= figure["right"] + 1, (key, text["id"])


def test_tables_scroll_and_their_captions_and_first_columns_do_not(measured):
    for (name, width), page in measured.items():
        assert all(caption["right"] <= width for caption in page["captions"]), name
        for box in page["scrolls"]:
            assert box["captions"] == 0
            assert box["right"] <= width
            assert box["away"] <= 1, name  # at the end of its way a table still shows its first column
    moved = [box["moved"] for box in measured["classes", 390]["scrolls"]]
    assert max(moved) > 0  # the table of rows is wider than a phone


def test_pages_are_printed(pages, tmp_path):
    assert 2 <= printed(pages["classes"], tmp_path) <= 8


def test_two_texts_in_one_place_are_seen():
    a = {"id": "a", "left": 0, "right": 10, "top": 0, "bottom": 10}
    assert overlaps([a, a | {"id": "b", "left": 5}]) == [("a", "b")]
    assert overlaps([a, a | {"id": "b", "left": 10}, a | {"id": "c", "top": 9.5, "bottom": 20}]) == []


def test_letters_of_all_figures_have_one_size(written):
    """All have one width, so one size of letters in them is one on the page."""
    assert len(written[1]) > 10
    assert {width for width, _ in written[1]} == {figures.WIDTH}
    assert set.union(*(sizes for _, sizes in written[1])) == {9.0}
