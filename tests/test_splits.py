"""Splits: stratified, groups whole, near copies together; rare labels and classes; what is refused, all at once."""

import dataclasses

import numpy as np
import pytest

from covjax.data import assign_splits, check_splits, drop_rare, read_table
from covjax.data.splits import SPLITS, deal_groups, strata
from covjax.errors import InputError
from covjax.metrics import resample_counts

RESIDUES = list("ACDEFGHIKLMNPQRSTVWY")
SHARES = (0.7, 0.15, 0.15)


def draw(rng, length=40):
    return "".join(rng.choice(RESIDUES, length))


def mutate(rng, sequence, count):
    out = list(sequence)
    for i in rng.choice(len(out), count, replace=False):
        out[i] = rng.choice(RESIDUES)
    return "".join(out)


def table(tmp_path, rows, header="sequence,label"):
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    return read_table(tmp_path / "t.csv")


def shares(data):
    return [len(data.rows(split)) / len(data) for split in SPLITS]


def test_classes_have_their_share_in_every_split(tmp_path, rng):
    labels = rng.choice(list("abcd"), 400, p=[0.6, 0.3, 0.07, 0.03])
    data = assign_splits(table(tmp_path, [f"{draw(rng)},{label}" for label in labels]))
    np.testing.assert_allclose(shares(data), SHARES, atol=0.01)
    for split, share in zip(SPLITS, SHARES):
        counts = data.targets[data.rows(split)].sum(0)
        assert np.abs(counts - share * data.targets.sum(0)).max() <= 1.01
    check_splits(data)


def test_labels_of_many_have_their_share_and_rare_ones_reach_every_split(tmp_path, rng):
    odds = 0.5 / np.arange(1, 40)
    rows = [f"{draw(rng)},{';'.join(f't{j}' for j in np.flatnonzero(rng.random(39) < odds))}" for _ in range(600)]
    data = assign_splits(table(tmp_path, rows, "sequence,labels"))
    np.testing.assert_allclose(shares(data), SHARES, atol=0.02)
    positives = np.array([data.targets[data.rows(split)].sum(0) for split in SPLITS])
    frequent = data.targets.sum(0) >= 3
    assert positives[:, frequent].min() >= 1
    many = data.targets.sum(0) >= 20
    assert np.abs(positives / data.targets.sum(0) - np.array(SHARES)[:, None])[:, many].max() < 0.11


def test_numbers_have_the_same_spread_in_every_split(tmp_path, rng):
    values = np.exp(rng.normal(size=300))
    data = assign_splits(table(tmp_path, [f"{draw(rng)},{value:.5f}" for value in values]))
    np.testing.assert_allclose(shares(data), SHARES, atol=0.02)
    for split in SPLITS:
        part = np.quantile(data.targets[data.rows(split), 0], [0.25, 0.5, 0.75])
        np.testing.assert_allclose(part, np.quantile(values, [0.25, 0.5, 0.75]), rtol=0.25)


def test_groups_stay_whole_and_large_ones_do_not_spoil_the_shares(tmp_path, rng):
    sizes = [120, 60, 40, *[5] * 30, *[1] * 130]
    rows = [f"{draw(rng)},{rng.choice(['a', 'b'])},g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    rng.shuffle(rows)
    for seed in range(5):
        data = assign_splits(table(tmp_path, rows, "sequence,label,group"), seed=seed)
        assert all(len({data.splits[i] for i in np.flatnonzero(np.array(data.groups) == g)}) == 1 for g in ("g0", "g9"))
        check_splits(data)
        np.testing.assert_allclose(shares(data), SHARES, atol=0.02)


def test_a_seed_decides_and_splits_are_the_same_again(tmp_path, rng):
    data = table(tmp_path, [f"{draw(rng)},{i % 2}" for i in range(100)])
    first = assign_splits(data, seed=1)
    assert first.fingerprint() == assign_splits(data, seed=1).fingerprint()
    assert first.fingerprint() != assign_splits(data, seed=2).fingerprint()


@pytest.mark.parametrize("seed", range(10))
def test_twenty_rows_are_enough(tmp_path, rng, seed):
    data = assign_splits(table(tmp_path, [f"{draw(rng)},{'ab'[i < 4]}" for i in range(20)]), seed=seed)
    check_splits(data)


def test_near_copies_are_grouped_and_counted(tmp_path, rng):
    parents = [draw(rng, 100) for _ in range(40)]
    sequences = list(dict.fromkeys(mutate(rng, parent, 2) for parent in parents for _ in range(4)))
    data = assign_splits(table(tmp_path, [f"{s},{i % 2}" for i, s in enumerate(sequences)]))
    assert "40 groups of 160 sequences, the largest of 4" in data.grouping
    assert len(set(data.groups)) == 40
    assert data.warnings == ()
    for i in range(40):
        assert len(set(data.splits[4 * i : 4 * i + 4].tolist())) == 1
    check_splits(data)


def test_a_mutant_library_goes_on_within_one_family(tmp_path, rng):
    parent = draw(rng, 100)
    sequences = list(dict.fromkeys(mutate(rng, parent, 1) for _ in range(60)))
    data = assign_splits(table(tmp_path, [f"{s},{i % 2}" for i, s in enumerate([*sequences, sequences[0]])]))
    assert data.one_family
    assert "within one family" in data.warnings[0]
    assert "--group-column" in data.warnings[0]
    assert data.splits[0] == data.splits[-1]  # identical sequences still stand together
    assert {len(data.rows(split)) > 5 for split in SPLITS} == {True}
    check_splits(data)


def test_a_group_column_is_taken_as_it_is(tmp_path, rng):
    parent = draw(rng, 100)
    data = table(tmp_path, [f"{mutate(rng, parent, 1)},{i % 2},{i}" for i in range(60)], "sequence,label,group")
    split = assign_splits(data)
    assert (split.groups, split.grouping, split.warnings, split.one_family) == (data.groups, "", (), False)


def test_near_copies_across_given_splits_are_warned_of(tmp_path, rng):
    rows = []
    for i in range(30):
        parent = draw(rng, 100)
        other = mutate(rng, parent, 3) if i < 4 else draw(rng, 100)
        rows += [f"{parent},{i % 2},train", f"{other},{i % 2},{('test', 'validation')[i // 2 % 2]}"]
    data = assign_splits(table(tmp_path, rows, "sequence,label,split"))
    assert "are on both sides of the file's own split: 8 of 60 rows, for example line 2 (train)" in data.warnings[0]
    assert "line 3 (test)" in data.warnings[0]
    check_splits(data)


def multilabel(tmp_path, rng, rare):
    rows = [f"{draw(rng)},{';'.join(['x'] * (i % 2) + ['y'] * (i % 3 == 0))}" for i in range(120)]
    for number in range(rare):
        rows[number] += f";r{number}"
    return assign_splits(table(tmp_path, rows, "sequence,labels"))


def test_rare_labels_are_left_out_and_counted(tmp_path, rng):
    data = multilabel(tmp_path, rng, rare=7)
    dropped = drop_rare(data)
    assert dropped.target_names == ("x", "y")
    assert len(dropped) == 120
    assert "7 of 9 labels have fewer than 5 rows in some split and are left out" in dropped.warnings[0]
    assert "(--min-positives 5): 'r0', 'r1', 'r2' and 4 more" in dropped.warnings[0]
    check_splits(dropped)
    assert drop_rare(data, 0) is data
    with pytest.raises(InputError, match="and so have 6 more of 9 in some split .*--min-positives 1 leaves such"):
        check_splits(data)
    with pytest.raises(InputError, match="0 of 9 labels have at least 80 rows"):
        drop_rare(data, 80)


def test_rare_classes_are_all_named_or_left_out_with_their_rows(tmp_path, rng):
    labels = ["a"] * 30 + ["b"] * 30 + [f"once{i}" for i in range(8)]
    data = drop_rare(assign_splits(table(tmp_path, [f"{draw(rng)},{label}" for label in labels])))
    with pytest.raises(InputError) as caught:
        check_splits(data)
    message = str(caught.value)
    assert "'once0'" in message
    assert "7 more of 10 in some split ('once1', 'once2', 'once3', 'once4', 'once5' and 2 more)" in message
    assert "--min-positives 1 leaves the rows of such classes out" in message
    dropped = drop_rare(data, 1)
    assert dropped.target_names == ("a", "b")
    assert (
        len(dropped) == len(dropped.ids) == len(dropped.sequences) == len(dropped.groups) == len(dropped.splits) == 60
    )
    assert "8 of 10 classes have fewer than 1 rows in some split and are left out, with 8 rows" in dropped.warnings[0]
    check_splits(dropped)


def test_constant_targets_are_all_named(tmp_path, rng):
    rows = [f"{draw(rng)},{i}.5;1;2;3" for i in range(30)]
    data = assign_splits(table(tmp_path, rows, "sequence,targets"))
    with pytest.raises(InputError, match=r"'target2' has the single value 1.0 .* 2 more of 4 .*'target3', 'target4'"):
        check_splits(data)
    assert drop_rare(data) is data
    with pytest.raises(InputError, match="min_positives: 3 is for labels"):
        drop_rare(data, 3)


def test_messages_stay_short_and_name_lines(tmp_path, rng):
    long = "M" * 5000
    data = table(tmp_path, [f"{long},a,train", f"{long},b,test", f"{draw(rng)},b,validation"], "sequence,label,split")
    with pytest.raises(InputError) as caught:
        check_splits(data)
    assert len(str(caught.value)) < 400
    assert "(line 2)" in str(caught.value)


def test_one_long_sequence_costs_what_it_is_long(tmp_path, rng):
    """No array of fixed-width strings: 2,000 names as wide as the longest would be 16 GiB."""
    sequences = [draw(rng) for _ in range(2000)] + ["".join(rng.choice(RESIDUES, 2_000_000))]
    data = assign_splits(table(tmp_path, [f"{s},{i % 2}" for i, s in enumerate(sequences)]))
    check_splits(data)
    assert max(map(len, data.groups)) < 10
    assert resample_counts(sequences, 1, 0).shape == (1, 2001)


def test_strata_and_deal_by_hand():
    assert strata(np.arange(12.0)[:, None], 12).sum(0).tolist() == [6, 6]
    assert strata(np.arange(3.0)[:, None], 3).shape == (3, 1)
    parts = deal_groups(np.arange(3), np.ones((3, 1), bool), SHARES, 0)
    assert sorted(parts.tolist()) == [0, 1, 2]


def test_a_dataset_of_old_fields_alone_has_no_marks(tmp_path, rng):
    data = table(tmp_path, [f"{draw(rng)},{i % 2}" for i in range(30)])
    assert (data.grouping, data.warnings, data.one_family) == ("", (), False)
    grouped = assign_splits(data)
    assert assign_splits(dataclasses.replace(grouped, splits=None)).groups == grouped.groups


def test_groups_with_an_identical_sequence_go_to_one_side(tmp_path, rng):
    sequences = [draw(rng) for _ in range(30)]
    rows = [f"{sequences[i % 30]},{'ab'[i % 2]},g{i}" for i in range(60)]
    data = assign_splits(table(tmp_path, rows, "sequence,label,group"))
    check_splits(data)
    assert [data.splits[i] == data.splits[i + 30] for i in range(30)] == [True] * 30
    assert len(set(data.groups)) == 60


def test_a_constant_number_is_no_label(tmp_path, rng):
    data = assign_splits(table(tmp_path, [f"{draw(rng)},1.5" for _ in range(30)]))
    with pytest.raises(InputError, match="target 'label' has .* 1.5 .* every target needs different values"):
        check_splits(data)
