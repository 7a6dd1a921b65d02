"""A bigWig file written by hand: one block a call, the three kinds of items, either byte order, packed or not."""

import struct
import zlib

BEDGRAPH, VARIABLE, FIXED = 1, 2, 3


def block(number, kind, values, start=0, step=1, span=1):
    """A block of a chromosome by its number: items `step` apart, each over `span` nucleotides."""
    starts = [start + step * i for i in range(len(values))]
    return number, kind, starts, span, step, values


def write(path, chromosomes, blocks, order="<", packed=True):
    """Write blocks of `chromosomes` (lengths by name) in the order given."""
    key = max(len(name.encode()) for name in chromosomes)
    tree = struct.pack(order + "IIIIQQBBH", 0x78CA8C91, 64, key, 8, len(chromosomes), 0, 1, 0, len(chromosomes))
    for number, (name, length) in enumerate(chromosomes.items()):
        tree += name.encode().ljust(key, b"\0") + struct.pack(order + "II", number, length)
    data, leaves, place = struct.pack(order + "Q", len(blocks)), b"", 64 + len(tree)
    for number, kind, starts, span, step, values in blocks:
        end = starts[-1] + span
        content = struct.pack(order + "IIIIIBBH", number, starts[0], end, step, span, kind, 0, len(values))
        for first, value in zip(starts, values):
            words = {BEDGRAPH: (first, first + span), VARIABLE: (first,), FIXED: ()}[kind]
            content += struct.pack(f"{order}{len(words)}If", *words, value)
        content = zlib.compress(content) if packed else content
        leaves += struct.pack(order + "IIIIQQ", number, starts[0], number, end, place + len(data), len(content))
        data += content
    index = place + len(data)
    header = struct.pack(
        order + "IHHQQQHHQQIQ", 0x888FFC26, 4, 0, 64, place, index, 0, 0, 0, 0, 1 << 20 if packed else 0, 0
    )
    top = struct.pack(order + "IIQIIIIQII", 0x2468ACE0, 256, len(blocks), 0, 0, 0, 0, index, 1, 0)
    # A root above two leaves, so that both kinds of nodes are there.
    half = 32 * (len(blocks) // 2)
    parts = [leaves[:half], leaves[half:]]
    places = [index + 48 + 4 + 2 * 24, index + 48 + 4 + 2 * 24 + 4 + half]
    nodes = struct.pack(order + "BBH", 0, 0, 2)
    for at in places:
        nodes += struct.pack(order + "IIIIQ", 0, 0, len(chromosomes), 0, at)
    for part in parts:
        nodes += struct.pack(order + "BBH", 1, 0, len(part) // 32) + part
    path.write_bytes(header + tree + data + top + nodes)
