"""Contact sheets."""
from pathlib import Path

import cv2
import numpy as np
import pytest

from cyborgs_plugin.visualization import contact_sheet
from cyborgs_plugin.visualization.contact_sheet import _paint


def test_sheet_has_a_cell_for_each_map(tmp_path):
    images = [np.full((40, 60, 3), 90, np.uint8)] * 3
    maps = [np.arange(20).reshape(4, 5)] * 3
    path = contact_sheet(images, {'ground truth': maps, 'round 0': maps},
                         str(tmp_path / 'sub' / 'x.png'))
    sheet = cv2.imread(path)
    assert sheet.shape[1] == 600 and sheet.shape[0] == 480
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 15
    other = contact_sheet(images, {'ground truth': maps, 'round 0': maps},
                          str(tmp_path / 'x.JPG'))
    assert Path(other).read_bytes()[:2] == b'\xff\xd8'
    # chroma is coarse at the borders of regions
    assert np.median(abs(cv2.imread(other) - sheet.astype(int))) < 5


def test_background_of_the_ground_truth_stays_bare():
    image = np.full((8, 8, 3), 90, np.uint8)
    ids = np.zeros((8, 8), int)
    ids[4:] = 1
    assert (_paint(image, ids, True)[:3] == 90).all()
    assert (_paint(image, ids, False)[:3] != 90).any()


def test_wrong_number_of_maps(tmp_path):
    with pytest.raises(ValueError, match="'a'"):
        contact_sheet([np.zeros((4, 4, 3), np.uint8)], {'a': []},
                      str(tmp_path / 'x.png'))
