"""What a segmentor would learn from, or learn nothing from."""
import shutil

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from cyborgs_plugin.advice.settings import examine_config
from cyborgs_plugin.errors import MissingFileError, UserError
from cyborgs_plugin.transfer.annotation_check import check_config
from cyborgs_plugin.transfer.segmentation_check import check_masks

from ..helpers import write_photo

pytestmark = pytest.mark.needs('ops')  # as mmseg does, whose data it is

STEPS = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
         dict(type='RandomFlip', prob=0.5)]


def write_mask(path, values=(0, 1, 255), size=(48, 64), dtype=np.uint8):
    """Stripes of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = np.array(values, dtype)[np.arange(size[1]) % len(values)]
    Image.fromarray(np.tile(stripes, (size[0], 1))).save(path)


@pytest.fixture
def root(tmp_path):
    for part in ('train', 'val'):
        for name in ('a', 'b/c'):
            write_photo(tmp_path / f'images/{part}/{name}.png')
            write_mask(tmp_path / f'masks/{part}/{name}.png')
    return tmp_path


def segmentation(root, classes=('ground', 'cup'), steps=STEPS, **more):
    loaders = {
        f'{part}_dataloader': dict(
            dataset=dict(
                type='RepeatDataset',
                times=2,
                dataset=dict(
                    type='BaseSegDataset',
                    data_root=str(root),
                    metainfo=dict(classes=classes),
                    img_suffix='.png',
                    data_prefix=dict(
                        img_path=f'images/{part}',
                        seg_map_path=f'masks/{part}'),
                    pipeline=steps,
                    **more))) for part in ('train', 'val')
    }
    return Config(dict(default_scope='mmseg', model={}, **loaders))


def test_what_can_be_learnt_from(root):
    one, two = check_masks(segmentation(root))
    assert one == ('train_dataloader (BaseSegDataset): 2 pictures with '
                   'masks; in 2 of them are 2 of 2 classes')
    assert two.startswith('val_dataloader')
    # a rare class is no mistake, nor is a mask of one in validation
    write_mask(root / 'masks/train/a.png', (1, ))
    write_mask(root / 'masks/train/b/c.png', (1, 0))
    write_mask(root / 'masks/val/a.png', (0, ))
    write_mask(root / 'masks/val/b/c.png', (255, ))
    assert '1 of 2 classes' in check_masks(segmentation(root))[1]
    # none are read
    shutil.rmtree(root / 'masks/val')
    (root / 'masks/val').mkdir()
    cfg = segmentation(root, steps=STEPS[:1])
    assert 'no masks are read' in check_masks(cfg)[1]


def colours(root):
    Image.new('RGB', (64, 48)).save(root / 'masks/val/a.png')


def two_of_many(root):
    """All of one class; the second value is ignored."""
    for name in ('a', 'b/c'):
        write_mask(root / f'masks/train/{name}.png', (0, 255))


@pytest.mark.parametrize('spoil, said', [
    (lambda root: shutil.rmtree(root / 'masks/val'),
     'val_dataloader.*masks/val does not exist: set data_root'),
    (lambda root: (root / 'masks/val/b/c.png').unlink(),
     r'val_dataloader.*1 of 2 masks do not exist: \S*masks/val/b/c.png'),
    (lambda root: [path.rename(path.with_suffix('.JPG'))
                   for path in root.glob('images/train/**/*.png')],
     r"train_dataloader.*img_suffix='.png'.*end with '.JPG' \(2\)"),
    (colours, 'masks/val/a.png is an image of mode RGB, but a mask has one'),
    (lambda root: write_mask(root / 'masks/val/a.png', dtype=np.uint16),
     'masks/val/a.png is an image of mode I'),
    (lambda root: write_mask(root / 'masks/val/a.png', size=(64, 48)),
     'masks/val/a.png has 48x64 pixels, but its picture 64x48'),
    (lambda root: write_mask(root / 'masks/val/a.png', (0, 1, 2, 7)),
     'masks/val/a.png has pixels of the values 2, 7, but the 2 classes are 0 '
     'to 1, and 255 is ignored'),
    (lambda root: (root / 'masks/val/a.png').write_bytes(b'no png'),
     'mask .*masks/val/a.png cannot be read'),
    (two_of_many, r'train_dataloader.*of 2 classes all masks together have '
     r'0 \(ground\), besides 255.*saved as 0 and 1'),
])
def test_what_cannot(root, spoil, said):
    cfg = segmentation(root)
    check_masks(cfg)
    spoil(root)
    with pytest.raises(UserError, match=said):
        check_masks(cfg)


def test_the_doctor_says_the_same(root):
    cfg = segmentation(root)
    found = [one.found for one in examine_config(cfg, 1)
             if one.severity == 'ok']
    assert check_masks(cfg)[0] in found
    shutil.rmtree(root / 'masks' / 'train')
    with pytest.raises(MissingFileError) as error:
        check_masks(cfg)
    found = [one.found + one.fix for one in examine_config(cfg, 1)
             if one.severity == 'error']
    assert any(line[:60] == str(error.value)[:60] for line in found), found


def test_what_the_data_set_makes_of_the_values(root):
    """0 ignored and the others one less, or some classes of its own alone."""
    for part in ('train', 'val'):
        for name in ('a', 'b/c'):
            write_mask(root / f'masks/{part}/{name}.png', (0, 1, 2, 3))
    with pytest.raises(UserError, match='values 3, but the 3 classes'):
        check_masks(segmentation(root, tuple('abc')))
    cfg = segmentation(root, tuple('abc'), reduce_zero_label=True)
    assert '3 of 3 classes' in check_masks(cfg)[0]
    cfg = segmentation(root, ('road', 'building'))  # 0 and 2 of Cityscapes
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.dataset.update(
            type='CityscapesDataset', seg_map_suffix='.png')
    assert '2 of 2 classes' in check_masks(cfg)[0]


def test_converters_are_named(root):
    cfg = segmentation(root)
    data = cfg.train_dataloader.dataset.dataset
    data.update(type='PascalVOCDataset', ann_file='aug.txt', metainfo=None)
    with pytest.raises(MissingFileError, match='aug.txt does not.*voc_aug.py'):
        check_masks(cfg)
    data.update(type='CityscapesDataset', ann_file='')
    with pytest.raises(MissingFileError, match='a_gtFine_labelTrainIds.png.*'
                       'dataset_converters/cityscapes.py'):
        check_masks(cfg)


def test_numbers_of_classes(root):
    """Of all heads, before a file is read."""
    cfg = segmentation(root / 'nowhere')
    cfg.model = dict(
        decode_head=[dict(num_classes=2), dict(num_classes=19)],
        auxiliary_head=dict(num_classes=19))
    with pytest.raises(ValueError, match=r'train_dataloader \(BaseSegDataset\)'
                       r' has 2 classes \(ground, cup\), but the config says '
                       'model.decode_head.1.num_classes=19, '
                       'model.auxiliary_head.num_classes=19'):
        check_config(cfg)
    cfg.model = dict(decode_head=dict(num_classes=150))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.dataset.update(type='ADE20KDataset', metainfo=None)
    assert check_config(cfg) == ['model.decode_head.num_classes=150']


def test_other_packages_have_no_such_masks(root):
    cfg = segmentation(root / 'nowhere')
    cfg.default_scope = 'mmdet'
    assert check_masks(cfg) == []
