"""The real data sets as tables: the draw by hand, every table whole, honest and the same each time."""

import gzip
import itertools
from collections import Counter

import numpy as np
import pytest

from covjax.data import check_splits, read_table
from covjax.data.splits import SPLITS
from covjax.data.targets import target_names_path
from covjax.errors import InputError
from covjax.sources import SOURCES, dna, write_source
from covjax.sources.draw import Row, draw, kmers, without_copies, word_runs


def rows_of(group_sizes, held_out=()):
    return [
        Row(f"{name}{i}", f"S{name}{i}", "1", name, "test" if name in held_out else "")
        for name, size in group_sizes.items()
        for i in range(size)
    ]


def sides(rows):
    found = {}
    for row in rows:
        found.setdefault(row.group, set()).add(row.split)
    return found


def test_draw_gives_the_sizes_asked_for_and_keeps_groups_whole():
    drawn = draw(rows_of({f"g{i}": 1 + i % 3 for i in range(200)}), (200, 50, 40), seed=3)
    assert Counter(row.split for row in drawn) == {"train": 200, "validation": 50, "test": 40}
    assert all(len(found) == 1 for found in sides(drawn).values())
    assert drawn == draw(rows_of({f"g{i}": 1 + i % 3 for i in range(200)}), (200, 50, 40), seed=3)
    assert drawn != draw(rows_of({f"g{i}": 1 + i % 3 for i in range(200)}), (200, 50, 40), seed=4)


def test_a_large_group_gives_a_part_of_train_alone():
    drawn = draw(rows_of({"giant": 500} | {f"g{i}": 1 for i in range(200)}), (100, 50, 50), largest=0.1)
    assert Counter(row.split for row in drawn if row.group == "giant") == {"train": 10}


def test_fewer_rows_than_asked_for_keep_the_proportions():
    drawn = draw(rows_of({f"g{i}": 1 for i in range(70)}), (500, 100, 100))
    assert Counter(row.split for row in drawn) == {"train": 50, "validation": 10, "test": 10}


def test_held_out_rows_are_the_test_and_their_relatives_are_left_out():
    rows = rows_of({f"g{i}": 2 for i in range(40)} | {f"h{i}": 2 for i in range(10)}, {f"h{i}" for i in range(10)})
    rows.append(Row("leak", "SEQ", "1", "h3"))
    drawn = draw(rows, (30, 10, 20), largest=None)
    assert {row.group[0] for row in drawn if row.split == "test"} == {"h"}
    assert {row.group[0] for row in drawn if row.split != "test"} == {"g"}
    assert Counter(row.split for row in drawn) == {"train": 30, "validation": 10, "test": 20}
    assert "leak" not in {row.id for row in drawn}


def test_draw_refuses_what_leaves_a_split_empty():
    with pytest.raises(InputError, match="leave the split 'train' empty"):
        draw(rows_of({"a": 5, "b": 5}), (4, 3, 3), largest=None)
    with pytest.raises(InputError, match="sizes"):
        draw(rows_of({"a": 5}), (4, 0, 3))


def test_copies_that_disagree_are_all_left_out(capsys):
    rows = [Row("1", "A", "x", ""), Row("2", "B", "x", ""), Row("3", "A", "y", ""), Row("4", "B", "x", "")]
    rows.append(Row("5", "B", "y", "", "test"))
    assert [row.id for row in without_copies(rows)] == ["2", "5"]
    assert "3 copies of a sequence, among them all of 1 with two answers" in capsys.readouterr().out


def test_bad_source_arguments(tmp_path):
    with pytest.raises(InputError, match="source: 'gp' is not one of go, deeploc"):
        write_source("gp", tmp_path / "x.csv.gz", tmp_path)
    with pytest.raises(InputError, match=r"must end in .csv.gz"):
        write_source("go", tmp_path / "x.csv", tmp_path)
    for name in SOURCES:
        with pytest.raises(InputError, match=r"no such file; set COVJAX_SHARED"):
            write_source(name, tmp_path / "x.csv.gz", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "file", "text", "message"),
    [
        ("trec", "text/TREC.train.all.gz", "0 what\n9 who\n", "line 2: not as published: \"'9'\""),
        ("trec", "text/TREC.train.all.gz", "0 what\nwho\n", "line 2: not as published"),
        ("splice", "dna/splice.csv.gz", "sequence,label\nACGT,7\n", "line 2: not as published"),
        ("splice", "dna/splice.csv.gz", "sequence,value\nACGT,1\n", "line 1: not as published"),
        ("terminator", "dna/yeast_terminator_expression.tsv.gz", "ACGT\n", "line 1: not as published"),
        ("deeploc", "protein/deeploc_part.fasta.gz", ">a\nMK\n", "line 1: not as published"),
        (
            "lactamase",
            "protein/beta_lactamase_fitness.fasta.gz",
            ">a\nMK\n>a\nMK\n>b\nML\n",
            "line 5: not as published",
        ),
        ("mnase", "tracks/yeast_chrII_0_600kb_mnase.npz", "PK", "cannot be read"),
    ],
)
def test_a_damaged_source_is_one_line(tmp_path, name, file, text, message):
    path = tmp_path / "data" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(text.encode()) if file.endswith(".gz") else text.encode())
    with pytest.raises(InputError, match=f"{path.name}: {message}"):
        write_source(name, tmp_path / "x.csv.gz", tmp_path)
    assert not (tmp_path / "x.csv.gz").exists()


PIECES = {  # what no two sides of a split have in common
    "go": lambda s: kmers(s, 30),
    "splice": lambda s: kmers(s, 32, both_strands=True),
    "promoter": lambda s: kmers(s, 32, both_strands=True),
    "yeast_h4": lambda s: kmers(s, 32, both_strands=True),
    **dict.fromkeys(
        ("mnase", *(f"mnase_{window}" for window in dna.WINDOWS)), lambda s: kmers(s, 32, both_strands=True)
    ),
    "terminator": lambda s: kmers(s[dna.START : -dna.END], 20),
    "trec": lambda s: word_runs(s, 8),
    "subj": lambda s: word_runs(s, 8),
    "sentiment": lambda s: word_runs(s, 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_every_table_is_honest_and_within_its_sizes(shared_dir, tmp_path, name):
    path = write_source(name, tmp_path / f"{name}.csv.gz", shared_dir)
    assert {*tmp_path.iterdir()} - {target_names_path(path)} == {path}  # nothing partial is left
    data = read_table(path)
    check_splits(data)  # groups and sequences on one side, every label with both outcomes in every split
    for split, size in zip(SPLITS, SOURCES[name].sizes):
        assert size / 4 < len(data.rows(split)) <= size
    assert data.is_text == (name in ("trec", "subj", "sentiment"))
    expected = {"label": ("multiclass", "regression"), "labels": ("multilabel",), "targets": ("regression",)}
    assert data.task in expected[SOURCES[name].column]
    if name in PIECES:
        sides = [set().union(*(PIECES[name](data.sequences[i]) for i in data.rows(split))) for split in SPLITS]
        for one, other in itertools.combinations(sides, 2):
            assert one
            assert not one & other


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes_and_the_sizes_are_an_argument(shared_dir, tmp_path):
    first = write_source("trec", tmp_path / "a.csv.gz", shared_dir, (300, 100, 90))
    second = write_source("trec", tmp_path / "b.csv.gz", shared_dir, (300, 100, 90))
    assert first.read_bytes() == second.read_bytes()
    assert Counter(read_table(first).splits.tolist()) == {"train": 300, "validation": 100, "test": 90}


@pytest.mark.slow
def test_track_targets_are_the_mean_over_the_centre(shared_dir, tmp_path):
    data = read_table(write_source("mnase", tmp_path / "t.csv.gz", shared_dir, (50, 20, 20)))
    start = int(data.ids[7].split(":")[1].split("-")[0])
    with np.load(shared_dir / "data" / "tracks" / "yeast_chrII_0_600kb_mnase.npz") as file:
        centre = slice(start + 128, start + 384)
        expected = [np.log1p(file[name][centre].mean()) for name in dna.TRACKS]
        assert data.sequences[7] == file["seq"][start : start + 512].tobytes().decode()
    np.testing.assert_allclose(data.targets[7], expected, atol=1e-6)
    assert data.target_names == ("target1", "target2", "target3", "target4")


@pytest.mark.slow
def test_windows_of_other_widths_have_the_same_centres_targets_and_splits(shared_dir):
    tables = {window: SOURCES[f"mnase_{window}"].build(shared_dir, (200, 60, 60)) for window in dna.WINDOWS}
    widest = tables[2048]
    for window, rows in tables.items():
        trim = (2048 - window) // 2
        for row, other in zip(rows, widest, strict=True):
            assert row.sequence == other.sequence[trim : 2048 - trim]
            assert (row.answer, row.split, row.group) == (other.answer, other.split, other.group)


@pytest.mark.slow
def test_the_flanks_of_the_terminators_are_constant(shared_dir):
    rows = dna.terminator(shared_dir, (400, 100, 100))
    assert len({(row.sequence[: dna.START], row.sequence[-dna.END :]) for row in rows}) == 1
