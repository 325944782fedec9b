"""Scene data sets: what they list, and what they say of bad input."""
import json

import cv2
import numpy as np
import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset
from mmengine.registry import init_default_scope
from mmpretrain.registry import TRANSFORMS

from cyborgs_plugin.datasets import (
    BrokenImageError,
    FastRandomFlip,
    FastRandomResizedCrop,
    LoadSceneImage,
    MaskedMultiView,
    SceneDataset,
    read_image,
    scene_datasets,
)
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.ops import crop_label_map
from cyborgs_plugin.segmentation import GridMasks, MaskSource, make_round

from ..helpers import write_photo
from ..test_ops.test_batch_views import statistics


def scenes(root, **kwargs):
    kwargs.setdefault('data_prefix', dict(img_path='train2017/'))
    kwargs.setdefault('pipeline', [LoadSceneImage()])
    return SceneDataset(data_root=str(root), **kwargs)


def with_masks(data, tmp_path):
    data.use_masks(
        make_round(GridMasks((2, 3)), data.images(), str(tmp_path / 'masks'),
                   0, 0))
    return data


def test_folder_is_listed_with_keys(photo_root, tmp_path):
    write_photo(photo_root / 'train2017' / 'sub' / 'x.JPG')
    (photo_root / 'train2017' / 'notes.txt').write_text('no image')
    data = with_masks(scenes(photo_root), tmp_path)
    keys = [key for key, _ in data.images()]
    assert keys[0] == 'train2017/00.png' and len(data) == 13
    assert 'train2017/sub/x.JPG' in keys
    sample = data[0]
    assert sample['gt_seg_map'].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert sample['img'].ndim == 3


def test_images_are_a_sequence(photo_root):
    data = scenes(photo_root)
    images = data.images()
    path = str(photo_root / 'train2017' / '03.png')
    assert images[3] == images[-9] == ('train2017/03.png', path)
    assert images[2:4] == [images[2], images[3]]
    assert len(list(images)) == len(images) == 12
    with pytest.raises(IndexError):
        images[12]


def test_one_of_several_clusterings_is_drawn(photo_root, tmp_path):
    class Numbers(MaskSource):
        num_clusterings = 3

        def label_maps(self, images, keys, seed):
            return [np.array([[[0]], [[1]], [[2]]]) for _ in images]

    data = scenes(photo_root)
    data.use_masks(
        make_round(Numbers(), data.images(), str(tmp_path / 'm'), 0, 0))
    np.random.seed(0)
    drawn = [int(data[5]['gt_seg_map'].squeeze()) for _ in range(60)]
    assert min(np.bincount(drawn, minlength=3)) > 9
    np.random.seed(0)  # as worker processes do
    assert drawn == [
        int(data[5]['gt_seg_map'].squeeze()) for _ in range(60)]
    before = np.random.get_state()[1].copy()
    with_masks(data, tmp_path / 'single')[5]  # nothing to draw
    assert (np.random.get_state()[1] == before).all()


def test_absolute_folder_alone(photo_root):
    data = scenes(
        'data/nowhere',
        data_prefix=dict(img_path=str(photo_root / 'train2017')))
    assert data.images()[0][0] == '00.png'


@pytest.mark.parametrize('prefix', ['train2017', 'train2017/'])
def test_folder_as_text(photo_root, prefix):
    write_photo(photo_root / 'other' / 'x.png')
    data = scenes(photo_root, data_prefix=prefix)
    assert len(data) == 12 and data.images()[0][0] == 'train2017/00.png'


@pytest.mark.parametrize('prefix', [
    dict(img='train2017/'), dict(img_path='', img='train2017/')])
def test_other_keys_of_the_prefix_are_refused(photo_root, prefix):
    with pytest.raises(ValueError, match='takes img_path, found img: set '
                       r"data_prefix=dict\(img_path='train2017/'\)"):
        scenes(photo_root, data_prefix=prefix)


@pytest.mark.parametrize('option, value', [
    ('data_prefix', dict(img_path=[])), ('data_prefix', dict(img_path=3)),
    ('data_prefix', dict(img_path=['a', 3])), ('ann_file', ['a.json']),
    ('extensions', ''), ('extensions', '.'), ('extensions', ()),
    ('extensions', ['*.png', '.jpg']), ('extensions', '.png .jpg'),
    ('indices', 13), ('indices', -13), ('indices', 0), ('indices', []),
    ('indices', [3, 12]), ('indices', [-13])])
def test_bad_options_name_their_key(photo_root, option, value):
    with pytest.raises(ValueError, match=f'SceneDataset.{option}'):
        scenes(photo_root, **{option: value})


@pytest.mark.parametrize('extensions, expected', [
    ('.png', ['a.png', 'b.PNG']),
    ('PNG', ['a.png', 'b.PNG']),
    (['Png', '.JPG'], ['a.png', 'b.PNG', 'c.jpg']),
    ('.png,.jpg', ['a.png', 'b.PNG', 'c.jpg']),
    ('png, jpg', ['a.png', 'b.PNG', 'c.jpg']),
    (('.tar.gz', ), ['e.tar.gz'])])
def test_endings(tmp_path, extensions, expected):
    names = ['a.png', 'b.PNG', 'c.jpg', 'd.txt', 'e.tar.gz', 'png', 'f.gpn']
    for name in names:
        (tmp_path / name).touch()
    data = scenes(tmp_path, data_prefix='', extensions=extensions)
    assert [key for key, _ in data.images()] == expected


@pytest.mark.parametrize('indices, expected', [
    (12, range(12)), (2, [0, 1]), (-1, [11]), (-12, range(12)),
    ([11, -12], [11, 0])])
def test_part_of_the_images(photo_root, indices, expected):
    data = scenes(photo_root, indices=indices)
    assert [key for key, _ in data.images()] == [
        f'train2017/{number:02d}.png' for number in expected]


def test_json_lists_images_and_absent_ones_are_left_out(photo_root, caplog):
    content = dict(images=[
        dict(file_name=name) for name in ('03.png', '01.png', 'gone.png')
    ])
    (photo_root / 'a.json').write_text(json.dumps(content))
    data = scenes(photo_root, ann_file='a.json')
    assert [key for key, _ in data.images()
            ] == ['train2017/03.png', 'train2017/01.png']


@pytest.mark.parametrize('content', ['[]', '{"annotations": []}',
                                     '{"images": [{"id": 3}]}'])
def test_json_without_images(photo_root, content):
    (photo_root / 'a.json').write_text(content)
    with pytest.raises(ValueError, match='a.json'):
        scenes(photo_root, ann_file='a.json')


def two_folders(tmp_path):
    """Two cameras, whose files have the same names."""
    for number, name in enumerate(('a', 'b')):
        for image in range(3 + number):
            write_photo(tmp_path / name / 'cam' / f'{image}.png',
                        seed=10 * number + image)
    return [str(tmp_path / name / 'cam') for name in ('a', 'b')]


def test_several_folders(tmp_path):
    folders = two_folders(tmp_path)
    data = with_masks(scenes('', data_prefix=dict(img_path=folders)),
                      tmp_path)
    assert list(data.images()) == [
        (f'{name}/cam/{image}.png', str(tmp_path / name / 'cam' /
                                        f'{image}.png'))
        for name, number in (('a', 3), ('b', 4)) for image in range(number)]
    expected = read_image(f'{folders[1]}/2.png')
    np.testing.assert_array_equal(data[5]['img'], expected)
    relative = scenes(tmp_path, data_prefix=dict(img_path=['a', 'b/cam/']))
    assert list(relative.images()) == list(data.images())
    with pytest.raises(FileNotFoundError, match='c'):
        scenes(tmp_path, data_prefix=dict(img_path=['a', 'c']))
    with pytest.raises(UserError, match='in both: name one'):
        scenes(tmp_path, data_prefix=dict(img_path=['a', 'a/cam']))


@pytest.mark.parametrize('text, expected', [
    ('01.png\n\n  00.png \r\n01.png\n',
     ['train2017/01.png', 'train2017/00.png']),
    ('train2017\\01.png\ngone.png', ['train2017/01.png'])])
def test_a_text_lists_images(photo_root, text, expected):
    (photo_root / 'list.txt').write_text(text)
    data = scenes(photo_root, ann_file='list.txt')
    assert [key for key, _ in data.images()] == expected


def test_a_text_lists_images_of_several_folders(tmp_path):
    folders = two_folders(tmp_path)
    (tmp_path / 'list.txt').write_text('b/cam/3.png\na/cam/0.png\n3.png')
    data = scenes(tmp_path, data_prefix=dict(img_path=folders),
                  ann_file='list.txt')
    assert [key for key, _ in data.images()] == ['b/cam/3.png', 'a/cam/0.png']
    (tmp_path / 'list.txt').write_text('0.png')
    with pytest.raises(UserError, match="0.png', which may mean"):
        scenes(tmp_path, data_prefix=dict(img_path=folders),
               ann_file='list.txt')
    (tmp_path / 'list.txt').write_bytes(b'\xff\xfe0')
    with pytest.raises(UserError, match='list.txt: expected text in UTF-8'):
        scenes(tmp_path, data_prefix='a', ann_file='list.txt')
    with pytest.raises(FileNotFoundError, match='gone.txt'):
        scenes(tmp_path, data_prefix='a', ann_file='gone.txt')


def test_missing_things(photo_root, tmp_path):
    with pytest.raises(FileNotFoundError, match='data=FOLDER.*data_root'):
        scenes(photo_root / 'nowhere')
    (photo_root / 'notes.txt').write_text('x')
    with pytest.raises(UserError, match="notes.txt' is a file: .*data=FOLD"):
        scenes(photo_root, data_prefix=str(photo_root / 'notes.txt'))
    with pytest.raises(FileNotFoundError, match='gone.json'):
        scenes(photo_root, ann_file='gone.json')
    (photo_root / 'empty').mkdir()
    with pytest.raises(ValueError, match='No image in.*data=FOLDER'):
        scenes(photo_root, data_prefix=dict(img_path='empty'))
    content = dict(images=[dict(file_name='gone.png')])
    (photo_root / 'a.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='a.json'):
        scenes(photo_root, ann_file='a.json')
    with pytest.raises(RuntimeError, match='MaskUpdateHook'):
        scenes(photo_root)[0]
    with pytest.raises(FileNotFoundError, match='masks'):
        scenes(photo_root, mask_bank=str(tmp_path / 'nowhere'))


def test_bank_of_other_images_is_refused(photo_root, tmp_path):
    data = with_masks(scenes(photo_root), tmp_path)
    write_photo(photo_root / 'train2017' / 'new.png')
    with pytest.raises(ValueError, match='new.png'):
        scenes(photo_root).use_masks(data.mask_bank)


def test_wrappers_are_searched(photo_root):
    one, two = scenes(photo_root), scenes(photo_root)
    assert list(scene_datasets(ConcatDataset([one, two]))) == [one, two]
    assert list(scene_datasets(RepeatDataset(one, 2))) == [one]
    assert list(scene_datasets([1, 2])) == []


def damage(path, kind):
    whole = path.read_bytes()
    path.write_bytes({
        'truncated': whole[:len(whole) // 2],
        'empty': b'',
        'text': b'not an image',
        'cut end': whole[:-20],
    }[kind])


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
@pytest.mark.parametrize('kind', ['truncated', 'empty', 'text', 'cut end'])
def test_broken_images_are_told(tmp_path, suffix, kind):
    path = tmp_path / f'x.{suffix}'
    write_photo(path, (200, 300))
    read_image(str(path))
    damage(path, kind)
    with pytest.raises(BrokenImageError, match='x.'):
        read_image(str(path))


def test_missing_image_is_told(tmp_path):
    with pytest.raises(BrokenImageError, match='gone.jpg'):
        read_image(str(tmp_path / 'gone.jpg'))


def test_a_broken_image_is_replaced_and_listed(photo_root, tmp_path):
    damage(photo_root / 'train2017' / '05.png', 'truncated')
    data = with_masks(scenes(photo_root), tmp_path)
    assert data.mask_bank.manifest['broken_images'] == ['train2017/05.png']
    assert data[5]['img_path'] != data.get_data_info(5)['img_path']


@pytest.mark.parametrize('kind', ['grey', 'alpha', '16 bit', 'cmyk', 'tiny'])
def test_unusual_images_become_bgr(tmp_path, kind):
    from PIL import Image
    path, size = tmp_path / 'x.png', (40, 30)
    pixels = write_photo(path, size)
    if kind == 'grey':
        cv2.imwrite(str(path), pixels[..., 0])
    elif kind == 'alpha':
        cv2.imwrite(str(path), np.dstack([pixels, pixels[..., :1]]))
    elif kind == '16 bit':
        cv2.imwrite(str(path), pixels[..., 0].astype(np.uint16) * 256)
    elif kind == 'cmyk':
        path = tmp_path / 'x.jpg'
        Image.fromarray(pixels[..., ::-1]).convert('CMYK').save(path)
    else:
        size = (2, 3)
        cv2.imwrite(str(path), pixels[:2, :3])
    image = read_image(str(path))
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    if kind in ('grey', '16 bit'):
        np.testing.assert_array_equal(image[..., 2], pixels[..., 0])


def test_exif_rotation_is_applied(tmp_path):
    from PIL import Image
    path = tmp_path / 'x.jpg'
    image = Image.fromarray(write_photo(path, (20, 60)))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    image.save(path, exif=exif)
    assert read_image(str(path)).shape == (60, 20, 3)


def test_large_photographs_are_decoded_as_their_crops_need(tmp_path):
    write_photo(tmp_path / 'p' / 'large.jpg', (960, 1280))
    crop = dict(type='MaskedRandomResizedCrop', scale=64,
                crop_ratio_range=(0.2, 1.), interpolation='bicubic',
                backend='torch')
    init_default_scope('mmpretrain')
    seen = []

    class Load(LoadSceneImage):
        def transform(self, results):
            results = super().transform(results)
            seen.append(results['img'].shape[:2])
            return results

    def build(**options):
        return with_masks(SceneDataset(
            data_root=str(tmp_path), data_prefix='p', pipeline=[
                Load(),
                MaskedMultiView([[TRANSFORMS.build(crop), FastRandomFlip(.5)]],
                                [2])], **options), tmp_path)

    # 2 * 64 / sqrt(0.2) = 287 pixels; the root of 960 * 1280 is 1109
    data = build()
    bank = data.mask_bank
    sample = data[0]
    assert seen == [(480, 640)]
    assert build(reduced_decoding=False)[0]['img'][0].shape == (64, 64, 3)
    assert seen[1:] == [(960, 1280)]
    # mask rounds see it in full
    assert read_image(data.images()[0][1], **data.read_args).shape == (
        960, 1280, 3)
    assert bank.label_map('p/large.jpg').tolist() == [[0, 1, 2], [3, 4, 5]]
    assert sample['mask'].shape == (2, 64, 64)


@pytest.mark.parametrize('size', [(960, 1280), (961, 1283), (975, 1279)])
def test_labels_of_what_is_decoded_small_are_its_own(tmp_path, size):
    ids = np.arange(48).reshape(6, 8) * 5
    image = cv2.resize(ids.astype(np.uint8), size[::-1],
                       interpolation=cv2.INTER_NEAREST)
    path = str(tmp_path / 'x.jpg')
    assert cv2.imwrite(path, image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    for least in (287, 100):
        small = read_image(path, least_side=least)
        assert max(small.shape) < 700
        whole = crop_label_map(ids, small.shape[:2], (0, 0, *small.shape[:2]),
                               small.shape[:2])
        kernel = np.ones((3, 3))  # all but the pixels at borders
        inner = cv2.dilate(whole * 1., kernel) == cv2.erode(whole * 1., kernel)
        assert inner.mean() > 0.8
        off = np.abs(small.astype(int) - whole[..., None])
        assert off[inner].max() <= 2


def test_views_of_what_is_decoded_small_are_distributed_alike(tmp_path):
    """Boxes of the law of small views: moments, histograms, spectra."""
    random = np.random.default_rng(0)
    paths = [str(tmp_path / f'{i}.jpg') for i in range(4)]
    for path in paths:  # detail of all sizes, as photographs have it
        image = np.zeros((960, 1280, 3))
        for cell in (1, 2, 4, 8, 16, 32, 64):
            noise = random.normal(
                0, 5 * cell**0.7, (-(-960 // cell), -(-1280 // cell), 3))
            image += cv2.resize(noise, (1280, 960))
        cv2.imwrite(path, np.clip(image + 128, 0, 255).astype(np.uint8),
                    [cv2.IMWRITE_JPEG_QUALITY, 92])
    crop = FastRandomResizedCrop(
        64, crop_ratio_range=(0.2, 1.), interpolation='bicubic',
        backend='torch')
    both = []
    for least in (None, 287):
        images = [read_image(path, least_side=least) for path in paths]
        np.random.seed(0)
        boxes = [crop.rand_crop_params(np.empty((960, 1280)))
                 for _ in range(400)]
        times = 960 // images[0].shape[0]
        assert times == (1 if least is None else 2)
        both.append(statistics(np.stack([
            crop.crop(images[i % 4], tuple(round(side / times)
                                           for side in box))
            for i, box in enumerate(boxes)])))
    slack = np.array([0.4] * 7 + [0.004] * 8 + [0.05] * 4 + [0.4])
    assert (np.abs(both[0].mean(0) - both[1].mean(0)) <= slack).all()
    assert (np.abs(both[0].std(0) - both[1].std(0))
            <= slack + 0.02 * both[0].std(0)).all()
