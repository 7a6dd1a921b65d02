"""A record of every look at a test set: settings tried one after the other until the test likes them are seen."""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

from covjax.data.write import new_text
from covjax.errors import InputError

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
        looks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        known = {look["settings"] for look in looks}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"output: {path} is damaged; it records every look at the test set") from None
    if digest not in known:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        look = {"time": now, "data": data, "settings": digest, "command": command}
        with new_text(path) as file:
            file.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in [*looks, look])
        known.add(digest)
    return len(known)
