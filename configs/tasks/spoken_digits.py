"""Spoken digits across speakers, from log-mel energies: tokens without any network.

    python -m eval.compare --config configs/tasks/spoken_digits.py
    python -m eval.compare --config configs/tasks/spoken_digits.py --source spoken_digits_lucas

Ten digits by five speakers, 500 recordings each: one speaker is the test (george, or the one that --source names), one
the validation, three are for training. Needs COVJAX_SHARED. Not run at this size yet; docs/domains.md has small runs.
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["spoken_digits"]
