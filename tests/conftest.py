"""Fixtures that all tests share."""
import logging

import cv2
import numpy as np
import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

import cyborgs_plugin  # noqa: F401

from .annotations import annotated  # noqa: F401


@pytest.fixture(autouse=True)
def _fresh_singletons():
    """Loggers, hubs and scopes are global by name: clear them."""
    yield
    logging.shutdown()
    for kind in (MMLogger, Visualizer, DefaultScope, MessageHub):
        kind._instance_dict.clear()


def write_photo(path, size=(48, 64), seed=0):
    """Write a smooth random picture and return its BGR pixels."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return image


@pytest.fixture
def photo_root(tmp_path):
    """A data root whose train2017 holds 12 pictures of two sizes."""
    for number in range(12):
        size = (48, 64) if number % 3 else (64, 48)
        write_photo(tmp_path / 'data' / 'train2017' / f'{number:02d}.png',
                    size, number)
    return tmp_path / 'data'
