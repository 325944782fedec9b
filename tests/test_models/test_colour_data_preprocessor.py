"""Colours on the batch, in the data preprocessor."""
import numpy as np
import pytest
import torch
from mmpretrain.models import SelfSupDataPreprocessor

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.models import ColourDataPreprocessor
from cyborgs_plugin.ops.batch_views import recolour_batch
from cyborgs_plugin.ops.view_draws import NUM_COLOURS, ViewLaw, draw_colours

from ..helpers import fake_batch

NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
            to_rgb=True)
VIEWS = [dict(jitter=1., brightness=[0.5, 1.5], hue=[-0.1, 0.1], blur=1.),
         dict(solarise=0.5, grey=0.5)]


def test_training_augments_and_normalises():
    batch = fake_batch(6)
    np.random.seed(3)
    found = ColourDataPreprocessor(VIEWS, **NORM)(batch, training=True)
    np.random.seed(3)
    for view, inputs, output in zip(VIEWS, batch['inputs'], found['inputs']):
        law = ViewLaw(size=(0, 0), **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in view.items()})
        colours = draw_colours(law, np.random.random((6, NUM_COLOURS)))
        expected = SelfSupDataPreprocessor(**NORM)(dict(
            inputs=[recolour_batch(inputs, law, colours)],
            data_samples=None))['inputs'][0]
        assert not torch.equal(recolour_batch(inputs, law, colours), inputs)
        torch.testing.assert_close(output, expected)
    assert [sample.mask.shape for sample in found['data_samples']] == [
        (2, 64, 64)] * 6


def test_mask_rounds_see_pixels_as_they_are():
    data = dict(inputs=fake_batch()['inputs'][0], data_samples=None)
    torch.testing.assert_close(
        ColourDataPreprocessor(VIEWS, **NORM)(dict(data))['inputs'],
        SelfSupDataPreprocessor(**NORM)(dict(data))['inputs'])


def test_the_number_of_views_is_checked():
    with pytest.raises(UserError, match='has 1 views, but .* makes 2'):
        ColourDataPreprocessor(VIEWS[:1], **NORM)(fake_batch(), training=True)
