"""The record of looks at a test set: other settings count, the same ones and other places do not."""

import copy
import json

import pytest

from covjax.comparison.config import CompareConfig
from covjax.comparison.scoring import LOOKS, record_look
from covjax.errors import InputError
from covjax.options import FEATURES, NUMBERS, decided_by

MANIFEST = {
    "config": {"name": "a", "output": "runs/a", "data": "a.csv", "penalties": [0.1, 1.0], "encoder": "/here/e"},
    "data": {"fingerprint": "f"},
    "encoder": {"name": "e", "weights_digest": "w", "layer": 3},
    "device": {"count": 1},
}


def changed(part, **changes):
    manifest = copy.deepcopy(MANIFEST)
    manifest[part] |= changes
    return manifest


def look(folder, manifest, command):
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in manifest["config"].items()}
    return record_look(folder, decided_by(CompareConfig(**given), FEATURES, NUMBERS), manifest, command)


def test_only_other_settings_are_another_look(tmp_path):
    assert look(tmp_path, MANIFEST, "first") == 1
    places = changed("config", output="x", name="b", data="b.csv", encoder="/there/e")
    for same in (MANIFEST, places, changed("encoder", name="/there/e"), changed("device", count=8)):
        assert look(tmp_path, same, "again") == 1
    assert look(tmp_path, changed("encoder", layer=2), "second") == 2
    assert look(tmp_path, changed("encoder", weights_digest="v"), "third") == 3
    assert look(tmp_path, changed("encoder", layer=2), "again") == 3
    assert look(tmp_path, changed("config", penalties=[1.0]), "fourth") == 4
    assert look(tmp_path, changed("data", fingerprint="another split"), "fifth") == 5
    lines = [json.loads(line) for line in (tmp_path / LOOKS).read_text().splitlines()]
    assert [line["command"] for line in lines] == ["first", "second", "third", "fourth", "fifth"]


def test_a_record_that_was_changed_is_refused(tmp_path):
    look(tmp_path, MANIFEST, "first")
    for content in ('{"time": "now"', '{"time": 1}\n', "[]\n"):
        (tmp_path / LOOKS).write_text(content)
        with pytest.raises(InputError, match="test-looks.jsonl is damaged"):
            look(tmp_path, MANIFEST, "first")
