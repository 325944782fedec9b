"""Photographs that stay on the device, and batches of them."""
import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.dataset import ConcatDataset, DefaultSampler, RepeatDataset
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from cyborgs_plugin.datasets import MaskBank, SceneDataset
from cyborgs_plugin.datasets.device_scenes import DeviceLoader, HeldImages
from cyborgs_plugin.datasets.image_io import read_image
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.ops.view_draws import ViewLaw
from cyborgs_plugin.segmentation import make_round

from ..helpers import FixedMasks, random_maps, write_photo

CPU = torch.device('cpu')
LAWS = [
    ViewLaw(size=(24, 24), flip=0.5, jitter=0.8, brightness=(0.5, 1.5),
            grey=0.2, blur=1.),
    ViewLaw(size=(24, 24), flip=0.5, solarise=0.2)
]


def scenes(photo_root, bank_root, maps=None, number=0):
    found = SceneDataset(
        data_root=str(photo_root), data_prefix=dict(img_path='train2017/'))
    maps = maps or random_maps(number)
    found.use_masks(
        make_round(FixedMasks(maps), found.images(), str(bank_root), number,
                   seed=0))
    return found


def loader_of(dataset, batch_size=4, shuffle=True, seed=0, **kwargs):
    sampler = DefaultSampler(dataset, shuffle=shuffle, seed=5)
    loader = DeviceLoader(
        DataLoader(dataset, batch_size, sampler=sampler, drop_last=True),
        LAWS, CPU, kwargs.pop('side', 999), seed)
    loader.load()
    return loader


@pytest.fixture
def bank_root(tmp_path):
    return tmp_path / 'masks'


def of_photographs(loader, epoch):
    """Views and maps by index, of a whole epoch."""
    loader.epoch = epoch
    loader.sampler.set_epoch(epoch)
    found = {}
    order = [index for batch in loader.batch_sampler for index in batch]
    batches = list(loader)
    views = [torch.cat([batch['inputs'][v] for batch in batches])
             for v in range(2)]
    masks = [sample.mask for batch in batches
             for sample in batch['data_samples']]
    for place, index in enumerate(order):
        found[index] = (views[0][place], views[1][place], masks[place])
    return order, found


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two))


def test_draws_are_the_photographs_own(photo_root, bank_root):
    """Whatever the batch, the order and what was drawn before."""
    dataset = scenes(photo_root, bank_root)
    order, views = of_photographs(loader_of(dataset), 1)
    # a run that is resumed in epoch 1, with another batch and order
    fresh, again = of_photographs(loader_of(dataset, 3, shuffle=False), 1)
    assert order != fresh and sorted(order) == fresh == list(range(12))
    assert all(same(views[index], again[index]) for index in fresh)
    for other in (of_photographs(loader_of(dataset), 2)[1],
                  of_photographs(loader_of(dataset, seed=1), 1)[1]):
        assert not any(same(views[index], other[index]) for index in order)


def test_the_order_is_that_of_the_ordinary_loader(photo_root, bank_root):
    dataset = scenes(photo_root, bank_root)
    loader = loader_of(dataset)
    sampler = DefaultSampler(dataset, shuffle=True, seed=5)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert of_photographs(loader, epoch)[0] == list(sampler)
    assert len(loader) == 3 and loader.drop_last and loader.batch_size == 4


def test_batches_look_like_the_ordinary_ones(photo_root, bank_root):
    init_default_scope('mmpretrain')
    dataset = scenes(photo_root, bank_root)
    dataset.pipeline = Compose([
        dict(type='LoadSceneImage'),
        dict(type='MaskedMultiView', num_views=[2],
             transforms=[[dict(type='MaskedRandomResizedCrop', scale=24)]]),
        dict(type='PackInputs')
    ])
    sample = dataset[0]
    batch = loader_of(dataset).batch([0, 1, 2])
    next(iter(loader := loader_of(dataset)))
    batch = loader.batch([0, 1, 2])
    assert sorted(batch) == sorted(sample)
    for view, expected in zip(batch['inputs'], sample['inputs']):
        assert view.shape == (3, *expected.shape)
        assert view.dtype == expected.dtype == torch.uint8
    mask = batch['data_samples'][0].mask
    expected = sample['data_samples'].mask
    assert (mask.shape, mask.dtype) == (expected.shape, expected.dtype)


def test_views_show_the_photograph(photo_root, bank_root):
    dataset = scenes(photo_root, bank_root)
    loader = loader_of(dataset)
    loader._laws = [
        ViewLaw(size=(48, 64), area=(1., 1.), aspect=(4 / 3, 4 / 3))
    ]
    loader._read_masks()
    batch = loader.batch([1, 5])
    for view, sample, index in zip(batch['inputs'][0], batch['data_samples'],
                                   (1, 5)):
        key, path = dataset.images()[index]
        np.testing.assert_array_equal(view.permute(1, 2, 0), read_image(path))
        label_map = dataset.mask_bank.label_map(key)
        np.testing.assert_array_equal(
            sample.mask[0], label_map.repeat(8, 0).repeat(8, 1))


def test_a_new_round_is_read(photo_root, bank_root):
    dataset = scenes(photo_root, bank_root)
    loader = loader_of(dataset, 12)
    first, = list(loader)
    dataset.use_masks(
        make_round(FixedMasks([maps + 100 for maps in random_maps(0)]),
                   dataset.images(), str(bank_root), 1, seed=0))
    second, = list(loader)
    for one, two in zip(first['data_samples'], second['data_samples']):
        torch.testing.assert_close(one.mask + 100, two.mask)


def test_each_clustering_is_drawn(photo_root, bank_root):
    """And both views see the same one; ids above 255 stay what they are."""
    maps = [np.stack([np.full((6, 8), 300 + i), np.full((6, 8), 400 + i)])
            for i in range(12)]
    loader = loader_of(scenes(photo_root, bank_root, maps), 12)
    seen = set()
    for epoch in range(6):
        for index, (_, _, mask) in of_photographs(loader, epoch)[1].items():
            assert mask.dtype == torch.int32
            drawn, = set(mask.unique().tolist())
            assert drawn in (300 + index, 400 + index)
            seen.add(drawn)
    assert len(seen) > 20


def test_broken_images_are_told_and_replaced(photo_root, bank_root, capsys):
    dataset = scenes(photo_root, bank_root)
    broken = photo_root / 'train2017' / '03.png'
    broken.write_bytes(broken.read_bytes()[:200])
    (photo_root / 'train2017' / '07.png').write_text('no picture')
    loader = loader_of(dataset)
    told = capsys.readouterr().out
    assert told.count('Another image replaces a broken one') == 2
    assert '03.png' in told and '07.png' in told
    assert len(loader.held.whole) == 10
    order, views = of_photographs(loader, 0)
    assert sorted(order) == list(range(12))
    assert all(view.float().std() > 5 for view, _, _ in views.values())
    for path in (photo_root / 'train2017').iterdir():
        path.write_bytes(b'')
    with pytest.raises(UserError, match='All 12 images are broken'):
        loader_of(dataset)


def test_large_photographs_are_reduced(tmp_path):
    large = write_photo(tmp_path / 'a.png', (90, 160))
    small = write_photo(tmp_path / 'b.png', (30, 40), 1)
    paths = [str(tmp_path / name) for name in ('a.png', 'b.png')]
    held = HeldImages([(path, {}) for path in paths], CPU, 80)
    assert held.num_bytes == 3 * (45 * 80 + 30 * 40) + 3 * 80
    held.load()
    np.testing.assert_array_equal(held.image(paths[1]), small)
    reduced = held.image(paths[0])
    assert reduced.shape == (45, 80, 3)
    expected = cv2.resize(large, (80, 45), interpolation=cv2.INTER_AREA)
    assert cv2.absdiff(reduced, expected).mean() < 3
    assert held.image('c.png') is None


def test_photographs_on_their_side_are_held_upright(tmp_path):
    from PIL import Image
    image = write_photo(tmp_path / 'a.png', (60, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(image[..., ::-1]).save(
        tmp_path / 'b.jpg', exif=exif, quality=98)
    path = str(tmp_path / 'b.jpg')
    held = HeldImages([(path, {})], CPU, 50)
    held.load()
    assert held.image(path).shape == (50, 30, 3)


def test_rounds_read_the_held_photographs(photo_root, bank_root, monkeypatch):
    dataset = scenes(photo_root, bank_root)
    before = dict(dataset.read_args)
    loader_of(dataset)
    path = dataset.images()[2][1]
    expected = read_image(path, **before)
    monkeypatch.setattr('cyborgs_plugin.datasets.image_io._content', None)
    np.testing.assert_array_equal(
        read_image(path, **dataset.read_args), expected)
    with pytest.raises(TypeError):
        read_image(path, **before)


def test_joined_and_repeated_data_sets(tmp_path):
    parts = []
    for part in range(2):
        for number in range(12):
            write_photo(tmp_path / f'{part}' / f'{number:02d}.png',
                        (48, 64), 20 * part + number)
        found = SceneDataset(
            data_root=str(tmp_path), data_prefix=dict(img_path=f'{part}/'))
        maps = [np.full((6, 8), 100 * part + i) for i in range(12)]
        found.use_masks(
            make_round(FixedMasks(maps), found.images(),
                       str(tmp_path / f'masks{part}'), 0, seed=0))
        parts.append(found)
    loader = loader_of(ConcatDataset(parts), 24)
    assert loader.held.num_bytes == 24 * 48 * 64 * 3 + 3 * 999
    _, views = of_photographs(loader, 0)
    for index in range(24):
        part, number = divmod(index, 12)
        assert views[index][2].unique().tolist() == [100 * part + number]
    loader = loader_of(RepeatDataset(parts[0], 2), 24)
    assert loader.held.num_bytes == 12 * 48 * 64 * 3 + 3 * 999
    _, twice = of_photographs(loader, 0)
    for index in range(12):  # the repetition draws anew
        assert same(twice[index], views[index])
        assert not same(twice[index], twice[12 + index])


def test_without_masks_the_data_set_says_what_is_missing(photo_root):
    dataset = SceneDataset(
        data_root=str(photo_root), data_prefix=dict(img_path='train2017/'))
    with pytest.raises(RuntimeError, match='MaskUpdateHook'):
        next(iter(loader_of(dataset)))


def test_unlabelled_data_sets_have_no_masks(photo_root):
    init_default_scope('mmpretrain')
    from mmpretrain.datasets import CustomDataset
    dataset = CustomDataset(
        data_root=str(photo_root), data_prefix='train2017/', with_label=False)
    batch = next(iter(loader_of(dataset)))
    assert [view.shape for view in batch['inputs']] == [(4, 3, 24, 24)] * 2
    assert not any('mask' in sample for sample in batch['data_samples'])


def test_a_bank_of_its_own(photo_root, bank_root):
    made = scenes(photo_root, bank_root)
    dataset = SceneDataset(
        data_root=str(photo_root), data_prefix=dict(img_path='train2017/'),
        mask_bank=str(bank_root))
    assert isinstance(dataset.mask_bank, MaskBank)
    one, two = (of_photographs(loader_of(part), 0)[1]
                for part in (made, dataset))
    assert all(same(one[index], two[index]) for index in range(12))


def test_a_process_without_a_photograph_says_so(photo_root, bank_root):
    dataset = scenes(photo_root, bank_root)
    loader = DataLoader(dataset, 3, sampler=DefaultSampler(dataset))
    with pytest.raises(UserError, match='12 photographs .* 13 processes'):
        DeviceLoader(loader, LAWS, CPU, 999, seed=0, part=(12, 13))


def test_a_held_photograph_is_given_as_a_copy(photo_root, bank_root):
    dataset = scenes(photo_root, bank_root)
    held, path = loader_of(dataset).held, dataset.images()[0][1]
    held.image(path)[:] = 0
    assert held.image(path).any()


def test_processes_share_the_photographs(photo_root, bank_root):
    """Each has its own, as many, and draws what the whole would draw."""
    dataset = scenes(photo_root, bank_root)
    _, whole = of_photographs(loader_of(dataset, 12, shuffle=False), 1)
    seen = []
    for number in range(5):
        sampler = DefaultSampler(dataset, shuffle=True, seed=5)
        sampler.num_samples = 3  # of 12 for each of 5
        loader = DeviceLoader(
            DataLoader(dataset, 3, sampler=sampler, drop_last=True), LAWS, CPU,
            999, seed=0, part=(number, 5))
        loader.load()
        assert loader.held.num_bytes < 4 * 48 * 64 * 3
        orders = []
        for epoch in range(8):
            order, views = of_photographs(loader, epoch)
            assert len(order) == len(loader.sampler) == 3
            orders.append(order)
            if epoch == 1:
                assert all(same(views[i], whole[i]) for i in order)
        assert len({tuple(order) for order in orders}) > 1
        mine, = {frozenset(order) for order in orders}
        seen += sorted(mine)
        other = dataset.images()[min(set(range(12)) - mine)][1]
        assert loader.held.image(other) is None
    assert sorted(seen) == list(range(12))
