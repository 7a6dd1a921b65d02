"""Damaged tables: every row that a plain strict parser finds, or one line that says what is wrong; nothing else."""

import csv
import io
import random
import zipfile

import pytest

from covjax.data import read_table
from covjax.data.dataset import read_label_names
from covjax.errors import InputError

COUNT = 150  # mutations of every format
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
PIECES = [
    *b"\"';,\t\n\r\x00\xff*- .1",
    b"\r\n",
    b'""',
    b"\xe2\x80\xa8",
    b"NA",
    b"1,5",
    b"\xef\xbb\xbf",
    b"sep=;\n",
    b"\n\n",
]


def rows(generator):
    for i in range(12):
        sequence = "".join(generator.choices(LETTERS, k=generator.randint(3, 30)))
        yield (f"p{i}", sequence, f"{generator.random():.3f}", generator.choice(["", "remark", 'a "b", c; d']))


def delimited(mark, encoding="utf-8"):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=mark, lineterminator="\n")
    writer.writerows([("id", "sequence", "label", "remark"), *rows(random.Random(0))])
    return text.getvalue().encode(encoding)


def fasta():
    return "".join(f">{i} label={value}\n{sequence}\n" for i, sequence, value, _ in rows(random.Random(0))).encode()


def mutations(content, seed):
    """Copies of the bytes with one to three pieces deleted, doubled, overwritten, put in or swapped, or an end cut."""
    generator = random.Random(seed)
    for _ in range(COUNT):
        data = bytearray(content)
        for _ in range(generator.randint(1, 3)):
            at, length = generator.randrange(len(data)), generator.choice((1, 1, 2, 8, 40))
            piece = generator.choice(PIECES)
            piece = bytes([piece]) if isinstance(piece, int) else piece
            kind = generator.randrange(6)
            if kind == 0:
                del data[at : at + length]
            elif kind == 1:
                data[at:at] = data[at : at + length]
            elif kind == 2:
                data[at : at + len(piece)] = piece
            elif kind == 3:
                data[at:at] = piece
            elif kind == 4:
                data[at] ^= 1 << generator.randrange(8)
            else:
                data[at : at + length] = reversed(data[at : at + length])
            if not data:
                data = bytearray(b" ")
        if generator.random() < 0.1:
            del data[generator.randrange(len(data)) :]
        yield bytes(data)


def read(path, reader=read_table, **options):
    """What the reader gives, or None where it is refused in one line of bounded length."""
    try:
        return reader(path, **options)
    except InputError as error:
        message = str(error).replace(str(path), "")
        assert "\n" not in message
        assert len(message) < 600
        return None


def reference(content):
    """Header and rows by Python's csv alone, for each of the separators."""
    for encoding in ("utf-8-sig", "utf-16"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        for mark in ",\t;":
            try:
                table = list(csv.reader(io.StringIO(text.removeprefix("sep=;\n")), delimiter=mark, strict=True))
            except csv.Error:
                continue
            header, *body = [row for row in table if len(row) > 1 or "".join(row).strip(" ")] or [[]]
            yield ["".join(filter(str.isalpha, cell)).casefold() for cell in header], body


def plain(cell):
    return "".join(cell.split()).upper().removesuffix("*")


@pytest.mark.parametrize(
    "content",
    [delimited(","), delimited("\t"), delimited(";"), delimited(",", "utf-16")],
    ids=["comma", "tab", "semicolon", "utf-16"],
)
@pytest.mark.parametrize("missing", ["refuse", "drop"])
def test_delimited_text_loses_no_row(tmp_path, content, missing):
    (tmp_path / "t.csv").write_bytes(content)
    assert len(read_table(tmp_path / "t.csv")) == 12
    accepted = 0
    for data in mutations(content, 1):
        (tmp_path / "t.csv").write_bytes(data)
        if (table := read(tmp_path / "t.csv", missing=missing)) is None:
            continue
        accepted += 1
        left_out = sum(int(note.split(" of ")[0]) for note in table.notes if "left out" in note)
        candidates = []
        for header, body in reference(data):
            if "sequence" in header:
                index = header.index("sequence")
                candidates.append([plain(row[index]) for row in body])
        if left_out:
            assert any(
                len(rows) == len(table) + left_out and set(map(plain, table.sequences)) <= set(rows)
                for rows in candidates
            ), data
        else:
            assert list(map(plain, table.sequences)) in candidates, data
    assert 3 < accepted < COUNT


def test_label_names_are_all_there(tmp_path):
    content = "label,name\n" + "".join(f'GO:{i},"binding {i}, of a ""kind"""\n' for i in range(12))
    path = tmp_path / "names.csv"
    accepted = 0
    for data in mutations(content.encode(), 5):
        path.write_bytes(data)
        if (names := read(path, lambda path: read_label_names(str(path)))) is None:
            continue
        accepted += 1
        tables = [(header, body) for header, body in reference(data) if {"label", "name"} <= set(header)]
        assert any(
            list(names) == [row[header.index("label")].strip() for row in body]
            and [name for name in names.values() if name not in names]
            == [name for row in body if (name := row[header.index("name")].strip())]
            for header, body in tables
        ), data
    assert 3 < accepted < COUNT


def test_fasta_loses_no_record(tmp_path):
    path = tmp_path / "t.fasta"
    accepted = 0
    for data in mutations(fasta(), 2):
        path.write_bytes(data)
        if (table := read(path, label_regex=r"label=(\S+)")) is None:
            continue
        accepted += 1
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        records = [record.split("\n")[1:] for record in ("\n" + text.lstrip()).split("\n>")[1:]]
        sequences = [plain("".join(map(str.strip, lines))) for lines in records]
        assert list(map(plain, table.sequences)) == sequences
    assert 3 < accepted < COUNT


def spreadsheet(path):
    header, table = ("id", "sequence", "label", "remark"), list(rows(random.Random(0)))
    if path.suffix == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row in [header, *table]:
            book.active.append(row)
        book.save(path)
    else:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(
            pa.table(dict(zip(header, map(list, zip(*table))))), path, write_page_checksum=True, compression="none"
        )
    return path.read_bytes(), [sequence for _, sequence, _, _ in table]


@pytest.mark.parametrize("name", ["t.xlsx", "t.parquet"])
def test_workbooks_and_parquet_give_every_row_or_none(tmp_path, name):
    content, sequences = spreadsheet(tmp_path / name)
    assert list(read_table(tmp_path / name).sequences) == sequences
    for data in mutations(content, 3):
        (tmp_path / name).write_bytes(data)
        table = read(tmp_path / name)
        assert table is None or list(table.sequences) == sequences


@pytest.mark.parametrize("part", ["xl/worksheets/sheet1.xml", "xl/workbook.xml"])
def test_parts_of_workbooks_read_as_openpyxl_reads_them_whole(tmp_path, part):
    path = tmp_path / "t.xlsx"
    spreadsheet(path)
    openpyxl = pytest.importorskip("openpyxl")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    accepted = 0
    for data in mutations(parts[part], 4):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, data if name == part else content)
        if (table := read(path)) is None:
            continue
        accepted += 1
        (header, *body) = openpyxl.load_workbook(path, data_only=True).worksheets[0].iter_rows(values_only=True)
        index = [str(cell).strip().casefold() for cell in header].index("sequence")
        assert list(map(plain, table.sequences)) == [plain(str(row[index])) for row in body if any(row)]
    assert 3 < accepted < COUNT
