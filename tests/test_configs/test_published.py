"""Each config of a published behaviour turns one knob of the recipe."""
import glob
import os.path as osp

import pytest
from mmengine.config import Config

ROOT = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
CHANGES = {
    'published_empty_regions': {
        'model.neck.empty_regions': True,
        'model.neck.num_ids': 256
    },
    'published_bn_per_slot': {
        'model.neck.project_by_slot': True,
        'model.head.predict_by_slot': True
    },
    'published_81_ids': {
        'model.neck.num_ids': 81
    }
}


def test_all_are_listed():
    files = glob.glob(osp.join(ROOT, 'configs', 'ablations', 'published_*'))
    assert {osp.basename(name)[:-3] for name in files} == set(CHANGES)


@pytest.mark.parametrize('name', CHANGES)
def test_differs_in_the_stated_keys_only(name):
    path = osp.join(ROOT, 'configs', 'ablations', f'{name}.py')
    with open(path) as file:
        assert len(file.readlines()) <= 15
    expected = Config.fromfile(osp.join(ROOT, 'configs', 'cyborgs_coco.py'))
    expected.merge_from_dict(CHANGES[name])
    assert Config.fromfile(path).to_dict() == expected.to_dict()
