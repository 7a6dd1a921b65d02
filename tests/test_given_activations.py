"""Activations that other programs wrote: every format gives the same arrays, and every fault is named."""

import json
import warnings
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pyarrow
import pytest
from pyarrow import feather, ipc, parquet
from safetensors.numpy import save_file

from covjax import Embedder, InputError
from covjax.activations import ArrayTokens, GivenTokens, read_activations
from covjax.activations.distractors import DistractedTokens
from covjax.activations.files import given_arrays, open_arrays
from covjax.activations.given import GivenActivations
from covjax.activations.tokens import standardiser
from tests.torch_files import write_torch

IDS = ["P2", "P10", "sp/P3", "Ä 4"]


def arrays(dtype=np.float16, ids=IDS, d=5):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(3 + i, d)).astype(dtype) for i, name in enumerate(ids)}


def npz(path, given):
    np.savez(path.with_suffix(".npz"), **given)
    return path.with_suffix(".npz")


def safetensors(path, given):
    save_file(given, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def hdf5(path, given):
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, x in given.items():
            file[name] = x
    return path.with_suffix(".h5")


def torch_file(path, given):
    write_torch(path.with_suffix(".pt"), given)
    return path.with_suffix(".pt")


def each(path, name, suffix):
    file = path / f"{name}{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def folder_npy(path, given):
    for name, x in given.items():
        np.save(each(path, name, ".npy"), x)
    (path / "README.md").write_text("not activations")
    return path


def folder_safetensors(path, given):
    for name, x in given.items():
        save_file({"tokens": x, "mean": x.mean(0)}, each(path, name, ".safetensors"))
    return path


def folder_torch(path, given):
    for name, x in given.items():
        write_torch(each(path, name, ".pt"), x)
    return path


def folder_torch_named(path, given):
    for name, x in given.items():
        write_torch(each(path, name, ".pt"), {"label": name, "embedding": x, "mean": x.mean(0)})
    return path


def folder_esm(path, given):
    for name, x in given.items():
        layers = {33: x, 6: x * 0}
        means = {layer: value.mean(0) for layer, value in layers.items()}
        write_torch(each(path, name, ".pt"), {"label": name, "representations": layers, "mean_representations": means})
    return path


def table(given):
    kind = pyarrow.list_(pyarrow.list_(pyarrow.from_numpy_dtype(next(iter(given.values())).dtype)))
    lists = pyarrow.array([[list(token) for token in x] for x in given.values()], kind)
    return pyarrow.table({"id": list(given), "length": [len(x) for x in given.values()], "tokens": lists})


def parquet_file(path, given):
    parquet.write_table(table(given), path.with_suffix(".parquet"), row_group_size=3)
    return path.with_suffix(".parquet")


def arrow_file(path, given):
    feather.write_feather(table(given), str(path.with_suffix(".feather")), compression="lz4")
    return path.with_suffix(".feather")


def arrow_stream(path, given):
    """As `datasets` writes it, features of one width as a fixed-size list."""
    width = next(iter(given.values())).shape[1]
    numbers = [pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.ravel()), width) for x in given.values()]
    lists = pyarrow.ListArray.from_arrays(
        np.cumsum([0, *map(len, given.values())]).astype(np.int32), pyarrow.concat_arrays(numbers)
    )
    columns = pyarrow.table({"Accession": list(given), "x": lists})
    with ipc.new_stream(str(path.with_suffix(".arrow")), columns.schema) as writer:
        writer.write_table(columns, max_chunksize=2)
    return path.with_suffix(".arrow")


FORMATS = [npz, safetensors, hdf5, torch_file, folder_npy, folder_safetensors, folder_torch, folder_torch_named]
FORMATS += [folder_esm, parquet_file, arrow_file, arrow_stream]


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_format_gives_the_arrays_under_their_ids_in_the_type_of_the_file(tmp_path, write, dtype):
    given = arrays(dtype)
    path = write(tmp_path / "x", given)
    for gib in (2.0, 0.0):  # in memory, and from the file at every use
        read = read_activations(path, max_gib=gib)
        assert sorted(read.ids) == sorted(IDS)
        assert (read.features, read.dtype, read.fits) == (5, np.dtype(dtype).name, gib > 0)
        for name, x in zip(read.ids, read.read(range(4))):
            np.testing.assert_array_equal(x, given[name])
            assert x.dtype == dtype
        assert read.lengths.tolist() == [len(given[name]) for name in read.ids]


def test_a_batch_has_the_type_of_the_file_and_the_digest_is_that_of_ids_and_numbers(tmp_path):
    given = arrays()
    one, two = read_activations(npz(tmp_path / "a", given)), read_activations(folder_npy(tmp_path / "b", given))
    rows = [one.ids.index(name) for name in IDS], [two.ids.index(name) for name in IDS]
    digests = [read.describe(order)["weights_digest"] for read, order in zip((one, two), rows)]
    assert digests[0] == digests[1] != one.describe([0])["weights_digest"]
    changed = {**given, "P10": np.nextafter(given["P10"], np.float16(9))}
    other = GivenActivations(given_arrays(changed))
    assert other.describe(range(4))["weights_digest"] != digests[0]

    tokens = GivenTokens(one, rows[0], 32)
    expected = ArrayTokens([given[name] for name in IDS], 32)
    for batch, other in zip(tokens.walk("a"), expected.walk("b"), strict=True):
        assert (batch.tokens.dtype, other.tokens.dtype) == (np.float16, np.float32)
        np.testing.assert_array_equal(batch.tokens, other.tokens)
        np.testing.assert_array_equal(batch.weights, other.weights)
    for half, whole in zip(standardiser(tokens, np.arange(3)), standardiser(expected, np.arange(3))):
        np.testing.assert_array_equal(half, whole)


@pytest.mark.parametrize("other", ["float16", ">f2", "float32", "float64", ml_dtypes.bfloat16])
def test_batches_are_of_16_bits_only_where_all_tokens_are_of_one_type(other):
    other = np.dtype(other)
    given = arrays(np.float16)
    first = IDS[0]
    tokens = GivenTokens(GivenActivations(given_arrays({**given, first: given[first].astype(other)})))
    row = tokens.given.ids.index(first)
    assert tokens.sample(np.arange(4), 20)[0].dtype == (np.float16 if other == "float16" else np.float32)
    native = other.itemsize == 2 and other.isnative
    assert tokens.sample(np.array([row, row]), 20)[0].dtype == (other if native else np.float32)
    plain = ArrayTokens([x.astype(np.float32) for x in tokens.given.read(range(4))])
    mixed, expected = (
        DistractedTokens(each, np.arange(4), "abcd", (0.5,)).kept(np.arange(8)) for each in (tokens, plain)
    )
    for x, y in zip(mixed, expected, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.long
def test_bfloat16_is_read_and_an_embedder_takes_what_was_read(tmp_path):
    given = arrays(ml_dtypes.bfloat16)
    for path in (safetensors(tmp_path / "x", given), folder_torch(tmp_path / "x", given)):
        read = read_activations(path, max_gib=0)
        assert read.dtype == "bfloat16"
        embedder = Embedder(recipe="covariance").fit(read)
        plain = [np.asarray(given[name], np.float32) for name in read.ids]
        np.testing.assert_array_equal(embedder.transform(read), Embedder(recipe="covariance").fit_transform(plain))


@pytest.mark.filterwarnings("ignore")  # torch warns about itself
def test_files_of_pytorch_itself_and_ours_are_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    given = arrays(np.float32)
    for name, x in given.items():
        layers = {33: torch.tensor(x), 6: torch.zeros(x.shape)}
        torch.save(
            {"label": name, "representations": layers, "mean_representations": {33: torch.tensor(x.mean(0))}},
            each(tmp_path / "esm", name, ".pt"),
        )
    read = read_activations(tmp_path / "esm")
    assert read.layer == 33
    for name, x in zip(read.ids, read.read(range(4))):
        np.testing.assert_array_equal(x, given[name])
    write_torch(tmp_path / "ours.pt", {"a": given["P2"], "b": [1, "x"]})
    back = torch.load(tmp_path / "ours.pt", weights_only=True)
    np.testing.assert_array_equal(back["a"].numpy(), given["P2"])
    assert back["b"] == [1, "x"]


def test_one_array_of_equal_lengths_takes_its_ids_from_beside_it(tmp_path):
    whole = np.stack([x[:3] for x in arrays().values()])
    np.save(tmp_path / "x.npy", whole)
    assert open_arrays(tmp_path / "x.npy").ids is None
    (tmp_path / "x.ids.txt").write_text("\n".join(IDS))
    read = read_activations(tmp_path / "x.npy")
    assert read.ids == tuple(IDS)
    np.testing.assert_array_equal(read.read([2])[0], whole[2])
    (tmp_path / "x.ids.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"x.ids.txt: 2 ids for 4 sequences in x.npy"):
        open_arrays(tmp_path / "x.npy")


def test_layers_of_esm_go_by_their_own_numbers(tmp_path):
    path = folder_esm(tmp_path / "x", arrays())
    assert open_arrays(path).layer == open_arrays(path, 33).layer == 33
    assert not np.any(read_activations(path, layer=-2).read([0])[0])
    with pytest.raises(InputError, match=r"layer: 12 is not in .*P10.pt, which holds 6, 33"):
        open_arrays(path, 12)
    with pytest.raises(InputError, match="layer: 3, but .* does not say which layers it holds"):
        open_arrays(npz(tmp_path / "y", arrays()), 3)


def test_special_tokens_are_left_out_where_that_is_asked(tmp_path):
    given = arrays()
    read = read_activations(npz(tmp_path / "x", given), drop_first=1, drop_last=1)
    np.testing.assert_array_equal(read.read([1])[0], given[read.ids[1]][1:-1])
    with pytest.raises(InputError, match="id 'P2' has 3 tokens, of which --drop-first 1 and --drop-last 2 leave none"):
        read_activations(tmp_path / "x.npz", drop_first=1, drop_last=2)


@pytest.mark.parametrize("write", [npz, folder_npy, folder_torch], ids=lambda write: write.__name__)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x[:, :4],
            r"id 'P10' has (4|5) features a token, but .* has (4|5)|has 5 features a token, but 'P10'",
        ),
        (lambda x: np.where(np.arange(5) == 2, np.float16(np.nan), x), "id 'P10' holds NaN or inf in 4 of 20 numbers"),
        (lambda x: x[0], r"id 'P10' has shape \(5,\), expected \(tokens, features\)"),
        (lambda x: x[None], r"id 'P10' has shape \(1, 4, 5\)"),
        (lambda x: x[:0], "id 'P10' has 0 tokens"),
    ],
)
def test_bad_arrays_are_named_by_id(tmp_path, write, change, message):
    given = arrays()
    given["P10"] = np.ascontiguousarray(change(given["P10"]))
    with pytest.raises(InputError, match=message) as caught:
        read_activations(write(tmp_path / "x", given))
    assert "\n" not in str(caught.value)


def test_integers_and_numbers_beyond_float32_are_refused(tmp_path):
    with pytest.raises(InputError, match="id 'a' is int8, expected floating point"):
        read_activations(npz(tmp_path / "x", {"a": np.ones((3, 2), np.int8)}))
    with pytest.raises(InputError, match="id 'a' holds NaN or inf in 6 of 6"):
        read_activations(npz(tmp_path / "x", {"a": np.full((3, 2), 1e300)}))


def test_an_id_that_stands_twice_is_refused(tmp_path):
    given = arrays()
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of the name
        for name in ("a", "b", "a"):
            with archive.open(f"{name}.npy", "w") as file:
                np.save(file, given["P2"])
    folder = folder_npy(tmp_path / "f", given)
    write_torch(folder / "P2.pt", given["P2"])
    twice = pyarrow.concat_tables([table(given), table(given)])
    parquet.write_table(twice, tmp_path / "x.parquet")
    np.save(tmp_path / "x.npy", np.ones((2, 3, 4)))
    (tmp_path / "x.ids.txt").write_text("a\na\n")
    for path, name in (
        (tmp_path / "x.npz", "a"),
        (folder, "P2"),
        (tmp_path / "x.parquet", "P2"),
        (tmp_path / "x.npy", "a"),
    ):
        with pytest.raises(InputError, match=f"activations: id '{name}' occurs twice in {path.name}"):
            open_arrays(path)


def test_means_alone_objects_and_other_contents_are_refused(tmp_path):
    (tmp_path / "m").mkdir()
    write_torch(tmp_path / "m" / "a.pt", {"label": "a", "mean_representations": {33: np.ones(4, np.float32)}})
    with pytest.raises(InputError, match="holds means over the tokens.*--include per_tok"):
        read_activations(tmp_path / "m")
    np.savez(tmp_path / "o.npz", a=np.array([np.ones(2), np.ones(3)], object))
    with pytest.raises(InputError, match="holds Python objects, which are not read"):
        read_activations(tmp_path / "o.npz")
    np.save(tmp_path / "o.npy", np.ones((3, 4)))
    with pytest.raises(InputError, match=r"shape \(3, 4\), expected \(sequences, tokens, features\)"):
        open_arrays(tmp_path / "o.npy")
    ragged = pyarrow.table({"id": ["a"], "x": pyarrow.array([[[1.0, 2.0], [1.0]]])})
    parquet.write_table(ragged, tmp_path / "r.parquet")
    with pytest.raises(InputError, match=r"id 'a': its tokens have \[1, 2\] features"):
        read_activations(tmp_path / "r.parquet")
    parquet.write_table(pyarrow.table({"id": ["a"], "x": pyarrow.array([[[1.0, None]]])}), tmp_path / "n.parquet")
    with pytest.raises(InputError, match="id 'a': 1 numbers are null"):
        read_activations(tmp_path / "n.parquet")
    parquet.write_table(pyarrow.table({"id": ["a"], "x": [1.0]}), tmp_path / "f.parquet")
    with pytest.raises(InputError, match="no column is of lists of lists"):
        open_arrays(tmp_path / "f.parquet")


def test_paths_that_hold_nothing_are_refused(tmp_path):
    (tmp_path / "x.txt").write_text("")
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "none.npz")
    for path, message in {
        "absent.npz": "no such file or folder",
        "x.txt": "suffix '.txt' is not one of .npz, .npy",
        "empty": "a folder without files ID.npy, ID.pt",
        "none.npz": "no array in it",
    }.items():
        with pytest.raises(InputError, match=message):
            open_arrays(tmp_path / path)
    with pytest.raises(InputError, match="int is not a path, a mapping from ids or a list"):
        given_arrays(3)


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_cut_and_foreign_files_are_one_line(tmp_path, write):
    path = write(tmp_path / "x", arrays())
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix != ".md")
    content = files[0].read_bytes()
    for bad in (content[: len(content) // 2], b"\x00" * 40, b""):
        files[0].write_bytes(bad)
        for _ in range(2):
            with pytest.raises(InputError) as caught:
                read_activations(path)
        assert str(files[0]) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_that_changes_while_it_is_used_is_named(tmp_path):
    path = folder_npy(tmp_path / "x", arrays())
    read = read_activations(path, max_gib=0)
    np.save(path / "P2.npy", np.ones((9, 5), np.float16))
    with pytest.raises(InputError, match="id 'P2' was changed meanwhile"):
        read.read(range(4))


def test_a_store_is_read_by_its_ids(tmp_path):
    pytest.importorskip("grain")
    from covjax.encoders import register_encoder
    from covjax.encoders.base import LOADERS
    from covjax.encoders.unirep import UniRep
    from covjax.extraction.config import ExtractConfig
    from covjax.extraction.extract import extract
    from tests.test_unirep import random_weights

    if "store-unirep" not in LOADERS:
        register_encoder("store-unirep", lambda dtype: UniRep(random_weights()))
    (tmp_path / "x.fasta").write_text(">a\nMKTA\n>b\nACDEF\n")
    options = {"encoder": "store-unirep", "layers": (0, -1), "poolers": ("mean",), "keep_tokens": True}
    extract(ExtractConfig(data=str(tmp_path / "x.fasta"), output=str(tmp_path / "run"), **options))
    read = read_activations(tmp_path / "run", layer=0)
    assert (read.ids, read.layer, read.dtype, read.lengths.tolist()) == (("a", "b"), 0, "bfloat16", [4, 5])
    assert json.loads((tmp_path / "run" / "extraction.json").read_text())
    with pytest.raises(InputError, match="layer: 7 is not among the kept ones"):
        open_arrays(tmp_path / "run", 7)


def test_a_pandas_column_is_read_in_the_order_of_its_rows():
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(list(arrays().values()), index=[3, 2, 0, 1])
    for series in (column, column[1:]):
        given = given_arrays(series)
        for place, x in enumerate(series):
            np.testing.assert_array_equal(given.read(place), x)
    with pytest.raises(InputError, match="a data frame is not a list of arrays; give the column"):
        given_arrays(column.to_frame())


def test_what_says_something_of_a_file_is_no_array_of_it(tmp_path):
    path = hdf5(tmp_path / "a", arrays())
    with h5py.File(path, "a") as file:
        file["model"] = "esm2"
        file["layer"] = 33
        file["nothing"] = h5py.Empty("f")
    assert sorted(open_arrays(path).ids) == sorted(IDS)
    for name, x in arrays().items():
        write_torch(each(tmp_path / "folder", name, ".pt"), {"label": name, "representations": x})
    given = open_arrays(tmp_path / "folder")
    np.testing.assert_array_equal(given.read(given.ids.index("P2")), arrays()["P2"])
