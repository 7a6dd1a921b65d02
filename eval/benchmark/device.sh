#!/bin/sh
# Everything that needs an accelerator, in one command of at most eight minutes:
#
#     sh eval/benchmark/device.sh [--output FOLDER]     writes device.json and device.md, prints the tables last
#     sh eval/benchmark/device.sh --tiny                the same with small sizes, on a CPU
#
# The machine needs Python 3.11 or newer with jax for its accelerator, flax, optax and numpy; torch and transformers are
# compared with where they are. Nothing is fetched. Packages that the machine lacks travel as pure-Python wheels in the
# folder .whl (ignored by git), filled beforehand on a machine with a network:
#
#     python3 -m pip download --no-deps --only-binary=:all: --platform any --dest .whl chex jaxtyping NAME ...
set -eu
cd "$(dirname "$0")/../.."
if ls .whl/*.whl >/dev/null 2>&1; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" .whl/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
missing=$(python3 - <<'EOF'
from importlib.util import find_spec
names = "jax flax optax numpy scipy chex jaxtyping orbax.checkpoint safetensors threadpoolctl tqdm transformers pytest".split()
print(*(name for name in names if not find_spec(name.split(".")[0])))
EOF
)
[ -z "$missing" ] || echo "not installed, cases that need them fail: $missing" >&2
export XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1
timeout 480 python3 -m eval.benchmark device "$@"
