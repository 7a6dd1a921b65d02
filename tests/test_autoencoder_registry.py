"""Autoencoders by name: found, refused twice, options checked."""

import sys

import pytest

from covjax import InputError
from covjax.autoencoders import base as registry
from covjax.autoencoders import load_autoencoder, save_autoencoder
from covjax.autoencoders.base import (
    Autoencoder,
    autoencoder_kinds,
    autoencoder_options,
    make_autoencoder,
    register_autoencoder,
)
from covjax.jobs.cli import load_config


class Toy(Autoencoder):
    def __init__(self, features, *, width, slope=1.0, seed=0):
        self.options = features, width, slope, seed


@pytest.fixture
def kind(monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", {})
    register_autoencoder("toy")(Toy)
    return "toy"


def test_options_and_seed_reach_the_factory(kind):
    assert autoencoder_kinds() == (kind,)
    assert list(autoencoder_options(kind)) == ["width", "slope"]
    assert make_autoencoder(kind, 8, width=3, seed=5).options == (8, 3, 1.0, 5)


def test_what_cannot_be_is_named(kind):
    with pytest.raises(InputError, match="already registered"):
        register_autoencoder(kind)(lambda features, seed: None)
    with pytest.raises(InputError, match="takes no 'seed'"):
        register_autoencoder("other")(lambda features: None)
    with pytest.raises(InputError, match="'nothing' is not known; allowed: toy"):
        make_autoencoder("nothing", 8)
    with pytest.raises(InputError, match="no option 'depth'; allowed: width, slope"):
        make_autoencoder(kind, 8, width=3, depth=2)
    with pytest.raises(InputError, match="'width' is needed"):
        make_autoencoder(kind, 8)


@pytest.mark.parametrize(
    ("kind", "options", "match"),
    [
        ("tucker", {"tied": "False"}, "tucker: tied 'False' is not true or false"),
        ("tucker", {"rank": 3.5}, "tucker: rank 3.5 is not a whole number"),
        ("topk", {"latents": 4096.0}, "topk: latents 4096.0 is not a whole number"),
        ("relu", {"latents": 8, "l1": "x"}, "relu: l1 'x' is not a number"),
    ],
)
def test_an_option_of_another_type_is_refused(kind, options, match):
    with pytest.raises(InputError, match=match):
        make_autoencoder(kind, 8, **options)


CUSTOM = """
import jax.numpy as jnp
from flax import nnx
from covjax.autoencoders import register_autoencoder

@register_autoencoder("KIND")
class Custom(nnx.Module):
    examples = "tokens"

    def __init__(self, features, *, seed=0):
        self.scale = nnx.Param(jnp.ones(features))

    def loss(self, x, weights=None):
        return jnp.sum(self.scale[...]), {}

    def project_gradients(self, gradients):
        return gradients

    def after_step(self, x, weights=None):
        pass
"""
CONFIG = """
from covjax.training.config import AutoencoderConfig
IMPORT
def get_config():
    return AutoencoderConfig(store="nothing", kind="KIND")
"""


@pytest.mark.parametrize("place", ["beside the config", "in the config"])
def test_a_kind_of_the_users_works_from_any_folder_and_its_file_is_named(tmp_path, monkeypatch, place):
    from covjax.training.config import AutoencoderConfig

    kind, module = place.replace(" ", "-"), "kind_of_a_user"
    beside = place == "beside the config"
    config = CONFIG.replace("IMPORT", f"import {module}" if beside else CUSTOM).replace("KIND", kind)
    (tmp_path / "my_config.py").write_text(config)
    (tmp_path / f"{module}.py").write_text(CUSTOM.replace("KIND", kind))
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir("/")
    assert load_config(tmp_path / "my_config.py", AutoencoderConfig).kind == kind
    save_autoencoder(tmp_path / "saved", make_autoencoder(kind, 3), kind, 3, {})
    assert load_autoencoder(tmp_path / "saved").scale.shape == (3,)
    monkeypatch.setattr(registry, "_FACTORIES", {})  # as in a new process
    monkeypatch.delitem(sys.modules, module, raising=False)
    file = f"{module}.py" if beside else "my_config.py"
    with pytest.raises(InputError, match=f"kind '{kind}' is not registered here; import {file[:-3]} first, /.*{file}"):
        load_autoencoder(tmp_path / "saved")
