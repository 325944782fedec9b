"""Photographs as people have them, and files that only look like some."""
import io
import os
import threading

import cv2
import numpy as np
import pytest
import tifffile  # skimage needs it
from PIL import Image

from cyborgs_plugin.datasets import (
    BrokenImageError,
    LoadSceneImage,
    image_io,
    read_image,
)
from cyborgs_plugin.datasets.image_io import describe_file, is_image
from cyborgs_plugin.errors import UserError, reported

from ..helpers import write_photo


def encoded(kind, size=(40, 60), **options):
    """A photograph as a file of some kind, and its BGR pixels."""
    random = np.random.default_rng(1)
    pixels = cv2.resize(
        random.integers(0, 256, (4, 6, 3), dtype=np.uint8), size[::-1],
        interpolation=cv2.INTER_CUBIC)
    file = io.BytesIO()
    Image.fromarray(pixels[..., ::-1]).save(file, kind, **options)
    return file.getvalue(), pixels


def read(tmp_path, content, **options):
    path = tmp_path / 'x.jpg'
    path.write_bytes(content)
    return read_image(str(path), **options)


def jpegs():
    """A JPEG of every make: a thumbnail within, restarts, several scans."""
    exif = Image.Exif()
    thumbnail = encoded('JPEG', (12, 16))[0]
    exif[0x927c] = thumbnail  # a note of the camera's maker
    return dict(
        plain=encoded('JPEG')[0],
        thumbnail=encoded('JPEG', exif=exif)[0],
        restarts=encoded('JPEG', restart_marker_rows=1)[0],
        progressive=encoded('JPEG', progressive=True)[0],
        filled=encoded('JPEG')[0][:2] + b'\xff\xff\xfe\0\4xx' +
        encoded('JPEG')[0][2:])


@pytest.mark.parametrize('make', jpegs())
@pytest.mark.parametrize('behind', ['film', 'picture', 'scan'])
def test_what_lies_behind_the_end_does_not_count(tmp_path, make, behind):
    """As motion photos have it: 87 of 200 were called truncated."""
    whole = jpegs()[make]
    trailer = dict(
        film=np.random.default_rng(0).bytes(300_000),
        picture=encoded('JPEG', (90, 90))[0][:-200],
        scan=b'\xff\xda' * 9)[behind]
    image = read(tmp_path, whole)
    np.testing.assert_array_equal(read(tmp_path, whole + trailer), image)


@pytest.mark.parametrize('make', jpegs())
@pytest.mark.parametrize('fill', [b'', bytes(5000)])
def test_a_jpeg_without_its_end_is_truncated(tmp_path, make, fill):
    whole = jpegs()[make]
    start = whole.rfind(b'\xff\xda') + 20
    for end in np.linspace(start, len(whole) - 3, 7).astype(int):
        with pytest.raises(BrokenImageError, match='x.jpg: a truncated JPEG'):
            read(tmp_path, whole[:end] + fill)


def test_opencv_that_fills_up_is_not_asked(tmp_path, monkeypatch):
    """Before 4.12 it gave an image in place of None."""
    monkeypatch.setattr(image_io.mmcv, 'imfrombytes',
                        lambda *_, **__: np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(BrokenImageError, match='truncated'):
        read(tmp_path, encoded('JPEG')[0][:-40])


@pytest.mark.parametrize('kind, options', [
    ('PNG', {}), ('GIF', {}), ('BMP', {}), ('WEBP', dict(lossless=True)),
    ('PPM', {}), ('TIFF', {}), ('TIFF', dict(compression='tiff_lzw')),
    ('JPEG2000', {}), ('AVIF', dict(quality=95))])
def test_kinds_are_told_by_content(tmp_path, kind, options):
    whole, pixels = encoded(kind, **options)
    for content in (whole, whole + os.urandom(5000)):
        image = read(tmp_path, content)
        assert image.shape == pixels.shape and image.dtype == np.uint8
        difference = cv2.absdiff(image, pixels)
        assert (difference.mean() < 20 if kind in ('GIF', 'AVIF') else
                not difference.any())
    assert is_image(str(tmp_path / 'x.jpg')) == (kind != 'TIFF')
    with pytest.raises(BrokenImageError, match='x.jpg'):
        read(tmp_path, whole[:len(whole) // 2])


def test_the_first_frame_of_a_film_is_read(tmp_path):
    frames = [Image.new('RGB', (20, 10), colour) for colour in
              ('red', 'blue', 'lime')]
    file = io.BytesIO()
    frames[0].save(file, 'GIF', save_all=True, append_images=frames[1:])
    image = read(tmp_path, file.getvalue())
    assert image.shape == (10, 20, 3)
    assert image[5, 5].tolist() == [0, 0, 255]


@pytest.mark.parametrize('kind, options', [
    ('AVIF', dict(quality=95)), ('PNG', {}), ('TIFF', {}),
    ('WEBP', dict(lossless=True))])
def test_all_orientations(tmp_path, kind, options):
    """EXIF's number tells which sides the first row and column are."""
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        content, pixels = encoded(kind, exif=exif, **options)
        if number in (5, 6, 7, 8):
            pixels = pixels.transpose(1, 0, 2)
        if number in (3, 4, 7, 8):
            pixels = pixels[::-1]
        if number in (2, 3, 6, 7):
            pixels = pixels[:, ::-1]
        image = read(tmp_path, content)
        assert image.shape == pixels.shape
        assert cv2.absdiff(image, pixels.copy()).mean() < 3


def test_damaged_exif_is_ignored(tmp_path):
    content, pixels = encoded('WEBP', exif=b'damaged', lossless=True)
    np.testing.assert_array_equal(read(tmp_path, content), pixels)


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
def test_big_tiff(tmp_path, order, dtype):
    pixels = ramp(dtype, 0, 255, True)[:40]
    contents = []
    for big in (False, True):
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, photometric='rgb', bigtiff=big,
                         byteorder=order)
        contents.append(file.getvalue())
    assert contents[1][:4] in (b'II+\0', b'MM\0+')
    np.testing.assert_array_equal(*(read(tmp_path, c) for c in contents))
    with pytest.raises(BrokenImageError, match='64 x 40 pixels, more than'):
        read(tmp_path, contents[1], max_pixels=2559)
    with pytest.raises(BrokenImageError, match='x.jpg: a TIFF'):
        read(tmp_path, contents[1][:16])
    assert describe_file(str(tmp_path / 'x.jpg')).startswith('a TIFF')


# -- More than eight bits ---------------------------------------------------


def deep(kind, pixels):
    """A file of pixels (H, W) or BGR (H, W, 3) of more than eight bits."""
    if kind == 'png':
        return cv2.imencode('.png', pixels)[1].tobytes()
    file = io.BytesIO()
    tifffile.imwrite(file, pixels[..., ::-1] if pixels.ndim == 3 else pixels,
                     photometric='rgb' if pixels.ndim == 3 else 'minisblack')
    return file.getvalue()


def ramp(dtype, low, high, colours=False):
    pixels = np.linspace(low, high, 64 * 64).astype(dtype).reshape(64, 64)
    return np.dstack([pixels, pixels.T, pixels[::-1]]) if colours else pixels


DEEP = [
    ('png', np.uint16, 0, 4095),  # 12 bits of a microscope
    ('png', np.uint16, 7000, 9000),  # a thermal camera
    ('tiff', np.uint16, 0, 65535), ('tiff', np.float32, 0, 1),
    ('tiff', np.float32, -3e4, 2e9), ('tiff', np.float64, -5, 5),
    ('tiff', np.int16, -900, 900), ('tiff', np.int32, 0, 10**6)
]


@pytest.mark.parametrize('kind, dtype, low, high, colours', [
    (*case, colours) for case in DEEP for colours in (False, True)
] + [('tiff', np.uint32, 0, 10**6, False)])  # in colours nobody reads it
def test_deep_images_are_scaled_by_their_range(tmp_path, kind, dtype, low,
                                               high, colours):
    pixels = ramp(dtype, low, high, colours)
    image = read(tmp_path, deep(kind, pixels))
    expected = np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1)
    expected = expected if colours else np.dstack([expected] * 3)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert np.abs(image - expected * 255).max() < 1.2
    assert len(np.unique(image)) > 200


def test_a_hot_pixel_does_not_decide(tmp_path):
    pixels = ramp(np.uint16, 7000, 9000)
    expected = read(tmp_path, deep('png', pixels)).astype(int)
    pixels[3, 3], pixels[9, 9] = 65535, 0
    image = read(tmp_path, deep('png', pixels)).astype(int)
    image[[3, 9], [3, 9]] = expected[[3, 9], [3, 9]]
    assert np.abs(image - expected).max() <= 1
    constant = np.full((8, 8), 700, np.uint16)
    assert not read(tmp_path, deep('png', constant)).any()


def test_infinite_values_are_no_part_of_the_range(tmp_path):
    pixels = ramp(np.float32, 0, 1)
    expected = read(tmp_path, deep('tiff', pixels)).astype(int)
    pixels[0] = np.nan, *[np.inf] * 31, *[-np.inf] * 32
    image = read(tmp_path, deep('tiff', pixels)).astype(int)
    assert np.abs(image - expected)[1:].max() < 6
    assert set(image[0].flat) == {0, 255}
    with pytest.raises(BrokenImageError, match='x.jpg: no pixel'):
        read(tmp_path, deep('tiff', np.full_like(pixels, np.nan)))


def test_upper_bits_on_request(tmp_path):
    pixels = ramp(np.uint16, 0, 4095)
    image = read(tmp_path, deep('png', pixels), depth_scaling='upper')
    np.testing.assert_array_equal(image[..., 0], pixels >> 8)
    with pytest.raises(BrokenImageError, match='x.jpg: a TIFF'):
        read(tmp_path, deep('tiff', ramp(np.float32, 0, 1)),
             depth_scaling='upper')


@pytest.mark.parametrize('options', [
    dict(depth_scaling='max'), dict(max_pixels=0), dict(max_pixels='many')])
def test_bad_options(tmp_path, options):
    with pytest.raises(UserError, match=next(iter(options))):
        read(tmp_path, encoded('PNG')[0], **options)


# -- Files that do harm -----------------------------------------------------


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF', 'GIF', 'BMP', 'AVIF'])
def test_pixels_are_counted_before_decoding(tmp_path, monkeypatch, kind):
    content = encoded(kind, (40, 60))[0]
    assert read(tmp_path, content, max_pixels=2400).shape == (40, 60, 3)
    monkeypatch.setattr(image_io.mmcv, 'imfrombytes', None)
    monkeypatch.setattr(image_io, '_by_pillow', None)
    with pytest.raises(BrokenImageError,
                       match='x.jpg: 60 x 40 pixels, more than max_pixels'):
        read(tmp_path, content, max_pixels=2399)


def test_a_bomb_is_not_decoded(tmp_path):
    """A PNG of 109 kB that would take 3.4 GB: 30000 x 30000."""
    content = bytearray(encoded('PNG')[0])
    content[16:24] = (30000).to_bytes(4, 'big') * 2
    with pytest.raises(BrokenImageError, match='30000 x 30000 pixels'):
        read(tmp_path, bytes(content))
    content = bytearray(encoded('GIF')[0])
    content[6:10] = (30000).to_bytes(2, 'little') * 2  # beyond Pillow's limit
    with pytest.raises(BrokenImageError, match='x.jpg: .*900000000 pixels'):
        read(tmp_path, bytes(content))
    results = dict(img_path=str(tmp_path / 'x.jpg'),
                   image_options=dict(max_pixels=99))
    (tmp_path / 'x.jpg').write_bytes(encoded('JPEG')[0])
    with pytest.raises(BrokenImageError, match='max_pixels=99'):
        LoadSceneImage()(results)


@pytest.mark.parametrize('kind', ['pipe', 'device', 'folder'])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / 'x.jpg'
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    else:
        path.mkdir()
    caught = []

    def attempt():
        try:
            read_image(str(path))
        except BrokenImageError as error:
            caught.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(5)
    assert caught and 'no regular file' in caught[0] and 'x.jpg' in caught[0]
    assert 'no regular file' in describe_file(str(path))


@pytest.mark.parametrize('content, look', [
    (b'', 'an empty file'),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n',
     'Git LFS pointer.*git lfs pull'),
    (b'\n<!DOCTYPE html><html lang="en">', 'HTML page'),
    (b'<HTML>', 'HTML page'),
    (b'<?xml version="1.0"?><svg/>', 'XML or SVG'),
    (b'%PDF-1.7\n', 'PDF'),
    (b'PK\x03\x04\x14', 'ZIP'),
    (b'{"images": []}', 'a text'),
    (bytes(3000), 'nothing but zeros'),
    (b'\0\0\0\x18ftypmp42', 'a video'),
    (b'\x9a\x03' + b'\x01\xfe' * 40, 'no image that OpenCV or Pillow'),
    (encoded('PNG')[0][:200], 'truncated PNG')])
def test_what_a_broken_file_looks_like(tmp_path, content, look):
    with pytest.raises(BrokenImageError, match=f'x.jpg: .*{look}'):
        read(tmp_path, content)
    assert describe_file(str(tmp_path / 'x.jpg')) in str(
        pytest.raises(BrokenImageError, read, tmp_path, content).value)
    assert not is_image(str(tmp_path / 'x.jpg')) or b'PNG' in content


def test_heic_without_its_reader_names_it(tmp_path):
    content = b'\0\0\0\x18ftypheic' + bytes(40)
    (tmp_path / 'x.jpg').write_bytes(content)
    found = describe_file(str(tmp_path / 'x.jpg'))
    assert ('damaged HEIC' if image_io.READS_HEIF else
            'pip install pillow-heif') in found


def test_a_tool_that_needs_the_image_says_so_in_a_line(tmp_path):
    with pytest.raises(SystemExit, match='^BrokenImageError: .*x.jpg: a text'):
        with reported():
            read(tmp_path, b'404')


def test_a_missing_file_is_described(tmp_path):
    assert 'cannot be read' in describe_file(str(tmp_path / 'gone.jpg'))
    write_photo(tmp_path / 'x.png')
    assert is_image(str(tmp_path / 'x.png'))


def smooth(height, width):
    coarse = np.random.default_rng(0).integers(
        0, 256, (height // 24, width // 24, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize('least, times', [
    (None, 1), (200, 1), (155, 1), (154, 2), (77, 4), (78, 2), (38, 8),
    (1, 8)])
def test_a_jpeg_is_decoded_no_larger_than_needed(tmp_path, least, times):
    """The root of 250 x 382 pixels is 309."""
    content = cv2.imencode('.jpg', smooth(250, 382))[1].tobytes()
    full = read(tmp_path, content)
    for depth_scaling in ('range', 'upper'):
        image = read(tmp_path, content, least_side=least,
                     depth_scaling=depth_scaling)
        assert image.shape == (-(-250 // times), -(-382 // times), 3)
        # what lies beyond the border fills up its last pixels
        filled = cv2.copyMakeBorder(full, 0, -250 % times, 0, -382 % times,
                                    cv2.BORDER_REPLICATE)
        expected = cv2.resize(filled, image.shape[1::-1],
                              interpolation=cv2.INTER_AREA)
        assert cv2.absdiff(image, expected).mean() < 2
    with pytest.raises(BrokenImageError, match='truncated'):
        read(tmp_path, content[:-200], least_side=least)
    with pytest.raises(BrokenImageError, match='250'):
        read(tmp_path, content, least_side=least, max_pixels=95499)
    other = cv2.imencode('.png', full)[1].tobytes()
    np.testing.assert_array_equal(read(tmp_path, other, least_side=1), full)


def test_a_small_decoded_jpeg_is_upright(tmp_path):
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        file = io.BytesIO()
        Image.fromarray(smooth(96, 144)).save(file, 'JPEG', exif=exif)
        full = read(tmp_path, file.getvalue())
        image = read(tmp_path, file.getvalue(), least_side=50)
        assert image.shape == (
            (72, 48, 3) if number > 4 else (48, 72, 3))
        expected = cv2.resize(full, image.shape[1::-1],
                              interpolation=cv2.INTER_AREA)
        assert cv2.absdiff(image, expected).mean() < 1.5
