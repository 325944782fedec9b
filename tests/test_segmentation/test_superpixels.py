"""Masks of superpixels: means and clusters against loops, edges, rounds."""
import os.path as osp
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import TASK_UTILS
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.datasets.mask_bank import round_path
from cyborgs_plugin.engine import MaskUpdateHook
from cyborgs_plugin.engine.mask_update_hook import ORIGIN_KEY
from cyborgs_plugin.ops.superpixels import find_superpixels
from cyborgs_plugin.segmentation import (
    MaskRoundError,
    NetworkMasks,
    SuperpixelMasks,
    kmeans,
    make_round,
)
from cyborgs_plugin.segmentation import (
    network_masks as file,
)
from cyborgs_plugin.segmentation.parts import Parts

from ..helpers import (
    ROOT,
    images_of,
    in_processes,
    network,
    network_masks,
    small_run,
    whole_forward,
    write_photo,
)

SMALL = dict(type='Felzenszwalb', scale=10, sigma=0.5, min_size=8)
SIZES = [(96, 128), (128, 96), (96, 128), (120, 72)]
KEYS = [f'{number}.png' for number in range(4)]
SEED = (3, 1, 5)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    return [write_photo(folder / key, size, number)
            for number, (key, size) in enumerate(zip(KEYS, SIZES))]


def maps_of(images, **kwargs):
    return network_masks(superpixels=SMALL, **kwargs).label_maps(
        images, KEYS, SEED)


def flat(maps):
    return np.concatenate([ids.ravel() for ids in maps])


def naive_parts(images, place=0., colour=0., layer='layer2.1'):
    """Points and weights of superpixels, one after the other, and maps."""
    points, weights, maps = [], [], []
    for image in images:
        found = find_superpixels(image, **SMALL)
        features = whole_forward(network(), layer, image)
        maps.append(found.ids + len(points))
        for number, count in enumerate(found.counts):
            mine = [features[row, col] for row in range(len(found.ids))
                    for col in range(found.ids.shape[1])
                    if found.ids[row, col] == number]
            assert len(mine) == count
            mean = sum(mine) / len(mine)
            points.append(torch.cat([
                mean / mean.norm(), place * torch.tensor(found.places[number]),
                colour * torch.tensor(found.colours[number])]))
            weights.append(count)
    return torch.stack(points), torch.tensor(weights), maps


@pytest.mark.parametrize('place, colour', [(0., 0.), (.6, .6)])
@pytest.mark.parametrize('init', ['random', 'k-means++'])
def test_equals_clusters_of_a_naive_loop(images, place, colour, init):
    points, weights, naive = naive_parts(images, place, colour)
    assert len(points) > 40
    random = np.random.default_rng(list(SEED))
    count, seed = random.integers(2, 10), random.integers(2**31)
    labels, _ = kmeans(points, int(count), 20, int(seed), init, weights)
    maps = maps_of(images, position_weight=place, colour_weight=colour,
                   kmeans_init=init)
    assert [ids.shape for ids in maps] == [(12, 16), (16, 12), (12, 16),
                                           (15, 9)]
    expected = flat([labels.numpy()[ids] for ids in naive])
    assert adjusted_rand_score(expected, flat(maps)) > 0.99


@pytest.mark.parametrize('linkage', ['average', 'ward'])
def test_merging_equals_scikit_learn(images, linkage):
    points, _, naive = naive_parts(images, .6, .6)
    count = int(np.random.default_rng(list(SEED)).integers(2, 10))
    labels = AgglomerativeClustering(
        count, linkage=linkage).fit_predict(points.double().numpy())
    maps = maps_of(images, position_weight=.6, colour_weight=.6,
                   linkage=linkage)
    expected = flat([labels[ids] for ids in naive])
    assert adjusted_rand_score(expected, flat(maps)) > 0.99


@pytest.mark.parametrize('kwargs', [
    {}, dict(num_clusterings=3), dict(linkage='average', num_clusterings=2),
    dict(linkage='ward', pca_dim=5), dict(pca_dim=5),
    dict(smooth=16, reflect=32), dict(long_side=256),
    dict(backend='faiss'), dict(layer='layer3.1'),
    dict(position_weight=.5, colour_weight=.5, kmeans_init='k-means++',
         num_clusterings=2, pca_dim=4, smooth=8)])
def test_a_superpixel_is_never_cut(images, kwargs):
    source = network_masks(superpixels=SMALL, **kwargs)
    maps = source.label_maps(images, KEYS, SEED)
    for image, ids in zip(images, maps):
        superpixels = source.preprocess(image).superpixels.ids
        for labels in ids.reshape(-1, *superpixels.shape):
            for number in range(superpixels.max() + 1):
                assert len(set(labels[superpixels == number])) == 1
    if source.num_clusterings > 1:
        first, second = (flat([ids[i] for ids in maps]) for i in range(2))
        assert (first != second).any()


def test_weights_decide(images):
    """The principal component and the clusters are those of the cells."""
    source = network_masks(superpixels=SMALL, num_clusters=3, num_iters=100,
                           kmeans_init='k-means++')
    parts = source.features(images)
    labels = flat(source.cluster([*parts], KEYS, SEED))
    cells = torch.cat([part.vectors[part.ids.ravel()] for part in parts])
    means = torch.stack([cells[labels == k].mean(dim=0) for k in range(3)])
    nearest = torch.cdist(cells, means).argmin(dim=1)
    assert (nearest.numpy() == labels).mean() > 0.99
    vectors = torch.cat([part.vectors for part in parts])
    counts = torch.cat([part.counts for part in parts])
    found = file._principal(vectors, 1, counts)[:, 0]
    expected = torch.linalg.eigh(cells.double().T.cov())[1][:, -1].float()
    assert abs(np.corrcoef(found, vectors @ expected)[0, 1]) > 0.999


@pytest.mark.parametrize('smooth', [0, 32])
def test_edges_of_a_bright_square_are_followed_exactly(smooth):
    image = np.full((320, 384, 3), 40, np.uint8)
    image[96:224, 128:272] = (60, 200, 240)
    source = network_masks(
        superpixels=dict(type='Felzenszwalb', min_size=200), smooth=smooth,
        num_clusters=2, kmeans_init='k-means++', reflect=32)
    ids, = source.label_maps([image], ['x'], SEED)
    square = np.zeros((40, 48), bool)
    square[12:28, 16:34] = True
    assert adjusted_rand_score(square.ravel(), ids.ravel()) == 1


def test_smooth_stands_beside_the_plain(images):
    plain, averaged = (network_masks(superpixels=SMALL, smooth=smooth)
                       .features(images) for smooth in (0, 16))
    for one, two in zip(plain, averaged):
        assert one.vectors.shape[1] == 128 and two.vectors.shape[1] == 256
        torch.testing.assert_close(one.vectors, two.vectors[:, :128])
        halves = two.vectors.unflatten(1, (2, -1))
        torch.testing.assert_close(
            halves.norm(dim=2), torch.ones(len(two.vectors), 2))
        assert (halves[:, 0] - halves[:, 1]).abs().max() > 1e-2
    alone = network_masks(superpixels=SMALL, smooth=16, plain_weight=0)
    for one, two in zip(alone.features(images), averaged):
        torch.testing.assert_close(one.vectors, two.vectors[:, 128:])
    half = network_masks(superpixels=SMALL, smooth=16, plain_weight=0.5)
    for one, two in zip(half.features(images), averaged):
        torch.testing.assert_close(one.vectors[:, :128],
                                   two.vectors[:, :128] / 2)
        assert torch.equal(one.vectors[:, 128:], two.vectors[:, 128:])


def test_of_the_features_only_means_are_held(images):
    for part, image in zip(
            network_masks(superpixels=SMALL).features(images), images):
        assert isinstance(part, Parts)
        assert len(part.vectors) == part.ids.max() + 1 < image.size / 3 / 64
        assert part.vectors.untyped_storage().nbytes() == (
            4 * part.vectors.numel())


def test_a_look_stands_for_its_image(images):
    source = network_masks(superpixels=SMALL, long_side=160)
    prepared = [source.preprocess(image) for image in images]
    assert [max(one.image.shape) for one in prepared] == [160] * 4
    for one, two in zip(source.label_maps(images, KEYS, SEED),
                        source.label_maps(prepared, KEYS, SEED)):
        np.testing.assert_array_equal(one, two)
    assert network_masks().preprocess(images[0]) is images[0]


def test_colour_of_cells_without_superpixels(images):
    square = np.zeros((64, 64, 3), np.uint8)
    square[:32, :32] = square[32:, 32:] = 255
    ids, = network_masks(colour_weight=1e3, num_clusters=2).label_maps(
        [square], ['x'], SEED)
    expected = np.kron(np.eye(2), np.ones((4, 4)))
    assert adjusted_rand_score(expected.ravel(), ids.ravel()) == 1
    plain = network_masks(num_clusters=5).label_maps(images, KEYS, SEED)
    coloured = network_masks(num_clusters=5, colour_weight=1.).label_maps(
        images, KEYS, SEED)
    assert (flat(plain) != flat(coloured)).any()


def test_k_is_lowered_to_the_superpixels_of_the_group(images, monkeypatch):
    lines = []
    monkeypatch.setattr(file, 'print_log',
                        lambda text, logger: lines.append(text))
    source = network_masks(superpixels=SMALL, num_clusters=5000)
    number = sum(len(part.vectors) for part in source.features(images))
    ids = flat(source.label_maps(images, KEYS, SEED))
    assert len(set(ids)) == ids.max() + 1 == number
    assert f'lowered to {number}, the number of superpixels' in lines[0]
    assert "'0.png'" in lines[0] and len(lines) == 1


def round_of(photo_root, root, threads=2, **source):
    source = network_masks(**(dict(superpixels=SMALL, num_clusters=6)
                              | source))
    return make_round(source, images_of(photo_root), str(root), 0, 7,
                      group_size=5, decode_threads=threads)


def test_rounds_are_the_same_each_time(photo_root, tmp_path):
    bank, *others = (round_of(photo_root, tmp_path / str(number), threads)
                     for number, threads in enumerate((1, 1, 3)))
    assert [other.hash for other in others] == [bank.hash] * 2
    plain = round_of(photo_root, tmp_path / 'plain', superpixels=None)
    assert plain.hash != bank.hash
    for key in bank.keys():
        assert bank.label_map(key).dtype == np.uint8
        assert bank.label_map(key).shape == plain.label_map(key).shape


def test_torch_threads_do_not_count(images):
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(flat(maps_of(images, num_clusters=9, smooth=8)))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*made)


@pytest.mark.slow
def test_two_ranks_make_the_round_of_one(photo_root, tmp_path):
    bank = round_of(photo_root, tmp_path / 'one')
    codes, logs = in_processes(
        2, lambda rank: round_of(photo_root, tmp_path / 'two'),
        tmp_path / 'log')
    assert codes == [0, 0], logs
    assert MaskBank.open(tmp_path / 'two' / 'round_0000').hash == bank.hash


def test_nan_names_the_image(photo_root, tmp_path):
    source = network_masks(superpixels=SMALL)
    source._extractor._backbone.conv1.weight.data.fill_(float('inf'))
    with pytest.raises(MaskRoundError, match=r'train2017/\d+\.png') as error:
        make_round(source, images_of(photo_root), str(tmp_path / 'm'), 0, 0)
    assert error.value.diverged


OPTIONS = {
    'default_hooks.mask_update.source.superpixels': SMALL,
    'default_hooks.mask_update.source.colour_weight': 0.6,
    'default_hooks.mask_update.source.linkage': 'average'}


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_a_run_resumes_and_makes_its_round_again(photo_root, tmp_path):
    work, masks = tmp_path / 'w', str(tmp_path / 'w' / 'masks')
    small_run(photo_root, work, **OPTIONS,
              **{'train_cfg.max_epochs': 2}).train()
    saved = torch.load(work / 'epoch_1.pth', weights_only=False)
    origin = saved[ORIGIN_KEY]
    assert origin['source']['superpixels'] == SMALL
    assert origin['source']['colour_weight'] == 0.6
    hashes = [MaskBank.open(round_path(masks, n)).hash for n in range(2)]
    (work / 'last_checkpoint').write_text(str(work / 'epoch_1.pth'))
    for number in range(2):
        shutil.rmtree(round_path(masks, number))
    runner = small_run(photo_root, work, resume=True, experiment_name='again',
                       **OPTIONS, **{'train_cfg.max_epochs': 2})
    hook, = (hook for hook in runner.hooks
             if isinstance(hook, MaskUpdateHook))
    runner.train_loop  # noqa: B018
    hook.find_data(runner)
    hook.root = masks
    assert hook.make_again(runner, saved).hash == hashes[0]
    runner.train()
    assert hashes == [
        MaskBank.open(round_path(masks, n)).hash for n in range(2)]


def test_superpixels_without_a_network(images):
    source = TASK_UTILS.build(dict(
        type='SuperpixelMasks', superpixels=SMALL, num_clusters=5,
        long_side=None))
    assert not source.uses_network
    maps = source.label_maps(images, KEYS, SEED)
    assert len(set(flat(maps))) == 5
    # by hand: colour and place of each, weighted by its cells
    alone, = source.label_maps(images[:1], KEYS, SEED)
    random = np.random.default_rng(list(SEED))
    random.integers(5, 6)
    found = find_superpixels(images[0], **SMALL)
    labels, _ = kmeans(
        torch.from_numpy(np.hstack([found.places, found.colours])), 5,
        seed=int(random.integers(2**31)), init='k-means++',
        weights=torch.from_numpy(found.counts))
    np.testing.assert_array_equal(alone, labels.numpy()[found.ids])
    with pytest.raises(ValueError, match='are both 0'):
        SuperpixelMasks(position_weight=0, colour_weight=0)


def test_a_round_without_a_network(photo_root, tmp_path):
    bank = make_round(SuperpixelMasks(SMALL, 4, long_side=None),
                      images_of(photo_root), str(tmp_path / 'm'), 0, 0)
    assert bank.label_map('train2017/01.png').shape == (6, 8)


@pytest.mark.parametrize('found, match', [
    ('Felzenszwalb', "superpixels must be None, or dict.*'Felzenszwalb'"),
    ({}, 'superpixels must be None, or dict'),
    (dict(scale=3), 'superpixels must be None, or dict'),
    (dict(type='Slic'), "superpixels: type must be .*'Slic'"),
    (dict(type='SLIC', scale=3), 'superpixels: scale is no option of SLIC'),
    (dict(type='Felzenszwalb', stride=3), 'superpixels: stride must be')])
def test_bad_options_name_their_key(found, match):
    with pytest.raises(ValueError, match=f'mask_update.source.{match}'):
        NetworkMasks(superpixels=found)


def test_bad_colour_weight():
    with pytest.raises(ValueError, match='source.colour_weight must be .*-1'):
        NetworkMasks(colour_weight=-1)
    with pytest.raises(ValueError, match='source.plain_weight must be .*-1'):
        NetworkMasks(plain_weight=-1)


def test_bad_linkage():
    with pytest.raises(ValueError, match='source.linkage must be .*average'):
        NetworkMasks(superpixels=SMALL, linkage='single')
    with pytest.raises(ValueError, match='source.linkage .* too many cells'):
        NetworkMasks(linkage='average')
    with pytest.raises(ValueError, match='num_clusterings must be 1 where'):
        NetworkMasks(superpixels=SMALL, linkage='ward', num_clusters=8,
                     num_clusterings=2)


def test_recipes_differ_in_their_source_only():
    found, plain = (
        Config.fromfile(osp.join(ROOT, 'configs', f'{path}.py')).to_dict()
        for path in ('ablations/continue_superpixels', 'cyborgs_continue'))
    more = dict(found.pop('superpixel_masks'), plain_weight=0)
    assert more['superpixels'] == dict(type='Felzenszwalb')
    plain['default_hooks']['mask_update']['source'].update(more)
    assert found == plain
    TASK_UTILS.build(found['default_hooks']['mask_update']['source'])


@pytest.mark.parametrize('name', [
    'cyborgs_small_data', 'cyborgs_toy', 'cyborgs_toy_rtmdet_tiny'])
def test_recipes_of_small_data_have_the_shared_settings(name):
    """Those of the base config, merged or not."""
    cfg = Config.fromfile(osp.join(ROOT, 'configs', f'{name}.py'))
    shared = Config.fromfile(osp.join(
        ROOT, 'configs', '_base_', 'masks', 'superpixels.py'))
    expected = shared.superpixel_masks.to_dict()
    source = cfg.default_hooks.mask_update.source
    merged = name == 'cyborgs_small_data'
    assert source.linkage == ('average' if merged else None)
    if merged:  # no k-means
        expected.pop('kmeans_init')
    assert {key: source.get(key) for key in expected} == expected
    assert cfg.default_hooks.mask_update.group_size == 1
    assert TASK_UTILS.build(source).superpixels


def test_cells_by_the_command_line():
    """As docs/mask_update.md says, from the recipe of small data."""
    cfg = Config.fromfile(
        osp.join(ROOT, 'configs', 'cyborgs_small_data.py'))
    update = 'default_hooks.mask_update'
    cfg.merge_from_dict({
        f'{update}.source.superpixels': None, f'{update}.source.linkage': None,
        f'{update}.source.position_weight': 0.,
        f'{update}.source.colour_weight': 0., f'{update}.group_size': 16})
    cells = Config.fromfile(osp.join(
        ROOT, 'configs', 'ablations', 'small-data_cells.py'))
    found, expected = (
        vars(TASK_UTILS.build(config.default_hooks.mask_update.source))
        for config in (cfg, cells))
    for one in (found, expected):
        one.pop('plain_weight')  # of superpixels alone
        one.pop('_kmeans')  # a function, equal to itself alone
    assert found == expected
    assert cfg.default_hooks.mask_update.group_size == (
        cells.default_hooks.mask_update.group_size)
