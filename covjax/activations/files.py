"""Token activations from another program: one array per sequence, under its id, read one at a time."""

import dataclasses
import functools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from covjax.data.dataset import match_columns
from covjax.data.store import TokenStore
from covjax.data.text import Row, text_lines
from covjax.errors import InputError, shown
from covjax.extras import need
from covjax.inputs import host_array
from covjax.jobs.disk import refuse_address
from covjax.modelfiles import StoredTensor, parse_npy, read_safetensors, read_torch_values

LAST = -1  # the layer, where nobody names one


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Arrays (tokens, features), none of them in memory yet.

    `read(place)` returns one array in the type of its file. `ids` are None if the arrays have no ids, only an order,
    which is then that of the table. `layer` is the chosen layer, if the file says which layers it has.
    """

    name: str
    ids: tuple[str, ...] | None
    count: int
    read: Callable[[int], np.ndarray]
    layer: int | None = None


def open_arrays(path: str | Path, layer: int = LAST) -> Arrays:
    """Open a file or folder of activations; no array is read yet.

    `.npz`, `.safetensors`, `.h5` (extra `keras`), `.pt`: one array under each id. `.npy`: one array (n, tokens,
    features), with the ids, one a line, in `.ids.txt` beside it, or in the table's order without. `.parquet`, `.arrow`,
    `.feather` (extra `parquet`): a column `id` and a column of lists of lists. A folder that `covjax extract
    --keep-tokens` wrote, or one with a file `ID.npy`, `ID.pt` or `ID.safetensors` for each sequence. A `.pt` file is
    read without PyTorch; if it has ESM's layout (`{"representations": {33: …}}`), `layer` chooses the layer, −1 the
    last.

    Raises InputError for a path that is none of these, damaged files, an id that occurs twice, a missing layer, and a
    layer if the file does not say which layers it has.
    """
    refuse_address("activations", path)
    path = Path(path)
    if path.is_dir():
        arrays = _store(path, layer) if (path / "extraction.json").is_file() else _folder(path, layer)
    elif not path.is_file():
        raise InputError(f"activations: {path}: no such file or folder")
    elif path.suffix.lower() not in READERS:
        raise InputError(f"activations: {path}: suffix {path.suffix!r} is not one of {', '.join(READERS)}, or a folder")
    else:
        arrays = READERS[path.suffix.lower()](path)
    if arrays.layer is None and layer != LAST:
        raise InputError(f"layer: {layer}, but {path} does not say which layers it holds; leave --layer out")
    if not arrays.count:
        raise InputError(f"activations: {path}: no array in it")
    _refuse_twice(arrays.name, arrays.ids or ())
    return arrays


def given_arrays(values: Any) -> Arrays:
    """Arrays in memory: a mapping from ids, or a sequence in the table's order; NumPy, JAX or PyTorch arrays."""
    name = "given activations"
    if isinstance(values, Mapping):
        ids = tuple(map(str, values))
        _refuse_twice(name, ids)
        members = list(values.values())
    else:
        if isinstance(values, bytes) or not (hasattr(values, "__len__") and hasattr(values, "__getitem__")):
            raise InputError(f"activations: {type(values).__name__} is not a path, a mapping from ids or a list")
        if hasattr(values, "iloc") and hasattr(values, "columns"):
            raise InputError(
                "activations: a data frame is not a list of arrays; give the column, or a mapping from ids"
            )
        # A pandas Series is read by its labels where it is indexed; the table's order is that of its rows.
        ids, members = None, list(values) if hasattr(values, "iloc") else values
    return Arrays(name, ids, len(members), lambda place: host_array(members[place], f"activations: array {place}"))


def _refuse_twice(name: str, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for each in ids:
        if each in seen:
            raise InputError(f"activations: id {shown(each, 60)} occurs twice in {name}; keep one")
        seen.add(each)


def _guarded(file: Path, read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read` returns; whatever a damaged file makes a library raise is one line that names the file."""
    try:
        return read(*arguments)
    except InputError:
        raise
    except Exception as error:  # zipfile, NumPy, HDF5 and Arrow raise many types
        what = shown(str(error).split("\n")[0], 150)[1:-1]
        raise InputError(f"activations: {file}: cannot be read: {type(error).__name__}: {what}") from None


def _npz(path: Path) -> Arrays:
    archive = _guarded(path, zipfile.ZipFile, path)
    names = [name for name in archive.namelist() if not name.endswith("/")]
    read = functools.partial(_guarded, path, lambda place: parse_npy(archive.read(names[place])))
    return Arrays(path.name, tuple(name.removesuffix(".npy") for name in names), len(names), read)


def _npy(path: Path) -> Arrays:
    whole = _guarded(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    if whole.ndim != 3:
        raise InputError(
            f"activations: {path}: an array of shape {whole.shape}, expected (sequences, tokens, features); arrays of "
            "different lengths go into .npz or .safetensors, one under each id"
        )
    beside = path.with_suffix(".ids.txt")
    ids = tuple(line for _, line in text_lines(beside)) if beside.is_file() else None
    if ids is not None and len(ids) != len(whole):
        raise InputError(f"activations: {beside}: {len(ids)} ids for {len(whole)} sequences in {path.name}")
    return Arrays(path.name, ids, len(whole), lambda place: np.array(whole[place]))


def _tensors(path: Path, tensors: Mapping[str, StoredTensor]) -> Arrays:
    members = list(tensors.values())
    return Arrays(path.name, tuple(tensors), len(members), lambda place: members[place].read())


def _torch(path: Path) -> Arrays:
    values = read_torch_values(path)
    if not isinstance(values, dict) or not all(isinstance(each, StoredTensor) for each in values.values()):
        raise InputError(
            f"activations: {path}: expected a dictionary from ids to tensors; one file for each sequence goes into a "
            "folder, as ID.pt"
        )
    return _tensors(path, {str(name): tensor for name, tensor in values.items()})


def _hdf5(path: Path) -> Arrays:
    h5py = need("h5py", "keras", f"{path}: reading HDF5")
    file = _guarded(path, h5py.File, path)
    names: list[str] = []  # of arrays: what has no shape, a text or a number, says something of the file
    _guarded(path, file.visititems, lambda name, item: names.append(name) if getattr(item, "shape", None) else None)
    read = functools.partial(_guarded, path, lambda place: file[names[place]][()])
    return Arrays(path.name, tuple(names), len(names), read)


def _parquet(path: Path) -> Arrays:
    parquet = need("pyarrow.parquet", "parquet", f"{path}: reading Parquet")
    file = _guarded(path, lambda: parquet.ParquetFile(path, page_checksum_verification=True))
    names, tokens = _columns(path, file.schema_arrow)
    ids = _guarded(path, lambda: file.read(columns=[names]).column(0).to_pylist())
    groups = range(file.metadata.num_row_groups)
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in groups])

    @functools.lru_cache(maxsize=1)  # neighbours in the file share a read
    def column(group: int) -> Any:
        return file.read_row_group(group, columns=[tokens]).column(0)

    def read(place: int) -> np.ndarray:
        group = int(np.searchsorted(ends, place, side="right"))
        values = column(group)
        return _matrix(path, ids[place], values[place - int(ends[group]) + len(values)])

    return Arrays(path.name, tuple(map(str, ids)), len(ids), functools.partial(_guarded, path, read))


def _arrow(path: Path) -> Arrays:
    pyarrow = need("pyarrow", "parquet", f"{path}: reading Arrow")
    ipc = need("pyarrow.ipc", "parquet", f"{path}: reading Arrow")

    def opened() -> Any:
        source = pyarrow.memory_map(str(path))
        try:
            return ipc.open_file(source).read_all()
        except pyarrow.ArrowInvalid:  # the format of a stream, which has no footer
            source.seek(0)
            return ipc.open_stream(source).read_all()

    table = _guarded(path, opened)
    names, tokens = _columns(path, table.schema)
    ids, column = table[names].to_pylist(), table[tokens]
    read = functools.partial(_guarded, path, lambda place: _matrix(path, ids[place], column[place]))
    return Arrays(path.name, tuple(map(str, ids)), len(ids), read)


def _columns(path: Path, schema: Any) -> tuple[str, str]:
    """Names of the column of ids and of the one of lists of lists."""

    def depth(kind: Any) -> int:
        return 1 + depth(kind.value_type) if hasattr(kind, "value_type") and hasattr(kind, "value_field") else 0

    names = schema.names[match_columns(path, Row(0, tuple(schema.names)), {}, ("id",), ())["id"]]
    nested = [field.name for field in schema if depth(field.type) == 2]
    if len(nested) != 1:
        what = f"columns {', '.join(map(repr, nested))} are" if nested else "no column is"
        raise InputError(f"activations: {path}: {what} of lists of lists of numbers; one such column is needed")
    return names, nested[0]


def _matrix(path: Path, name: str, value: Any) -> np.ndarray:
    """The array of one cell of Arrow: a list of tokens, each a list of numbers."""
    tokens = value.values
    widths = {len(tokens[place]) if tokens[place].is_valid else 0 for place in range(len(tokens or ()))}
    if len(widths) != 1 or 0 in widths:
        raise InputError(
            f"activations: {path}: id {shown(name, 60)}: its tokens have {sorted(widths) or 'no'} features; one number"
        )
    numbers = tokens.flatten()
    if numbers.null_count:
        raise InputError(f"activations: {path}: id {shown(name, 60)}: {numbers.null_count} numbers are null")
    return numbers.to_numpy(zero_copy_only=False).reshape(len(tokens), widths.pop())


def _store(path: Path, layer: int) -> Arrays:
    store = TokenStore(path, layer)
    return Arrays(path.name, tuple(store.run["ids"]), len(store), store.__getitem__, layer)


def _folder(path: Path, layer: int) -> Arrays:
    files = sorted(file for file in path.rglob("*") if file.suffix in ONE and file.is_file())
    if not files:
        raise InputError(f"activations: {path}: a folder without files ID{', ID'.join(ONE)}, and no store of tokens")
    ids = tuple(file.relative_to(path).with_suffix("").as_posix() for file in files)
    chosen = _esm_layer(files[0], layer) if files[0].suffix == ".pt" else None

    def read(place: int) -> np.ndarray:
        file = files[place]
        if file.suffix == ".npy":
            return parse_npy(file.read_bytes())
        if file.suffix == ".safetensors":
            return _only(file, read_safetensors(file)).read()
        values = read_torch_values(file)
        if isinstance(values, dict) and isinstance(values.get("representations"), dict):
            return _representation(file, values, LAST if chosen is None else chosen).read()
        return (values if isinstance(values, StoredTensor) else _only(file, values)).read()

    def guarded(place: int) -> np.ndarray:
        return _guarded(files[place], read, place)

    return Arrays(path.name, ids, len(files), guarded, chosen)


def _esm_layer(file: Path, layer: int) -> int | None:
    """The layer in ESM's own numbers, where the first file has such layers."""
    values = read_torch_values(file)
    if not isinstance(values, dict) or not isinstance(values.get("representations"), dict):
        return None
    if layer < 0:
        there = sorted(values["representations"])
        if not -len(there) <= layer:
            raise InputError(f"layer: {layer}, but {file} holds the layers {', '.join(map(str, there))}")
        return int(there[layer])
    _representation(file, values, layer)
    return layer


def _representation(file: Path, values: Mapping[str, Any], layer: int) -> StoredTensor:
    layers = values["representations"]
    if layer not in layers or not isinstance(layers[layer], StoredTensor):
        raise InputError(
            f"layer: {layer} is not in {file}, which holds {', '.join(map(str, sorted(layers))) or 'none'}"
        )
    return layers[layer]


def _only(file: Path, values: Any) -> StoredTensor:
    """The one matrix of a file that holds one."""
    members = values if isinstance(values, dict) else {}
    matrices = [each for each in members.values() if isinstance(each, StoredTensor) and len(each.shape) == 2]
    if len(matrices) == 1:
        return matrices[0]
    if "mean_representations" in members:
        raise InputError(
            f"activations: {file}: it holds means over the tokens, of which no covariance can be made; extract again "
            "with --include per_tok"
        )
    keys = ", ".join(map(str, members)) or type(values).__name__
    raise InputError(f"activations: {file}: {len(matrices)} arrays (tokens, features) in it ({keys}); one is needed")


ONE = (".npy", ".pt", ".safetensors")  # files of one sequence each
READERS: dict[str, Callable[[Path], Arrays]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".safetensors": lambda path: _tensors(path, read_safetensors(path)),
    ".h5": _hdf5,
    ".pt": _torch,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
