"""What a run costs, measured in a process that has done other things."""
import sys

import numpy as np
import pytest

from cyborgs_plugin.advice import trial
from cyborgs_plugin.ops.superpixels import find_superpixels
from cyborgs_plugin.segmentation import known_superpixels

from ..helpers import small_config


def test_each_trial_finds_superpixels_once(photo_root, tmp_path, monkeypatch):
    """In its first round, and again if it is made a second time."""
    cfg = small_config(photo_root, tmp_path / 'w')
    cfg.default_hooks.mask_update.source.superpixels = dict(
        type='Felzenszwalb', min_size=4)
    cfg.default_hooks.mask_update.source.colour_weight = 0.6
    searches = []
    monkeypatch.setattr(
        known_superpixels, 'find_superpixels', lambda image, **options:
        searches.append(1) or find_superpixels(image, **options))
    for _ in range(2):
        found = trial.measure(cfg, range(4), 4)
        assert found.round > 0 and found.first >= 0
        assert len(searches) == 1 + 4  # to get warm, and in the first round
        searches.clear()


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux alone forgets')
def test_memory_of_earlier_work_does_not_count():
    """A notebook may have held much more than a step takes."""
    held = np.ones(3 << 27)  # 3 GiB, and all of it written
    del held
    assert trial._peak() > 3 << 30
    trial._forget_peak()
    assert trial._peak() < 3 << 30
