"""Values from bigWig files (Kent et al. 2010, doi:10.1093/bioinformatics/btq351, supplement).

Own code, because a damaged file ends the whole process in both libraries: pyBigWig 0.3 by a segmentation fault,
pybigtools 0.3 by an allocation of terabytes. Here every place and size is checked against the file.
"""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from jaxtyping import Float

from covjax.errors import InputError, shown

SIGNATURE, BIGBED, TREE, INDEX = 0x888FFC26, 0x8789F2EB, 0x78CA8C91, 0x2468ACE0
LARGEST = 24 + 65535 * 12  # bytes of a block: its header and as many items as its 16-bit count can say
BEDGRAPH, VARIABLE, FIXED = 1, 2, 3
FIELDS = {BEDGRAPH: 3, VARIABLE: 2, FIXED: 1}  # 32-bit numbers of an item, the value last


class BigWig:
    """An open bigWig file: `chromosomes` are the lengths by name. Close it, or use it in a `with` block.

    The index is read and checked when the file is opened, 32 bytes a block of about a thousand values.

    Raises InputError for a file that cannot be opened, is no bigWig, or is damaged.
    """

    def __init__(self, path: str | Path):
        self._path = path
        try:
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: cannot be read as bigWig: {reason}") from None
        try:
            self._size = self._file.seek(0, 2)
            self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "BigWig":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def values(self, chromosome: str, start: int, end: int) -> Float[np.ndarray, "{end-start}"]:
        """One value per nucleotide, half-open from 0, NaN if the file has none; KeyError for an unknown chromosome.

        Raises InputError where the file is damaged, and for a place outside of the chromosome.
        """
        length = self.chromosomes[chromosome]
        if not 0 <= start <= end <= length:
            raise InputError(f"{self._path}: {start}-{end} is outside {shown(chromosome)} of {length} nucleotides")
        values = np.full(end - start, np.nan)
        if self._numbers[chromosome] not in self._blocks:
            return values
        blocks, reach = self._blocks[self._numbers[chromosome]]
        first = np.searchsorted(reach, start, side="right")
        last = np.searchsorted(blocks["start"], end, side="left")
        for block in blocks[first:last]:
            starts, ends, numbers = self._items(block)
            # Items that reach into the window, cut to it.
            part = slice(np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end, side="left"))
            low, high = np.maximum(starts[part], start) - start, np.minimum(ends[part], end) - start
            lengths = high - low
            places = np.arange(lengths.sum()) + np.repeat(low - (np.cumsum(lengths) - lengths), lengths)
            values[places] = np.repeat(numbers[part], lengths)
        return values

    def _damaged(self, reason: str) -> NoReturn:
        raise InputError(f"{self._path}: cannot be read as bigWig: damaged ({reason}); fetch or make the file again")

    def _bytes(self, place: int, size: int) -> bytes:
        if not 0 < place <= self._size - size:
            self._damaged(f"{size} bytes at {place}, but the file has {self._size}")
        try:
            self._file.seek(place)
            content = self._file.read(size)
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read as bigWig: {error.strerror}") from None
        if len(content) != size:
            self._damaged("it became shorter")
        return content

    def _unpack(self, form: str, place: int) -> tuple:
        return struct.unpack(self._order + form, self._bytes(place, struct.calcsize("=" + form)))

    def _read_header(self) -> None:
        self._file.seek(0)
        start = self._file.read(64)
        for self._order in "<>":
            signature = struct.unpack(self._order + "I", start[:4])[0] if len(start) == 64 else 0
            if signature == BIGBED:
                raise InputError(f"{self._path}: a bigBed file, not a bigWig")
            if signature == SIGNATURE:
                break
        else:
            raise InputError(f"{self._path}: cannot be read as bigWig: its first bytes are not those of one")
        _, _, _, tree, _, index, *_, self._packed, _ = struct.unpack(self._order + "IHHQQQHHQQIQ", start)
        self._read_chromosomes(tree)
        self._read_index(index)

    def _read_chromosomes(self, place: int) -> None:
        signature, _, key_size, value_size, count, _ = self._unpack("IIIIQQ", place)
        if signature != TREE or value_size != 8 or not 0 < key_size < self._size:
            self._damaged("the list of chromosomes")
        self.chromosomes: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        nodes = [place + 32]
        while nodes:
            node = nodes.pop()
            is_leaf, _, items = self._unpack("BBH", node)
            content = self._bytes(node + 4, items * (key_size + 8)) if items else b""
            for at in range(0, len(content), key_size + 8):
                value = content[at + key_size : at + key_size + 8]
                if not is_leaf:
                    nodes.append(struct.unpack(self._order + "Q", value)[0])
                    if nodes[-1] <= node:  # a node stands before those under it: no circles
                        self._damaged("the list of chromosomes")
                    continue
                try:
                    name = content[at : at + key_size].rstrip(b"\0").decode()
                except UnicodeDecodeError:
                    self._damaged("the name of a chromosome")
                self._numbers[name], self.chromosomes[name] = struct.unpack(self._order + "II", value)
        if len(self.chromosomes) != count or len(set(self._numbers.values())) != count:
            self._damaged(f"{len(self.chromosomes)} chromosomes, {count} announced")

    def _read_index(self, place: int) -> None:
        signature, _, count, *_ = self._unpack("IIQIIIIQII", place)
        if signature != INDEX:
            self._damaged("the index")
        bounds = [(name, self._order + "u4") for name in ("chromosome", "start", "last", "end")]
        leaf = np.dtype([*bounds, ("place", self._order + "u8"), ("size", self._order + "u8")])
        branch = np.dtype([*bounds, ("place", self._order + "u8")])
        leaves, nodes = [np.empty(0, leaf)], [place + 48]
        while nodes:
            node = nodes.pop()
            is_leaf, _, items = self._unpack("BBH", node)
            kind = leaf if is_leaf else branch
            entries = np.frombuffer(self._bytes(node + 4, items * kind.itemsize) if items else b"", kind)
            if is_leaf:
                leaves.append(entries)
                continue
            children = entries["place"].tolist()
            if min(children, default=self._size) <= node:  # a node stands before those under it
                self._damaged("the index goes in circles")
            nodes += children[::-1]
        every = np.concatenate(leaves)
        if len(every) != count:
            self._damaged(f"{len(every)} blocks, {count} announced")
        self._blocks: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of a chromosome, with the largest end so far
        lengths = {self._numbers[name]: length for name, length in self.chromosomes.items()}
        edges = np.flatnonzero(np.diff(every["chromosome"].astype(np.int64))) + 1
        for blocks in np.split(every, edges) if len(every) else []:
            number = int(blocks["chromosome"][0])
            ordered = (blocks["start"] < blocks["end"]).all() and (np.diff(blocks["start"].astype(np.int64)) >= 0).all()
            same = (blocks["last"] == number).all() and number not in self._blocks
            if not (ordered and same and blocks["end"].max() <= lengths.get(number, 0)):
                self._damaged("the index is out of order")
            self._blocks[number] = blocks, np.maximum.accumulate(blocks["end"])

    def _items(self, block: np.void) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts, ends and values of a block, in order."""
        if block["size"] > LARGEST:
            self._damaged("the size of a block")
        content = self._bytes(int(block["place"]), int(block["size"]))
        if self._packed:
            unpacker = zlib.decompressobj()
            try:
                content = unpacker.decompress(content, LARGEST + 1)
            except zlib.error as error:
                self._damaged(str(error))
            if not unpacker.eof:  # only at its end is the checksum compared
                self._damaged("a block without its end")
        if len(content) < 24:
            self._damaged("a block without its header")
        number, first, _, step, span, kind, _, count = struct.unpack(self._order + "IIIIIBBH", content[:24])
        width = FIELDS.get(kind, 0)
        if not width or len(content) < 24 + 4 * width * count or number != block["chromosome"]:
            self._damaged("a block's header")
        words = np.frombuffer(content, self._order + "u4", width * count, 24).reshape(count, width)
        if kind == FIXED:
            starts = first + np.int64(step) * np.arange(count)
        else:
            starts = words[:, 0].astype(np.int64)
        ends = words[:, 1].astype(np.int64) if kind == BEDGRAPH else starts + span
        # Some writers end with a block of nothing, under the bounds of the one before.
        if count and (
            starts[0] < block["start"]
            or ends[-1] > block["end"]
            or (starts >= ends).any()
            or (ends[:-1] > starts[1:]).any()
        ):
            self._damaged("values out of order")
        with np.errstate(invalid="ignore"):  # a signalling NaN is no value either
            return starts, ends, words[:, -1].copy().view(self._order + "f4").astype(np.float64)
