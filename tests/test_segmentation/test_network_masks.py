"""The options of NetworkMasks against an independent computation."""
import faiss
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from cyborgs_plugin.segmentation import (
    NetworkMasks,
    kmeans,
    make_round,
)
from cyborgs_plugin.segmentation import network_masks as file
from cyborgs_plugin.segmentation.parts import places_of

from ..helpers import (
    IMAGENET,
    images_of,
    network,
    network_masks,
    whole_forward,
    write_photo,
)

SIZES = [(48, 64), (64, 48), (48, 64), (72, 40)]
KEYS = [f'{number}.png' for number in range(4)]
SEED = (3, 1, 5)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    return [
        write_photo(folder / key, size, number)
        for number, (key, size) in enumerate(zip(KEYS, SIZES))
    ]


def maps_of(images, **kwargs):
    return network_masks(**kwargs).label_maps(images, KEYS, SEED)


def flat(maps):
    return np.concatenate([ids.ravel() for ids in maps])


def vectors_of(images, model=None):
    """(M, C) of all locations, by the whole network."""
    model = model or network()
    return torch.cat([
        whole_forward(model, 'layer2.1', image).flatten(0, 1)
        for image in images
    ])


def test_clusters_of_the_whole_networks_features(images):
    random = np.random.default_rng(list(SEED))
    count, seed = random.integers(2, 10), random.integers(2**31)
    expected, _ = kmeans(vectors_of(images), int(count), 20, int(seed))
    maps = maps_of(images)
    assert [ids.shape for ids in maps] == [(6, 8), (8, 6), (6, 8), (9, 5)]
    assert adjusted_rand_score(expected, flat(maps)) > 0.99


def test_threads_do_not_count(images):
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(flat(maps_of(images, num_clusters=9)))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize('num_clusters', [1, 7])
def test_fixed_k(images, num_clusters):
    ids = flat(maps_of(images, num_clusters=num_clusters))
    assert set(ids) == set(range(num_clusters))


def test_k_is_drawn_from_the_whole_closed_range(images):
    source = network_masks(num_clusters=(2, 4))
    found = {
        len(set(flat(source.label_maps(images, KEYS, (0, 0, group)))))
        for group in range(12)
    }
    assert found == {2, 3, 4}


def test_layer_decides_the_grid(images):
    maps = maps_of(images, layer='layer3.1', num_clusters=3)
    assert [ids.shape for ids in maps] == [(3, 4), (4, 3), (3, 4), (5, 3)]


def test_too_high_k_is_logged_once_a_round(images, monkeypatch):
    lines = []
    monkeypatch.setattr(file, 'print_log',
                        lambda text, logger: lines.append(text))
    source = network_masks(num_clusters=100)
    for _ in range(2):
        ids = flat(source.label_maps(images, KEYS, SEED))
        assert ids.max() == 44  # 9 x 5 locations of the smallest
    assert len(lines) == 1
    assert "K = 100 is lowered to 45" in lines[0] and "'3.png'" in lines[0]
    source.prepare(network(), IMAGENET)
    source.label_maps(images, KEYS, SEED)
    assert len(lines) == 2


@pytest.mark.parametrize('num_clusters, locations, most', [
    ((2, 256), [4800, 4700, 1, 4800], 4700),  # below the range's lower end
    ((2, 256), [4800, 4700, 47, 4800], 4700),  # below a hundredth
    ((2, 256), [4800, 4700, 63, 4800], 63),  # the smallest of COCO, about
    (100, [4800, 99, 120, 4800], 120),
    (100, [99, 98, 97, 96], 96),  # all are tiny
    ((2, 256), [1, 1, 1, 4800], 4800),
    ((2, 9), [1], 1)])
def test_tiny_images_do_not_lower_k(num_clusters, locations, most):
    sizes = [(1, number) for number in locations]
    source = network_masks(num_clusters=num_clusters)
    smallest, found = file._smallest(sizes, source.num_clusters[0])
    assert (found, locations[smallest]) == (most, most)


def test_a_single_pixel_leaves_k_alone(images, tmp_path):
    pixel = write_photo(tmp_path / 'x.png', (1, 1))
    ids = flat(network_masks(num_clusters=9).label_maps(
        [*images, pixel], [*KEYS, 'x.png'], SEED))
    assert set(ids) == set(range(9))
    alone, = network_masks(num_clusters=9).label_maps([pixel], ['x'], SEED)
    assert alone.tolist() == [[0]]


def test_max_pixels_bounds_the_maps(images):
    source = network_masks(max_pixels=1024)
    assert [f.shape[0] * f.shape[1] for f in source.features(images)] == [
        4 * 5, 5 * 4, 4 * 5, 6 * 3]
    default = [network_masks(**kwargs)._extractor._reduce_to
               for kwargs in ({}, dict(max_pixels=None))]
    assert 1920 * 1080 <= default[0] < 1600 * 1400 and default[1] is None


def test_principal_components_equal_those_of_sklearn(images):
    points = vectors_of(images)
    found = file._principal(points, 5)
    expected = PCA(5).fit_transform(points.double().numpy())
    found = (found - found.mean(dim=0)).flip(1)  # the largest came last
    np.testing.assert_allclose(
        np.abs(found.numpy()), np.abs(expected), rtol=1e-3, atol=1e-4)
    maps = maps_of(images, pca_dim=5, num_clusters=6)
    assert set(flat(maps)) == set(range(6))
    # k-means of all components is k-means of the points
    whole = maps_of(images, pca_dim=128, num_clusters=6)
    assert adjusted_rand_score(
        flat(whole), flat(maps_of(images, num_clusters=6))) > 0.99
    with pytest.raises(ValueError, match='pca_dim.*128 channels.*129'):
        maps_of(images, pca_dim=129)


def test_position_weight(images):
    places = [places_of(size).tolist() for size in ((2, 2), (1, 4))]
    assert sum(places, []) == [[-.5, -.5], [-.5, .5], [.5, -.5], [.5, .5],
                               [0, -.75], [0, -.25], [0, .25], [0, .75]]
    maps = maps_of(images, position_weight=1e3, num_clusters=5)
    # place alone counts: pictures of one size have one map
    np.testing.assert_array_equal(maps[0], maps[2])
    plain = maps_of(images, num_clusters=5)
    assert (plain[0] != plain[2]).any()
    np.testing.assert_array_equal(
        flat(plain),
        flat(maps_of(images, position_weight=0., num_clusters=5)))


def test_iterations_lower_the_inertia(images):
    points = vectors_of(images)

    def inertia(num_iters):
        ids = torch.from_numpy(
            flat(maps_of(images, num_clusters=9, num_iters=num_iters)))
        return sum((points[ids == k] - points[ids == k].mean(0)).square()
                   .sum().item() for k in range(9))

    assert inertia(20) < inertia(3) < inertia(0)


def test_several_clusterings(images):
    several = maps_of(images, num_clusterings=3)
    assert [ids.shape for ids in several] == [(3, 6, 8), (3, 8, 6), (3, 6, 8),
                                              (3, 9, 5)]
    for one, maps in zip(maps_of(images), several):
        np.testing.assert_array_equal(one, maps[0])
    first, second, third = (flat([ids[i] for ids in several])
                            for i in range(3))
    assert (first != second).any() and (second != third).any()


def test_several_clusterings_in_a_bank(photo_root, tmp_path):
    images = images_of(photo_root)
    bank, one = (make_round(
        network_masks(num_clusterings=number), images,
        str(tmp_path / str(number)), 0, 1, group_size=5) for number in (2, 1))
    assert bank.num_clusterings == 2
    for key, _ in images:
        np.testing.assert_array_equal(
            bank.label_map(key, 0), one.label_map(key))
    assert any((bank.label_map(key, 0) != bank.label_map(key, 1)).any()
               for key, _ in images)


def test_faiss_backend_equals_faiss(images):
    random = np.random.default_rng(list(SEED))
    count, seed = int(random.integers(6, 7)), int(random.integers(2**31))
    points = network_masks()._extractor(images)
    points = torch.cat([part.flatten(0, 1) for part in points]).numpy()
    oracle = faiss.Kmeans(128, count, niter=20, seed=seed,
                          min_points_per_centroid=1)
    oracle.train(points)
    expected = oracle.assign(points)[1]
    found = maps_of(images, backend='faiss', num_clusters=6)
    np.testing.assert_array_equal(flat(found), expected)


def test_faiss_that_is_missing(monkeypatch):
    monkeypatch.setattr(file, 'find_spec', lambda name: None)
    NetworkMasks()
    with pytest.raises(ImportError, match='backend.*pip install faiss-cpu'):
        NetworkMasks(backend='faiss')


def test_bfloat16_is_nearly_the_same(images):
    exact, fast = (torch.cat([
        vectors.flatten(0, 1)
        for vectors in network_masks(dtype=dtype)._extractor(images)
    ]) for dtype in ('float32', 'bfloat16'))
    assert fast.dtype == torch.float32 and not torch.equal(exact, fast)
    torch.testing.assert_close(fast.norm(dim=1), torch.ones(len(fast)))
    assert (exact * fast).sum(dim=1).min() > 0.999


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_weights_of_a_file(images, tmp_path, prefix):
    other, path = network(1), tmp_path / 'other.pth'
    state = {prefix + name: value for name, value in
             other.state_dict().items() if 'num_batches' not in name}
    torch.save(dict(state_dict=state | {'head.fc': torch.zeros(1)}), path)
    source = NetworkMasks('layer2.1', 6, checkpoint=str(path))
    model = network(0)
    source.prepare(source.network(model), IMAGENET)
    expected = NetworkMasks('layer2.1', 6)
    expected.prepare(other, IMAGENET)
    for one, two in zip(source.label_maps(images, KEYS, SEED),
                        expected.label_maps(images, KEYS, SEED)):
        np.testing.assert_array_equal(one, two)
    assert torch.equal(model.conv1.weight, network(0).conv1.weight)


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / 'wrong.pth'
    source = NetworkMasks('layer2.1', checkpoint=str(path))
    torch.save({'net.conv1.weight': torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r'wrong.pth .*lacks .*conv1.weight'):
        source.network(network())
    torch.save(dict(message_hub=HistoryBuffer()), path)
    with pytest.raises(ValueError, match='is refused'):
        source.network(network())


@pytest.mark.parametrize('option, value', [
    ('num_iters', -1), ('num_clusterings', 0), ('pca_dim', 0),
    ('position_weight', -1.), ('reflect', 16), ('smooth', -1.),
    ('long_side', 8), ('max_pixels', 9), ('kmeans_init', 'kmeans'),
    ('backend', 'sklearn'),
    ('dtype', 'float16')])
def test_bad_options_name_their_key(option, value):
    with pytest.raises(ValueError, match=f'mask_update.source.{option} must '
                       f'be .*{value}'):
        NetworkMasks(**{option: value})


def test_start_of_kmeans(images):
    """Before any iteration one is closer to its centroids."""
    points = vectors_of(images)

    def inertia(kmeans_init):
        ids = torch.from_numpy(flat(maps_of(
            images, num_clusters=9, num_iters=0, kmeans_init=kmeans_init)))
        return sum((points[ids == k] - points[ids == k].mean(0)).square()
                   .sum().item() for k in range(9))

    assert inertia('k-means++') < inertia('random')
    with pytest.raises(ValueError, match='kmeans_init must be .*faiss'):
        NetworkMasks(kmeans_init='k-means++', backend='faiss')


@pytest.mark.parametrize('bad', [0, (5, 2), (1, 2, 3), 70000])
def test_bad_ranges_of_k(bad):
    with pytest.raises(ValueError, match='num_clusters'):
        NetworkMasks(num_clusters=bad)


class Patches(torch.nn.Module):
    """Averages patches, as tokens behind class tokens or as maps."""

    def __init__(self, stride, layout):
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 6, stride, stride)
        self.layer = torch.nn.Identity()
        self.layout = layout
        torch.nn.init.normal_(self.embed.weight)

    def forward(self, x):
        x = self.embed(x)
        if self.layout == 'NHWC':
            x = x.permute(0, 2, 3, 1)
        elif self.layout.startswith('NLC'):
            x = x.flatten(2).transpose(1, 2)
            x = torch.cat([x[:, :int(self.layout[3:])], x], 1)
        return self.layer(x)


@pytest.mark.parametrize('stride', [4, 14, 16])
@pytest.mark.parametrize('layout', ['NLC0', 'NLC1', 'NLC5', 'NHWC', 'NCHW'])
@pytest.mark.parametrize('more', [(0, 0), (3, 1)])
def test_a_bright_square_is_labelled_where_it_is(stride, layout, more):
    """Sizes that are no multiples of the stride too."""
    torch.manual_seed(0)
    image = np.full((7 * stride + more[0], 9 * stride + more[1], 3), 60,
                    np.uint8)
    image[2 * stride:4 * stride, 5 * stride:8 * stride] = 240
    source = NetworkMasks('layer', 2, kmeans_init='k-means++')
    source.prepare(Patches(stride, layout), IMAGENET)
    labels, = source.label_maps([image], ['a'], [0, 0, 0])
    expected = np.zeros((7 + (more[0] > 0), 9 + (more[1] > 0)), bool)
    expected[2:4, 5:8] = True
    np.testing.assert_array_equal(labels == labels[2, 5], expected)
