"""A helper process that writes one process's own checkpoints in a job of several.

Orbax 0.12 saves either with all processes of a job or not at all: even where one alone is declared active, it compares
paths with the others and shares its signals with them. The helper belongs to no job. It ends when the pipe from its
parent closes, also where the parent was killed.
"""

import atexit
import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from covjax.checkpoint import write as write_here
from covjax.errors import InputError


def write(path: Path, flat: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """`checkpoint.write` in the helper; raises InputError like it."""
    helper = _helper()
    assert helper.stdin is not None
    assert helper.stdout is not None
    pickle.dump((path, dict(flat), dict(record)), helper.stdin, pickle.HIGHEST_PROTOCOL)
    helper.stdin.flush()
    if message := pickle.load(helper.stdout):
        raise InputError(message)


@functools.cache
def _helper() -> subprocess.Popen:
    command = [sys.executable, "-c", "from covjax import writer; writer.serve()"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}  # the accelerators are its parent's, and so is Ctrl-C
    helper = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )
    atexit.register(lambda: (helper.stdin and helper.stdin.close(), helper.wait()))
    return helper


def serve() -> None:
    """Write what comes through standard input until it ends, and answer each with "" or the user's error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get among the answers
    while True:
        try:
            path, flat, record = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            write_here(path, flat, record)
            message = ""
        except InputError as error:
            message = str(error)
        pickle.dump(message, answers)
        answers.flush()
