"""The page of masks, as a parser without a browser sees it."""
import base64
import hashlib
import os.path as osp

import cv2
import numpy as np
import pytest
import skimage
from sklearn.metrics import adjusted_rand_score

from cyborgs_plugin.visualization import PageImage, write_mask_page

from .pages import ROUNDS, Parsed, cells, content, write_page


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp('page') / 'sub' / 'masks.html'
    images = write_page(path)
    return images, path.read_text()


def is_same_partition(first, second):
    pairs = len({*zip(first.ravel(), second.ravel())})
    return pairs == len(np.unique(first)) == len(np.unique(second))


def test_it_holds_the_pictures_and_all_maps(page):
    images, text = page
    found = content(text)
    assert found['rounds'] == ROUNDS
    assert [f['key'] for f in found['images']] == [i.key for i in images]
    for image, packed in zip(images[:-1], found['images']):
        photo = cv2.imdecode(np.frombuffer(
            base64.b64decode(packed['photo']), np.uint8), cv2.IMREAD_COLOR)
        assert photo.shape[1::-1] == tuple(packed['size'])
        assert abs(photo[..., ::-1] - image.photo.astype(int)).max() <= 4
        maps = cells(packed, 3)
        for own, given in zip(maps, image.maps):
            assert is_same_partition(own, given)
        # colours last
        assert (maps[0] == image.maps[0]).all()
        assert (maps[1] == maps[0]).all()
        assert packed['regions'] == [len(np.unique(m)) for m in image.maps]
        assert packed['agreement'][0] is None
        assert packed['agreement'][1] == 1
        assert packed['agreement'][2] == pytest.approx(adjusted_rand_score(
            image.maps[1].ravel(), image.maps[2].ravel()), abs=1e-4)
    assert found['images'][-1] == dict(
        key='train/broken.png', broken='broken.png: <b>an empty file</b>')


def test_names_are_no_html_and_nothing_is_loaded(page):
    _, text = page
    parsed = Parsed(text)
    assert {attrs['id'] for attrs, _ in parsed.all('input')} == {
        'round', 'opacity', 'search'}
    assert not parsed.all('img') and not parsed.all('link')
    assert not parsed.all('b')
    scripts = parsed.all('script')
    assert len(scripts) == 2
    for _, attrs, _ in parsed.elements:
        assert not {'src', 'href', 'onerror', 'onload'} & set(attrs)
    # the browser runs this script and no other, and loads nothing
    policy, = (attrs['content'] for attrs, _ in parsed.all('meta')
               if attrs.get('http-equiv') == 'Content-Security-Policy')
    digest = base64.b64encode(
        hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'; img-src data:;" in policy
    (_, title), = parsed.all('title')
    assert title == 'Masks of <img src=x onerror=alert(1)>.png'


def test_maps_of_other_sizes_and_of_many_ids(tmp_path):
    random = np.random.default_rng(0)
    photo = random.integers(0, 256, (500, 1000, 3), np.uint8)
    fine = np.arange(200 * 400).reshape(200, 400) // 100
    coarse = random.integers(0, 3, (4, 5))
    path = tmp_path / 'x.html'
    write_mask_page([PageImage('a', photo, [None, fine, coarse]),
                     PageImage('b', photo[:2, :3], [None] * 3)],
                    ROUNDS, '', str(path))
    first, second = content(path.read_text())['images']
    assert first['regions'] == [None, 800, 3] and first['wide']
    assert first['agreement'][:2] == [None, None]
    assert first['size'] == [320, 160] and first['grid'] == [80, 160]
    assert (cells(first, 3)[1] == cv2.resize(
        fine.astype(np.int32), (160, 80), interpolation=cv2.INTER_NEAREST)
        ).mean() > 0.9
    assert second['size'] == [3, 2] and 'maps' not in second


def test_a_picture_needs_a_map_for_each_round(tmp_path):
    image = PageImage('a.png', np.zeros((4, 4, 3), np.uint8), [])
    with pytest.raises(ValueError, match="'a.png' has 0 label maps for 3"):
        write_mask_page([image], ROUNDS, '', str(tmp_path / 'x.html'))
    assert not [*tmp_path.iterdir()]


def test_500_photographs_fit_into_30_mb(tmp_path):
    """Eight rounds of 32 ragged regions, COCO's size, rich photographs."""
    random = np.random.default_rng(0)
    folder = osp.join(osp.dirname(skimage.__file__), 'data')
    images = []
    for name in ('astronaut', 'motorcycle_left', 'coffee', 'grass'):
        photo = cv2.resize(cv2.imread(osp.join(folder, f'{name}.png')),
                           (640, 480), interpolation=cv2.INTER_AREA)
        maps = [
            cv2.GaussianBlur(random.normal(size=(60, 80, 32)), (0, 0),
                             1.5).argmax(2) for _ in range(8)
        ]
        images.append(PageImage(name, photo[..., ::-1], maps))
    size = write_mask_page(images, [str(n) for n in range(8)], '',
                           str(tmp_path / 'x.html'))
    assert size / len(images) * 500 < 30e6
