"""Plain parsers of every format that the fuzz tests damage: no covjax, no care for speed; None where a file is odd."""

import gzip
import re
import struct
import zlib

import numpy as np

from tests.bigwig_files import BEDGRAPH, FIXED, VARIABLE


def plain_lines(content):
    """The lines of a file by the standard library, or None where it is no text."""
    try:
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None
    return None if "\0" in text else re.split("\r\n|\r|\n", text)


def plain_fasta(lines):
    text = "\n" + "\n".join(line for line in lines if not line.startswith(";"))
    before, *records = text.split("\n>")
    if before.strip():
        return None
    pairs = [record.partition("\n")[::2] for record in records]
    if any(mark in sequence for _, sequence in pairs for mark in ">;"):
        return None
    return [(header.strip(), "".join(sequence.split())) for header, sequence in pairs]


def plain_sequences(records):
    """What `read_sequences` makes of (id, sequence), or None."""
    ids = [name for name, _ in records]
    if not ids or len(set(ids)) < len(ids) or not all(sequence.strip() for _, sequence in records):
        return None
    return tuple(ids), tuple(sequence.strip() for _, sequence in records)


def plain_fasta_sequences(lines):
    records = plain_fasta(lines)
    if records is None:
        return None
    starts = [number for number, line in enumerate(lines, 1) if line.startswith(">")]
    return plain_sequences([((h.split() or [f"row{n}"])[0], s) for n, (h, s) in zip(starts, records, strict=True)])


def plain_cells(text, separator):
    """RFC 4180 letter by letter: the rows, or None for a quotation mark out of place."""
    rows, cell, state = [[]], "", "start"
    for letter in text + ("" if text.endswith("\n") else "\n"):
        if state == "quoted":
            state, cell = ("closed", cell) if letter == '"' else (state, cell + letter)
        elif letter == '"' and state == "closed":
            state, cell = "quoted", cell + '"'
        elif letter == '"' and state == "start":
            state = "quoted"
        elif letter in (separator, "\n"):
            rows[-1].append(cell)
            cell, state = "", "start"
            if letter == "\n":
                rows.append([])
        elif state == "closed":
            return None
        else:
            cell, state = cell + letter, "plain"
    if state == "quoted":
        return None
    return [row for row in rows[:-1] if len(row) > 1 or row[0].strip(" ")]


def plain_table(separators):
    def parse(lines):
        for separator in separators:
            rows = plain_cells("\n".join(lines), separator)
            if rows and all(rows[0].count(name) <= 1 for name in ("id", "sequence")) and "sequence" in rows[0]:
                header, *rows = rows
                if any(len(row) != len(header) for row in rows):
                    return None
                cells = [dict(zip(header, row)) for row in rows]
                return plain_sequences([(c.get("id") or f"row{n}", c["sequence"]) for n, c in enumerate(cells, 2)])
        return None

    return parse


def plain_text(lines):
    return plain_sequences([(f"row{n}", line) for n, line in enumerate(lines, 1) if line.strip()])


def number(text):
    return int(text) if text and set(text) <= set("0123456789") and len(text) < 19 else None


def plain_bed(lines):
    regions, odd = [], 0
    for n, line in enumerate(lines, 1):
        if not line.strip() or line[0] == "#":
            continue
        cells = (line + "\t" * 6).split("\t")
        start, end, strand = number(cells[1]), number(cells[2]), cells[5].strip()
        if line.split()[0] in ("track", "browser") and start is None:
            continue
        if not cells[0] or start is None or end is None or strand not in ("", "+", "-", "."):
            odd += 1
            continue
        name = cells[3].strip()
        regions.append((cells[0], start, end, "" if name == "." else name, strand if strand == "-" else "+", n))
    return regions, odd


def plain_gtf(lines):
    exons, odd = {}, 0
    for line in lines:
        if line.startswith("##gff-version"):
            return None
        if line.startswith("#") or not line.strip():
            continue
        cells = line.split("\t", 8)
        if len(cells) < 9:
            odd += 1
            continue
        if cells[2] != "exon":
            continue
        values = re.findall(r'([\w.-]+)\s+(?:"((?:[^"\\]|\\.)*)"|([^";\s]+))', cells[8])
        gene = next((re.sub(r"\\(.)", r"\1", a) or b for key, a, b in values if key == "gene_id"), "")
        start, end = number(cells[3]), number(cells[4])
        if (
            not gene
            or re.search(r"\s", gene)
            or start is None
            or end is None
            or not 0 < start <= end
            or cells[6] not in ("+", "-")
        ):
            odd += 1
            continue
        exons.setdefault(gene, {}).setdefault((cells[0], cells[6]), set()).update(range(start - 1, end))
    single = {
        gene: [*place, sorted(covered)]
        for gene, spots in exons.items()
        if len(spots) == 1
        for place, covered in spots.items()
    }
    return single, odd


def plain_gaf(lines):
    found, odd, version = [], 0, False
    for line in lines:
        if line.startswith("!"):
            if line.startswith(("!gpa", "!gpi")):
                return None
            tag = re.fullmatch(r"!\s*gaf-version\s*:(.*)", line, re.I)
            version = bool(re.match(r"2(\.|$)", tag[1].strip())) if tag and tag[1].strip() else version
            continue
        if not line.strip():
            continue
        if not version:
            return None
        cells = line.split("\t")
        if len(cells) < 15 or not all(cells[i].strip() for i in (1, 4, 6)):
            odd += 1
        elif cells[6].strip() == "IDA" and "NOT" not in re.split(r"[\s|]+", cells[3].upper()):
            found.append((tuple(n.strip() for n in cells[1].split("|") if n.strip()), cells[4].strip()))
    return (found, odd) if version else None


def plain_obo(lines):
    """Id and name of the terms; the first stanza of an id counts."""
    text = re.sub(r"(?<!\\)((?:\\\\)*)\\\n", r"\1", "\n".join(lines))
    terms, kind = [], ""
    for line in map(str.strip, text.split("\n")):
        if line.startswith("["):
            kind = re.split(r"\s+[!{]", line)[0]
            terms.append({}) if kind == "[Term]" else None
        elif kind == "[Term]" and ":" in line and not line.startswith("!"):
            tag, value = line.split(":", 1)
            value = value.strip() if tag == "name" else re.split(r"\s+[!{]", " " + value)[0].strip()
            if value:
                value = re.sub(r"\\(.)", lambda m: {"n": " ", "t": " ", "W": " "}.get(m[1], m[1]), value)
                terms[-1].setdefault(tag.strip(), value)
    names = {}
    for term in reversed(terms):
        if "id" in term:
            names = {term["id"]: term} | {k: v for k, v in names.items() if k != term["id"]}
    return {key: t.get("name", key) for key, t in names.items() if t.get("is_obsolete", "").lower() != "true"}


def plain_bigwig(content, packed, blocks):
    """{(chromosome's number, position): value} by a walk over the data, without the index; None where it breaks off."""
    values, at = {}, 64 + 32 + 4 + 2 * 12 + 8
    try:
        for _, kind, *_, numbers in blocks:
            size = 24 + {FIXED: 4, VARIABLE: 8, BEDGRAPH: 12}[kind] * len(numbers)
            if packed:
                unpacker = zlib.decompressobj()
                data = unpacker.decompress(content[at:])
                at = len(content) - len(unpacker.unused_data)
            else:
                data, at = content[at : at + size], at + size
            chromosome, start, _, step, span, kind, _, count = struct.unpack_from("<IIIIIBBH", data)
            for i in range(count):
                *place, value = struct.unpack_from(
                    {3: "<f", 2: "<If", 1: "<IIf"}[kind], data, 24 + {3: 4, 2: 8, 1: 12}[kind] * i
                )
                first = place[0] if place else start + i * step
                last = place[1] if len(place) == 2 else first + span
                values |= {(chromosome, p): value for p in range(first, min(last, first + 1000))}
    except (zlib.error, struct.error, KeyError):
        return None
    return {key: value for key, value in values.items() if not np.isnan(value)}
