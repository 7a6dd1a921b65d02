"""A record of every look at a test set: settings tried one after the other until the test likes them are seen."""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

from covjax.errors import InputError
from covjax.jobs.folder import write_text
from covjax.jobs.seal import read_line, sealed_line

NAME = "test-looks.jsonl"


def record_look(folder: Path, settings: dict[str, Any], manifest: dict[str, Any], command: str) -> int:
    """Note that the test set is scored under these settings; how many settings were scored from this folder.

    `settings` are the fields that decide numbers (`covjax.options.decided_by`).

    The same config, data and encoder again, which give the same numbers, are no new look; neither names and places
    nor the machine count. Other data do, such as another split of the same. --force removes all but this record.

    Raises InputError for a record that cannot be read.
    """
    data, encoder = manifest["data"]["fingerprint"], manifest["encoder"]
    text = json.dumps([data, encoder["weights_digest"], encoder["layer"], settings], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = folder / NAME
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n") if path.exists() else []
        looks = [look for line in lines if (look := read_line(line)) is not None]
    except (OSError, ValueError):
        lines, looks = [""], []
    if len(looks) < len(lines):
        raise InputError(
            f"output: {path} is damaged, was changed, or is of another version of covjax; it records every look at the "
            "test set: put it back, or use --output OTHER"
        )
    known = {look["settings"] for look in looks}
    if digest not in known:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        look = {"time": now, "data": data, "settings": digest, "command": command}
        write_text(path, "".join(sealed_line(each) + "\n" for each in [*looks, look]))
        known.add(digest)
    return len(known)
