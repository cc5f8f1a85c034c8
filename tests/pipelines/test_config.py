"""Settings that depend on one another."""

from __future__ import annotations

from pergola.components import settings


def test_load_varies_light_faintly_for_a_pretrained_network_unless_asked_otherwise():
    assert settings.load(None, []).augment.brightness == -1.0  # by the images
    pretrained = settings.load(None, ["model.weights=imagenet", "augment.contrast=0.5"]).augment
    assert (pretrained.brightness, pretrained.contrast) == (0.1, 0.5)
