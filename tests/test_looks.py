"""The record of looks at a test set: other settings count, the same ones and other places do not."""

import copy
import json

import pytest

from covjax.errors import InputError
from eval.looks import NAME, record_look

MANIFEST = {
    "config": {"name": "a", "output": "runs/a", "data": "a.csv", "penalties": [0.1, 1.0], "layer": -1},
    "data": {"fingerprint": "f"},
    "encoder": {"name": "e", "weights_digest": "w"},
    "device": {"count": 1},
}


def changed(part, **changes):
    manifest = copy.deepcopy(MANIFEST)
    manifest[part] |= changes
    return manifest


def test_only_other_settings_are_another_look(tmp_path):
    assert record_look(tmp_path, MANIFEST, "first") == 1
    for same in (MANIFEST, changed("config", output="x", name="b", data="b.csv"), changed("device", count=8)):
        assert record_look(tmp_path, same, "again") == 1
    assert record_look(tmp_path, changed("config", layer=3), "second") == 2
    assert record_look(tmp_path, changed("encoder", weights_digest="v"), "third") == 3
    assert record_look(tmp_path, changed("config", layer=3), "again") == 3
    assert record_look(tmp_path, changed("data", fingerprint="other"), "other data") == 1
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    assert [line["command"] for line in lines] == ["first", "second", "third", "other data"]


def test_a_record_that_was_changed_is_refused(tmp_path):
    record_look(tmp_path, MANIFEST, "first")
    for content in ('{"time": "now"', '{"settings": 1}\n', "[]\n"):
        (tmp_path / NAME).write_text(content)
        with pytest.raises(InputError, match="test-looks.jsonl is damaged"):
            record_look(tmp_path, MANIFEST, "first")
