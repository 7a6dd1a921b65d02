"""OBO files as they are: moved ids, escapes, and odd records left out by line."""

import pytest

from covjax.data.gene_ontology import Annotation, read_obo
from covjax.data.ontology import propagate
from covjax.errors import InputError

ROOT = """format-version: 1.4
default-namespace: f

[Term]
id: F:0
name: root

[Term]
id: F:1
name: one
is_a: F:0

"""


def read(tmp_path, text):
    notes = []
    (tmp_path / "x.obo").write_text(ROOT + text, encoding="utf-8")
    return read_obo(tmp_path / "x.obo", notes.append), notes


OBSOLETE = "[Term]\nid: F:5\nname: obsolete\nalt_id: F:50\nis_obsolete: true\n"


@pytest.mark.parametrize("replacement", ["F:1", "F:10"])
def test_an_alternative_id_of_an_obsolete_term_leads_where_the_term_does(tmp_path, replacement):
    other = "[Term]\nid: F:2\nname: two\nis_a: F:0\nalt_id: F:10\n"
    go, notes = read(tmp_path, f"{OBSOLETE}replaced_by: {replacement}\n{other}")
    target = {"F:1": "F:1", "F:10": "F:2"}[replacement]
    assert go.moved == {"F:5": target, "F:50": target, "F:10": "F:2"}
    assert propagate([Annotation(("p",), "F:50")], go, "f") == {"p": {target}}
    assert notes == []


def test_an_obsolete_term_without_replacement_takes_its_alternative_ids_along(tmp_path):
    go, notes = read(tmp_path, OBSOLETE)
    assert go.moved == {"F:5": None, "F:50": None}
    assert notes == []
    assert read(tmp_path, OBSOLETE + "[Term]\nid: F:2\nalt_id: F:5\n")[0].current("F:50") == "F:2"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("name: a\\, b\\: c\\n d", "a, b: c  d"),
        ("name: half of it \\\nand the rest", "half of it and the rest"),
        ("name: x ! not a comment {y}", "x ! not a comment {y}"),
        ("name:no blank", "no blank"),
        ("name: \u2028 a line end of Unicode", "\u2028 a line end of Unicode"),
        ("def: none", "F:2"),
    ],
)
def test_names(tmp_path, text, name):
    go, notes = read(tmp_path, f'[Term]\nid: F:2\n{text}\nis_a: F:1 {{source="x"}} ! one\n')
    assert go.names["F:2"] == name.strip()
    assert go.parents["F:2"] == ("F:1",)
    assert notes == []


def test_a_parent_under_an_alternative_id_is_the_current_one(tmp_path):
    go, notes = read(tmp_path, "[Term]\nid: F:2\nis_a: F:30\nis_a: F:3\n\n[Term]\nid: F:3\nalt_id: F:30\nis_a: F:0!x\n")
    assert go.parents["F:2"] == ("F:3",)
    assert "parent 'F:0!x' is not a current term" in notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[Term]\nname: lost\n", "line 13: a term without an id"),
        ("[Term]\nid: F:1\nname: again\n", "line 13: term 'F:1' is already in line 8"),
        ("[Term]\nid: F:2\nis_a: F:9\n", "line 13: term 'F:2': parent 'F:9' is not a current term"),
        ("[Term]\nid: F:2\nis_a:\n", "line 15: not a tag and its value: 'is_a:'"),
        ("[Term]\nid: F:2\nrelationship: part_of\n", "line 13: relationship 'part_of' without a term"),
        ("[Term]\nid: F:2\nalt_id: F:1\n", "line 13: term 'F:2': alt_id 'F:1' is a current term"),
        ("[Term]\nid: F:2\nis_obsolete: true\nreplaced_by: F:2\n", "replacement 'F:2' is not a current term"),
        ("[Term\nid: F:2\n", "line 13: '[Term' begins no stanza"),
        ("[Term]\nid: F:2\na line of prose\n", "line 15: not a tag and its value: 'a line of prose'"),
    ],
)
def test_odd_records_are_left_out_and_named(tmp_path, text, message):
    go, notes = read(tmp_path, text)
    assert {"F:0", "F:1"} <= set(go.names)
    assert go.names["F:1"] == "one"
    assert go.parents["F:1"] == ("F:0",)
    assert len(notes) == 1
    assert notes[0].startswith(f"{tmp_path / 'x.obo'}: left out 1 of ")
    assert message in notes[0]


def test_a_file_of_odd_records_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"x.obo: line 13: a term without an id \(12 of 15 records are odd\)"):
        read(tmp_path, "[Term]\nname: lost\n" * 12)
