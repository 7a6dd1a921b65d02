"""The real data sets as tables: the draw by hand, every table whole, honest and the same each time."""

import dataclasses
import gzip
import itertools
from collections import Counter

import numpy as np
import pytest

from covjax.activations import read_activations
from covjax.comparison.compare import compare
from covjax.data import check_splits, read_table
from covjax.data.audio import read_recordings
from covjax.data.splits import SPLITS
from covjax.data.targets import target_names_path
from covjax.errors import InputError
from covjax.sources import SOURCES, dna, speech, tokens_path, write_source
from covjax.sources.draw import Row, draw, kmers, without_copies, word_runs
from covjax.tasks.configs import TASK_CONFIGS
from tests.test_audio import archive, wav


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
    with pytest.raises(InputError, match="source: 'gp' is not one of go, ec, deeploc"):
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
        ("ec", "protein/ec_split10.tsv.gz", "id\tec\tsequence\nP1\t1.2.n.1\tMK\n", "line 2: not as published"),
        ("ec", "protein/ec_split10.tsv.gz", "id\tec\tsequence\nP1\t1.2.3\tMK\n", "line 2: not as published"),
        ("rna_degradation", "rna/degscore.tsv.gz", "id\tsequence\n1\tACGU\n", "line 1: not as published"),
        ("spoken_speakers", "audio/spoken_digits.tar.gz", "words", "cannot be read as a tar archive"),
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
    "rna_degradation": lambda s: {s},  # relatives share pieces, but not 30 % of them
    "trec": lambda s: word_runs(s, 8),
    "subj": lambda s: word_runs(s, 8),
    "sentiment": lambda s: word_runs(s, 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_every_table_is_honest_and_within_its_sizes(shared_dir, tmp_path, name):
    path = write_source(name, tmp_path / f"{name}.csv.gz", shared_dir)
    has_tokens = SOURCES[name].tokens is not None
    files = {path, tokens_path(path)} if has_tokens else {path}
    assert {*tmp_path.iterdir()} - {target_names_path(path)} == files  # nothing partial is left
    data = read_table(path, needs_sequence=not has_tokens)
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


def table_file(shared, name, header, rows):
    path = shared / "data" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("\n".join(["\t".join(each) for each in (header, *rows)]).encode()))
    return shared


def test_enzymes_have_all_their_third_level_classes(tmp_path, rng):
    def protein(length):
        return "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length))

    rows = [[f"P{i}", ("1.1.1.1", "2.7.11.n2", "1.1.1.2;2.7.11.1;1.1.1.3")[i % 3], protein(60)] for i in range(150)]
    rows += [["short", "1.1.1.1", protein(49)], ["long", "1.1.1.1", protein(1001)], ["rare", "7.1.1.1", protein(80)]]
    rows.append(["relative", "1.1.1.1", rows[0][2][:55]])
    shared = table_file(tmp_path, "protein/ec_split10.tsv.gz", ["id", "ec", "sequence"], rows)
    data = read_table(write_source("ec", tmp_path / "ec.csv.gz", shared, (100, 30, 30)))
    assert data.task == "multilabel"
    assert data.target_names == ("1.1.1", "2.7.11")
    place = {name: i for i, name in enumerate(data.ids)}
    assert not {"short", "long"} & set(place)
    expected = {"0": [1, 0], "1": [0, 1], "2": [1, 1]}
    for name in data.ids:
        if name[0] == "P":
            assert data.targets[place[name]].tolist() == expected[str(int(name[1:]) % 3)]
    if {"P0", "relative"} <= set(place):
        assert data.groups[place["relative"]] == data.groups[place["P0"]]
    if "rare" in place:
        assert not data.targets[place["rare"]].any()


def test_rna_is_written_in_dna_letters_with_its_structure(tmp_path, rng, capsys):
    rows = []
    for i in range(60):
        sequence = "GGAAA" + "".join(rng.choice(list("ACGU"), 20)) + "AAAAGAAACAACAACAACAAC"
        profile = rng.uniform(0, 2, 10)
        text = ";".join(f"{value:.4f}" for value in profile)
        rows.append([f"r{i}", sequence, "((...))" + "." * 39, f"{profile.mean():.4f}", text, text])
    header = ["id", "sequence", "structure", "k_deg_per_hour", "reactivity", "deg_50C"]
    shared = table_file(tmp_path, "rna/degscore.tsv.gz", header, rows)
    path = write_source("rna_degradation", tmp_path / "rna.csv.gz", shared, (30, 15, 15))
    assert "U of RNA is written as T" in capsys.readouterr().out
    data = read_table(path)
    sequence_of = {row[0]: row[1] for row in rows}
    assert [each.replace("T", "U") for each in data.sequences] == [sequence_of[name] for name in data.ids]
    assert not any("U" in each for each in data.sequences)
    assert data.targets.shape == (60, 3)
    np.testing.assert_allclose(data.targets[:, 0], data.targets[:, 1], atol=1e-4)
    np.testing.assert_allclose(data.targets[:, 1], data.targets[:, 2])
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert lines[0].split(",")[5:] == ["paired", "hairpin", "bulge", "interior", "multiloop", "exterior"]
    np.testing.assert_allclose(
        [float(x) for x in lines[1].split(",")[5:]], np.array([4, 3, 0, 0, 0, 39]) / 46, atol=1e-6
    )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["r", "ACGT", "....", "1", "1;2", "1;2"], "line 2: not as published: \"letters \\['T'\\] in an RNA"),
        (["r", "ACGU", "...", "1", "1;2", "1;2"], "line 2: not as published: 'a structure of 3"),
        (["r", "ACGU", "...)", "1", "1;2", "1;2"], "structure: '\\)' at position 4 closes no pair"),
        (["r", "ACGU", "....", "fast", "1;2", "1;2"], "line 2: not as published"),
    ],
)
def test_an_rna_that_is_not_as_published_is_refused(tmp_path, cells, message):
    header = ["id", "sequence", "structure", "k_deg_per_hour", "reactivity", "deg_50C"]
    shared = table_file(tmp_path, "rna/degscore.tsv.gz", header, [cells])
    with pytest.raises(InputError, match=message):
        write_source("rna_degradation", tmp_path / "rna.csv.gz", shared)


def spoken(shared, rng):
    """Two recordings of every digit by every speaker: tones, whose height is the digit and whose noise the speaker."""
    path = shared / "data" / "audio" / "spoken_digits.tar.gz"
    path.parent.mkdir(parents=True)
    files = {}
    for digit, (number, speaker), take in itertools.product(range(10), enumerate(speech.SPEAKERS), range(2)):
        tone = np.sin(2 * np.pi * (200 + 150 * digit) * np.arange(1200 + 80 * take) / 8000)
        sound = 0.3 * tone + rng.normal(0, 0.01 * (1 + number), len(tone))
        files[f"{digit}_{speaker}_{take}.wav"] = wav(np.clip(sound * 32768, -32768, 32767).astype("<i2").tobytes())
    archive(path, files)
    return shared


def test_every_speaker_is_the_test_once_and_no_digit_is_on_two_sides(tmp_path, rng):
    shared, tested = spoken(tmp_path, rng), []
    for name in speech.DIGIT_TABLES:
        data = read_table(write_source(name, tmp_path / f"{name}.csv.gz", shared), needs_sequence=False)
        sides = {split: {data.ids[i].split("_")[1] for i in data.rows(split)} for split in SPLITS}
        assert [len(sides[split]) for split in SPLITS] == [3, 1, 1]
        assert sides["test"] == {name.removeprefix("spoken_digits_")}
        assert len(data) == 100
        assert not sides["validation"] & (sides["train"] | sides["test"])
        digit_of = {str(number): word for number, word in enumerate(speech.DIGITS)}
        words = [data.target_names[j] for j in data.targets.argmax(1)]
        assert words == [digit_of[each[0]] for each in data.ids]
        tested += sides["test"]
    assert sorted(tested) == sorted(speech.SPEAKERS)
    data = read_table(write_source("spoken_speakers", tmp_path / "s.csv.gz", shared), needs_sequence=False)
    assert [{data.ids[i][0] for i in data.rows(split)} for split in SPLITS] == [set("012345"), set("67"), set("89")]
    assert [data.target_names[j] for j in data.targets.argmax(1)] == [each.split("_")[1] for each in data.ids]
    given = read_activations(tmp_path / "s.npz")
    assert set(given.ids) == set(data.ids)
    assert given.features == 40
    assert sorted(set(given.lengths.tolist())) == [13, 14]


def test_a_new_speaker_joins_and_an_absent_one_or_a_strange_name_is_refused(tmp_path, rng):
    path = spoken(tmp_path, rng) / "data" / "audio" / "spoken_digits.tar.gz"
    files = {f"{r.name}.wav": wav((r.samples * 32768).astype("<i2").tobytes()) for r in read_recordings(path)}
    archive(path, files | {name.replace("lucas", "theo"): sound for name, sound in files.items()})
    rows = SOURCES["spoken_digits_yweweler"].build(tmp_path, (900, 900, 900))
    assert Counter(row.split for row in rows) == {"train": 80, "validation": 20, "test": 20}
    assert {row.id.split("_")[1] for row in rows if row.split == "validation"} == {"theo"}
    archive(path, {name: sound for name, sound in files.items() if "lucas" not in name})
    with pytest.raises(InputError, match="no recording of lucas, but of george, jackson, nicolas, yweweler"):
        SOURCES["spoken_digits_lucas"].build(tmp_path, (9, 9, 9))
    archive(path, files | {"george.wav": files["0_george_0.wav"]})
    with pytest.raises(InputError, match="'george': not as published, DIGIT_SPEAKER_NUMBER.wav"):
        SOURCES["spoken_speakers"].build(tmp_path, (9, 9, 9))


def test_samples_of_every_split_are_the_same_each_time(tmp_path, rng):
    shared = spoken(tmp_path, rng)
    first = write_source("spoken_speakers", tmp_path / "a.csv.gz", shared, (40, 15, 16))
    second = write_source("spoken_speakers", tmp_path / "b.csv.gz", shared, (40, 15, 16))
    assert first.read_bytes() == second.read_bytes()
    assert tokens_path(first).read_bytes() == tokens_path(second).read_bytes()
    data = read_table(first, needs_sequence=False)
    assert Counter(data.splits.tolist()) == {"train": 40, "validation": 15, "test": 16}
    assert set(read_activations(tokens_path(first)).ids) == set(data.ids)


@pytest.mark.long
def test_a_comparison_makes_table_and_frames_of_a_source(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("COVJAX_SHARED", str(spoken(tmp_path, rng)))
    config = dataclasses.replace(
        TASK_CONFIGS["spoken_digits"](),
        output=str(tmp_path / "run"),
        rows=("mean", "covariance"),
        probes=("ridge",),
        resamples=100,
        trained=(),
        ranks=(),
    )
    results = compare(config)
    assert [results.sizes[split] for split in SPLITS] == [60, 20, 20]
    values = [row.probes["ridge"].test["mcc"].value for row in results.rows]
    assert values[0] > 0.9  # a tone is a mean
    tokens_path(tmp_path / "run" / "spoken_digits_george.csv.gz").unlink()
    again = compare(config)  # the file is made again, and the results are reused
    assert [row.probes["ridge"].test["mcc"].value for row in again.rows] == values
    assert again.test_looks == 1
    with pytest.raises(InputError, match="encoder: 'unirep-256' beside activations"):
        compare(dataclasses.replace(config, encoder="unirep-256", output=str(tmp_path / "other")))


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
