"""`import covjax` stays light: no heavy optional package, and little time beyond JAX and Flax."""

import subprocess
import sys

import covjax

HEAVY = ("torch", "transformers", "matplotlib", "orbax", "sklearn", "scipy.stats", "pandas", "grain")
SCRIPT = f"""
import sys, time
import jax, flax.nnx
before = set(sys.modules)
start = time.process_time()
import covjax
seconds = time.process_time() - start
print(seconds, *[m for m in {HEAVY} if m in sys.modules and m not in before])
"""


def test_import_is_light():
    output = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout.split()
    assert output[1:] == []
    assert float(output[0]) < 1.5


def test_public_names_are_documented():
    for name in covjax.__all__:
        assert getattr(covjax, name).__doc__, name
