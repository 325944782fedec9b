"""Fixed mask sources against an independent computation."""
import json

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from cyborgs_plugin.datasets import MaskBank, read_image
from cyborgs_plugin.segmentation import (
    AnnotatedMasks,
    BankMasks,
    FelzenszwalbMasks,
    GridMasks,
    make_round,
    sources,
)

from ..helpers import images_of, network_masks

SEED = (3, 1, 5)


def test_masks_of_another_bank(photo_root, tmp_path):
    images = images_of(photo_root)
    given = make_round(
        network_masks(num_clusterings=2), images, str(tmp_path / 'a'), 4, 1)
    before = given.hash
    copy = make_round(BankMasks(given.path), images, str(tmp_path / 'b'), 0, 9)
    assert copy.round == 0 and copy.num_clusterings == 2
    for key, _ in images:
        for number in range(2):
            np.testing.assert_array_equal(
                copy.label_map(key, number), given.label_map(key, number))
    assert MaskBank.open(given.path, verify=True).hash == before
    with pytest.raises(ValueError, match="round_0004 has no masks of 'x.jpg'"
                       '.*data_root'):
        BankMasks(str(tmp_path / 'a')).label_maps([], ['x.jpg'], SEED)
    with pytest.raises(FileNotFoundError, match='no such folder'):
        BankMasks(str(tmp_path / 'none'))


def test_felzenszwalb_finds_flat_areas():
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, 48:] = (200, 30, 30)
    image[16:48, 8:40] = (20, 220, 120)
    ids, = FelzenszwalbMasks(min_size=200).label_maps([image], ['x'], SEED)
    expected = np.zeros((8, 12))
    expected[:, 6:] = 1
    expected[2:6, 1:5] = 2
    assert adjusted_rand_score(expected.ravel(), ids.ravel()) == 1


def annotated(path, images, annotations):
    """AnnotatedMasks of squares, each of (image id, x, y, side)."""
    path.write_text(json.dumps(dict(
        images=[dict(id=number, file_name=name, height=size[0], width=size[1])
                for number, name, size in images],
        annotations=[
            dict(image_id=number, area=side**2, segmentation=[[
                x, y, x + side, y, x + side, y + side, x, y + side]])
            for number, x, y, side in annotations])))
    return AnnotatedMasks(str(path))


def test_annotations_of_a_file_under_several_ids(tmp_path):
    images = [(1, 'x.jpg', (32, 48)), (2, 'y.jpg', (32, 48)),
              (3, 'x.jpg', (32, 48))]
    squares = [(1, 0, 0, 16), (3, 16, 16, 16), (2, 0, 0, 8), (77, 0, 0, 8)]
    ids, = annotated(tmp_path / 'a.json', images, squares).label_maps(
        [np.zeros((32, 48, 3), np.uint8)], ['x.jpg'], SEED)
    expected = np.zeros((4, 6))
    expected[:2, :2], expected[2:, 2:4] = 1, 2
    np.testing.assert_array_equal(ids, expected)
    images[2] = (3, 'x.jpg', (32, 40))
    with pytest.raises(ValueError, match=r'a.json.*x.jpg.*48.*40'):
        annotated(tmp_path / 'a.json', images, squares)
    images[2] = (1, 'z.jpg', (32, 48))
    with pytest.raises(ValueError, match=r'x.jpg.*z.jpg.*same id 1'):
        annotated(tmp_path / 'a.json', images, squares)
    with pytest.raises(FileNotFoundError, match='gone.json'):
        AnnotatedMasks(str(tmp_path / 'gone.json'))


def test_annotations_of_images_that_lie_in_the_json(tmp_path, monkeypatch):
    """A photograph with an EXIF rotation, as it is read, gets one region."""
    from PIL import Image
    exif = Image.Exif()
    exif[0x0112] = 6
    names = [f'{number}.jpg' for number in range(9)]
    for name in names:
        Image.new('RGB', (48, 32)).save(tmp_path / name, exif=exif)
    images = [read_image(str(tmp_path / name)) for name in names]
    assert images[0].shape == (48, 32, 3)
    json_images = [(number, name, (32, 48)) if number else (0, name, (48, 32))
                   for number, name in enumerate(names)]
    squares = [(number, 0, 0, 16) for number in range(9)]
    logged = []
    monkeypatch.setattr(sources, 'print_log',
                        lambda text, **_: logged.append(text))
    source = annotated(tmp_path / 'a.json', json_images, squares)
    maps = source.label_maps(images[:2], names[:2], SEED)
    assert [ids.shape for ids in maps] == [(6, 4), (6, 4)]
    assert maps[0][:2, :2].all() and not maps[1].any()
    assert len(logged) == 1 and "['1.jpg']" in logged[0]
    assert 'EXIF' in logged[0] and 'a.json' in logged[0]
    source.label_maps(images[2:], names[2:], SEED)
    assert len(logged) == 2 and str(names[2:6]) in logged[1]  # five in all
    source.label_maps(images[2:], names[2:], SEED)
    assert len(logged) == 2
    other = annotated(tmp_path / 'a.json', json_images, squares)
    with pytest.raises(ValueError, match=r"AnnotatedMasks.*'1.jpg'.*EXIF"):
        other.label_maps(images[1:], names[1:], SEED)


def test_fixed_sources(photo_root, tmp_path):
    images = images_of(photo_root)
    bank = make_round(GridMasks((2, 2)), images, str(tmp_path / 'g'), 0, 0)
    assert bank.label_map(images[0][0]).tolist() == [[0, 1], [2, 3]]
    bank = make_round(
        FelzenszwalbMasks(min_size=50), images, str(tmp_path / 'f'), 0, 0)
    assert bank.label_map(images[0][0]).shape == (8, 6)


def test_annotated_masks(tmp_path):
    square = [[0, 0, 16, 0, 16, 16, 0, 16]]
    (tmp_path / 'a.json').write_text(
        json.dumps(
            dict(
                images=[dict(id=1, file_name='x.jpg', height=32, width=48)],
                annotations=[
                    dict(image_id=1, area=256, segmentation=square)
                ])))
    source = AnnotatedMasks(str(tmp_path / 'a.json'), 'train2017/')
    ids, = source.label_maps([], ['train2017/x.jpg'], ())
    expected = np.zeros((4, 6))
    expected[:2, :2] = 1
    np.testing.assert_array_equal(ids, expected)
    with pytest.raises(ValueError, match='other.jpg'):
        source.label_maps([], ['other.jpg'], ())
