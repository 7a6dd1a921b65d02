"""The code hangs together as `tests/structure.py` says: no circles, no imports that go up, files that can be read."""

import pytest

from tests import structure

# 165 when the house was rebuilt; a new file is a new idea, and raises this with a reason. Then came the kit of pages,
# scoring apart from the layout of results.json, the layout of suite.json and the sections of its page (one file went);
# activations from files, from memory and from PyTorch; 7 of rivals (order, distribution, geometry, what is fitted for
# them, means of matrices, recipes); functions of matrices by products, and models of the device benchmark; 12 of
# encoders (a file a family, layers, rotary, residues); kernels of wide recipes, their plan and probes, memory,
# width; calibration; a package of what benchmarks share; layers, retrieval, the chain, mixtures and landmarks of a
# comparison, and its tables in files; pairs (their table, tokens and recipes); probes that are not linear; PageRank
# weights; a language model's windows, loss and training; autoencoders by name and of more libraries, gated, p-annealed
# and moment-aware ones, tokens rescaled by their own numbers; other domains (log-mel energies, recordings, structures
# of RNA, sources of RNA and speech, an LSTM of sound); folds (data, fits, scores, model, words); 8 of explanations;
# covariates, outputs, peaks, the yeast genome; a report's data card, sections and glossary; the page of recipes,
# claims; compiled programs; 2 of distractors; 10 of sweeps (train, measure, page, command; the bench's functions and
# sparse probes, transcoders, crosscoders, heads of language models); 12 of dashboards, their annotations and benchmark;
# latents in explanations; the command of a comparison, apart from the run that imports JAX; conjugate gradients on
# streamed vectors, and a benchmark of many sequences; kernels of vectors that have no factors, and the pass over
# tokens; second-order collapse, its page, that of ε, and the tasks of a finished suite, opened again; the kinds of
# trained encoders, and the one of proteins; the settings and commands of extractions and trainings, apart from what
# imports JAX.
MOST_FILES = 295
MOST_LINES = 400
# `python -m eval.compare --suite` is an old spelling of `covjax tasks`.
ONE_UPWARD = ["covjax.comparison.command → covjax.tasks.run"]


@pytest.fixture(scope="module")
def files():
    return structure.modules()


@pytest.fixture(scope="module")
def graph(files):
    return structure.imports(files, inside_functions=True)


def test_no_modules_import_each_other(graph):
    assert structure.circles(graph) == []


def test_no_import_goes_up(graph):
    assert structure.upward(graph) == ONE_UPWARD


def test_files_can_be_read_at_one_sitting(files):
    assert {name: lines for name, lines in structure.lengths(files).items() if lines > MOST_LINES} == {}


def test_there_are_no_more_files_than_ideas(files):
    assert 100 < len(files) <= MOST_FILES


def test_every_name_is_defined(files):
    assert {
        name: names for name, file in files.items() if (names := structure.undefined(file.read_text("utf-8")))
    } == {}


@pytest.mark.long
def test_the_measures_see_what_they_are_for(files, graph):
    """A check that finds nothing in a good tree finds something in a bad one."""
    assert "covjax.tokens" in graph["covjax.moments"]
    assert structure.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    bad = {"covjax.moments": {"covjax.comparison.compare"}, "covjax.comparison.compare": {"covjax.moments"}}
    assert structure.upward(bad) == ["covjax.moments → covjax.comparison.compare"]
    bad_name = "import functools\ndef f(x):\n    return functools.reduce(nothing, [len(y) for y in x])"
    assert structure.undefined(bad_name) == {"nothing"}
    with pytest.raises(KeyError, match="on no floor"):
        structure.floor("covjax.attic")
    at_once = structure.imports(files)
    assert sum(map(len, at_once.values())) < sum(map(len, graph.values()))


def test_a_journey_counts_uninterrupted_stays():
    assert structure.stays(["a", "a", "b", "a"]) == 3
