"""Five speakers across digits, from log-mel energies: tokens without any network.

    python -m eval.compare --config configs/tasks/spoken_speakers.py

Training on zero to five, validation on six and seven, test on eight and nine. Every speaker has a microphone and a
level of their own, which any pool may use. Needs COVJAX_SHARED. Not run at this size yet; docs/domains.md has a small
run.
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["spoken_speakers"]
