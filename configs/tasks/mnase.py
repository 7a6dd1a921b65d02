"""Nucleosome occupancy along yeast chromosome II (regression, four tracks) from OpenSpliceAI 400 nt.

    python -m eval.compare --config configs/tasks/mnase.py

Windows of 512 nt, targets log(1 + mean) of MNase coverage and dyads in phases G2 and M over the central 256 nt, 20-kb
blocks as groups: the small offline sister of configs/hub/tracks_ntv3.py. Needs COVJAX_SHARED, or --data with a table
of the same columns.

1 minute on two cores. Test R², ridge probe: mean 0.271; chosen on validation mean + sqrt Σ
0.278, +0.007 [-0.029, +0.040]; against the best control, mean + μμᵀ, -0.012 [-0.056, +0.040].
"""

from covjax.tasks.configs import TASK_CONFIGS

get_config = TASK_CONFIGS["mnase"]
