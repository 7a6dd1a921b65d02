"""Autoencoders by name: found, refused twice, options checked."""

import pytest

from covjax import InputError
from covjax.autoencoders import base as registry
from covjax.autoencoders.base import (
    Autoencoder,
    autoencoder_kinds,
    autoencoder_options,
    make_autoencoder,
    register_autoencoder,
)


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
