"""`import covjax` stays light: no heavy optional package, few modules beyond JAX and Flax."""

import ast
import subprocess
import sys

import pytest

import covjax
from covjax.command import COMMANDS
from tests.conftest import ROOT

HEAVY = ("torch", "transformers", "matplotlib", "orbax", "sklearn", "scipy.stats", "pandas", "grain")
SCRIPT = f"""
import sys
import jax, flax.nnx
before = set(sys.modules)
import covjax
for name in covjax.__all__:
    getattr(covjax, name)
print(*[m for m in {HEAVY} if m in sys.modules and m not in before])
"""


@pytest.mark.long
def test_import_is_light():
    output = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout.split()
    assert output == []


def test_public_names_are_documented():
    for name in covjax.__all__:
        assert getattr(covjax, name).__doc__, name


def test_importing_covjax_imports_no_jax():
    script = "import sys, covjax; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


HELP = """
import sys
from covjax.command import main
try:
    main([*sys.argv[1].split(), "--help"])
except SystemExit as end:
    assert not end.code
print("\\n", "jax" in sys.modules)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_imports_no_jax(name):
    run = subprocess.run([sys.executable, "-c", HELP, name], check=True, capture_output=True, text=True)
    text, imported = run.stdout.rstrip().rsplit(maxsplit=1)
    assert "--" in text
    assert imported == "False"


def test_a_comparison_imports_what_draws_and_trains_where_it_does():
    """A second run does neither, and waits for no Matplotlib and no Grain."""
    script = "import sys, covjax.comparison.compare; print(*{'matplotlib', 'grain', 'transformers'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_what_a_type_checker_reads_is_what_python_finds():
    tree = ast.parse((ROOT / "covjax" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    read = {
        (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    packages = {("covjax", name) for name in covjax._PACKAGES}
    assert read == {(f"covjax.{module}", name) for name, module in covjax._MODULES.items()} | packages


FIRST = """
import sys
for name in sys.argv[1:]:
    exec(f"import covjax.{name}")
import covjax, types
from covjax import gram, moments
assert isinstance(covjax.moments, types.FunctionType) and covjax.moments is moments, covjax.moments
assert isinstance(covjax.gram, types.FunctionType) and covjax.gram is gram, covjax.gram
assert sys.modules["covjax.moments"].moments is moments
"""


@pytest.mark.parametrize("names", [(), ("moments",), ("gram", "moments"), ("pooling", "encoders")])
def test_a_function_named_like_its_module_is_the_function_whatever_was_imported_first(names):
    run = subprocess.run([sys.executable, "-c", FIRST, *names], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_sub_packages_are_attributes():
    script = f"import covjax; print(*(getattr(covjax, name).__name__ for name in {covjax._PACKAGES}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [f"covjax.{name}" for name in covjax._PACKAGES]
    assert {"encoders", "moments", "get_pooler", "__version__"} <= set(dir(covjax))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'covjax' has no attribute 'momets'"):
        covjax.momets  # noqa: B018
    assert not hasattr(covjax, "nothing")
