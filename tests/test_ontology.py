"""GO labels from OBO, GAF and FASTA on files small enough to work out by hand."""

import pytest

from covjax.data import read_table
from covjax.data.gene_ontology import read_gaf, read_obo
from covjax.data.ontology import accession, frequent, group_of, main, propagate
from covjax.errors import InputError

# process:  P0 <- P1        function:  F0 <- F1 <- F2, F0 <- F3 <- F2;  F2 part_of P1
OBO = """format-version: 1.2
default-namespace: molecular_function

[Term]
id: F:0
name: root of functions

[Term]
id: F:1
name: binding; of things ! all
is_a: F:0 {source="x"} ! root of functions
alt_id: F:11

[Term]
id: F:3
name: third
is_a: F:0
relationship: regulates P:1 ! first process

[Term]
id: F:2
name: second
is_a: F:1 ! binding
is_a: F:3
relationship: part_of P:1 ! first process

[Term]
id: F:8
name: obsolete one
is_obsolete: true
replaced_by: F:11

[Term]
id: F:9
name: obsolete two
is_obsolete: true
consider: F:1
replaced_by: F:1
replaced_by: F:3

[Term]
id: P:0
name: root of processes
namespace: biological_process

[Term]
id: P:1
name: first process
namespace: biological_process
is_a: P:0

[Typedef]
id: part_of
name: part of
"""


def line(name, term, code="IDA", qualifier="enables", synonym=""):
    fields = [
        "DB",
        name,
        f"sym-{name}",
        qualifier,
        term,
        "REF",
        code,
        "",
        "F",
        "",
        synonym,
        "protein",
        "taxon:1",
        "d",
        "DB",
    ]
    return "\t".join([*fields, "", ""])


GAF = "\n".join(
    [
        "!gaf-version: 2.2",
        "!a comment",
        line("p1", "F:2"),
        line("p2", "F:11", synonym="Y2|other"),
        line("p3", "F:3", code="IEA"),
        line("p4", "F:2", qualifier="NOT|enables"),
        line("p5", "F:8"),
        line("p6", "F:9"),
        line("p7", "F:0", code="ND"),
        line("p2", "F:3", code="IPI"),
    ]
)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "go.obo").write_text(OBO)
    (tmp_path / "go.gaf").write_text(GAF + "\n")
    headers = ["sp|p1|P1_X group=chrI:0", "p2", "p3", "p4 group=g", "p5", "p6", "p8"]
    (tmp_path / "p.fasta").write_text("".join(f">{h}\nMK{'A' * i}\n" for i, h in enumerate(headers)))
    return tmp_path


def options(folder, **more):
    names = {"obo": "go.obo", "gaf": "go.gaf", "fasta": "p.fasta", "output": "out.csv.gz"}
    given = {name: str(folder / file) for name, file in names.items()} | {"min-count": "1"} | more
    return [part for name, value in given.items() for part in (f"--{name}", value)]


def test_terms_parents_and_moved_ids(files):
    go = read_obo(files / "go.obo")
    assert go.names["F:1"] == "binding; of things ! all"
    assert go.parents == {
        "F:0": (),
        "F:1": ("F:0",),
        "F:3": ("F:0",),
        "F:2": ("F:1", "F:3", "P:1"),
        "P:0": (),
        "P:1": ("P:0",),
    }
    assert go.moved == {"F:11": "F:1", "F:8": "F:1", "F:9": None}  # F:8 by way of the alternative id F:11
    assert go.with_ancestors({"F:2"}) == {"F:0", "F:1", "F:2", "F:3", "P:0", "P:1"}
    assert go.namespaces["F:1"] == "molecular_function"
    assert go.namespaces["P:1"] == "biological_process"
    with pytest.raises(InputError, match="term: 'F:77' is not in the ontology"):
        go.current("F:77")


def test_propagation_by_namespace(files):
    go = read_obo(files / "go.obo")
    functions = propagate(read_gaf(files / "go.gaf"), go, "molecular_function")
    assert functions == {"p1": {"F:1", "F:2", "F:3"}, "p2": {"F:1", "F:3"}, "p5": {"F:1"}}
    assert propagate(read_gaf(files / "go.gaf"), go, "biological_process") == {"p1": {"P:1"}}
    everything = propagate(read_gaf(files / "go.gaf", evidence=None), go, "molecular_function")
    assert everything == functions | {"p3": {"F:3"}}
    assert set(propagate(read_gaf(files / "go.gaf", frozenset({"IPI"})), go, "molecular_function")) == {"p2"}
    with pytest.raises(InputError, match="namespace: 'function' is not one of biological_process, molecular_function"):
        propagate([], go, "function")


def test_names_of_a_product_by_column(files):
    names = lambda match: [a.names for a in read_gaf(files / "go.gaf", match=match)]
    assert names("id")[:2] == [("p1",), ("p2",)]
    assert names("symbol")[:2] == [("sym-p1",), ("sym-p2",)]
    assert names("synonym")[:2] == [(), ("Y2", "other")]


def test_frequent_counts_both_outcomes():
    assert frequent([{"a", "b"}, {"a"}, {"a", "c"}, {"a", "c"}], 2) == {"c"}
    assert frequent([{"a", "b"}, {"a"}], 1) == {"b"}


def test_header_fields():
    assert accession("tr|Q1|Q1_Y something") == "Q1"
    assert accession("a|b") == "a|b"
    assert group_of("g1 gene=x group=chrII:0-100") == "chrII:0-100"
    assert group_of("sp|P1|N") == ""


def test_the_command_writes_a_table_that_reads_back(files, capsys):
    main(options(files))
    data = read_table(files / "out.csv.gz")
    assert data.ids == ("p1", "p2", "p5")
    assert data.target_names == ("F:2 second", "F:3 third")  # F:1 has no sequence without it
    assert data.targets.tolist() == [[True, True], [False, True], [False, False]]
    assert data.groups == ("chrI:0", "p2", "p5")
    assert "3 sequences, 2 terms of molecular_function; left out: 4 sequences" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("go.gaf", "!gaf-version: 2.2", "!gaf-version: 1.0", "gaf-version '1.0' in the header; 2.x is read"),
        ("go.gaf", "!gaf-version: 2.2\n", "", "gaf-version '' in the header"),
        ("go.gaf", "!gaf-version: 2.2", "!gpa-version: 2.0", "'!gpa-version: 2.0': GPAD or GPI"),
        (
            "go.gaf",
            "\ttaxon:1\td\tDB\t\t",
            "",
            "line 3: 12 columns, fewer than the 15 of GAF 2.x (8 of 8 annotations are odd)",
        ),
        ("go.gaf", GAF, "!gaf-version: 2.2", "no annotation in it"),
        (
            "go.gaf",
            "\tF:",
            "\tG:",
            "term: 'G:2' is not in the ontology (another release?) (5 of 5 annotations are odd)",
        ),
        ("go.obo", "[Term]", "[Typedef]", "no current term in it"),
        ("p.fasta", "p", "q", "none of 7 sequences is annotated; its first id is"),
    ],
)
def test_bad_files_are_one_line_and_leave_nothing(files, capsys, file, old, new, message):
    (files / file).write_text((files / file).read_text().replace(old, new))
    with pytest.raises(SystemExit) as caught:
        main(options(files))
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (files / "out.csv.gz").exists()


@pytest.mark.parametrize(
    ("file", "old", "new", "rows", "message"),
    [
        ("go.gaf", line("p1", "F:2"), "DB\tp1", "p2 p5", "left out 1 of 8 annotations: line 3: 2 columns, fewer than"),
        ("go.gaf", "DB\tp1\t", "DB\t\t", "p2 p5", "line 3: no id of the product, no term or no evidence code"),
        ("go.gaf", "\tF:2\t", "\tF:77\t", "p2 p5", "'p1': term: 'F:77' is not in the ontology"),
        ("go.gaf", "NOT|", "not|", "p1 p2 p5", "left out 1 to obsolete terms without a replacement"),
        ("p.fasta", "p6", "p5", "p1 p2 p5", "left out 1 of 7 sequences: line 11: 'p5' is already there"),
        ("p.fasta", "MKAAAA\n", "", "p1 p2", "left out 1 of 7 sequences: line 9: 'p5' has no sequence"),
        ("p.fasta", "p8", "", "p1 p2 p5", "line 13: '' has no id"),
    ],
)
def test_odd_records_are_left_out_and_named(files, capsys, file, old, new, rows, message):
    (files / file).write_text((files / file).read_text().replace(old, new))
    main(options(files))
    assert " ".join(read_table(files / "out.csv.gz").ids) == rows
    out, err = capsys.readouterr()
    assert message in out
    assert err == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"min-count": "0"}, "min_count: 0 must be >= 1"),
        ({"min-count": "3"}, "no term has 3 of the 3 annotated sequences"),
        ({"output": "x.txt"}, "must end in .csv or .csv.gz"),
        ({"obo": "absent.obo"}, "absent.obo: cannot be read as text"),
    ],
)
def test_bad_options(files, capsys, more, message):
    with pytest.raises(SystemExit):
        main(options(files, **more))
    assert message in capsys.readouterr().err


def test_without_groups_in_the_headers_there_is_no_column_of_them(files):
    plain = (files / "p.fasta").read_text().replace(" group=chrI:0", "").replace(" group=g", "")
    (files / "p.fasta").write_text(plain)
    main(options(files))
    data = read_table(files / "out.csv.gz")
    assert not data.has_group_column
    assert data.ids == ("p1", "p2", "p5")
