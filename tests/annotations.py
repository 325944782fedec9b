"""A tiny annotated data set: RLE, polygons, a crowd, a speck."""
import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

SIZE = (40, 48)


def rle(mask):
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=code['size'], counts=code['counts'].decode())


def blob(random, radius):
    rows, cols = np.mgrid[:SIZE[0], :SIZE[1]]
    centre = random.uniform(0, 1, 2) * SIZE
    return (rows - centre[0])**2 + (cols - centre[1])**2 < radius**2


@pytest.fixture
def annotated(tmp_path):
    """Four images with their instances and panoptic segments."""
    random = np.random.default_rng(0)
    images, annotations, panoptic = [], [], []
    (tmp_path / 'panoptic_val2017').mkdir()

    def add(image_id, category, mask, **extra):
        x, y, w, h = coco_mask.toBbox(
            coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))
        annotations.append(
            dict(dict(id=len(annotations) + 1, image_id=image_id, iscrowd=0,
                      category_id=category, area=float(mask.sum()),
                      bbox=[x, y, w, h], segmentation=rle(mask)), **extra))

    for number in range(4):
        image_id = 10 + number
        images.append(dict(id=image_id, file_name=f'{number}.png',
                           height=SIZE[0], width=SIZE[1]))
        ids = np.zeros(SIZE, dtype=np.int64)
        infos = []
        for index, radius in enumerate((14, 9, 7)):
            mask = blob(random, radius)
            if mask.sum() == 0:
                continue
            add(image_id, 1 + index % 2, mask)
            ids[mask] = 300 + index
            infos.append((300 + index, 1 + index % 2, 0))
        square = np.zeros(SIZE, dtype=bool)
        square[30:38, 5:25] = True
        add(image_id, 3, square,
            segmentation=[[5, 30, 25, 30, 25, 38, 5, 38]])
        speck = np.zeros(SIZE, dtype=bool)
        speck[1:3, 1:3] = True
        add(image_id, 3, speck)
        crowd = blob(random, 10)
        add(image_id, 2, crowd, iscrowd=1)
        ids[square] = 70000
        infos.append((70000, 3, 0))
        sky = (ids == 0) & (np.arange(SIZE[0])[:, None] < 12)
        ids[sky] = 5
        infos.append((5, 9, 0))
        ids[crowd] = 6
        infos.append((6, 2, 1))
        colours = np.stack([ids // 65536, ids // 256 % 256, ids % 256], -1)
        cv2.imwrite(str(tmp_path / 'panoptic_val2017' / f'{number}.png'),
                    colours.astype(np.uint8))  # BGR: red holds the low byte
        panoptic.append(dict(
            image_id=image_id, file_name=f'{number}.png',
            segments_info=[
                dict(id=i, category_id=c, iscrowd=crowd)
                for i, c, crowd in infos if (ids == i).any()
            ]))
    things = [dict(id=1, name='cat', supercategory='animal', isthing=1),
              dict(id=2, name='dog', supercategory='animal', isthing=1),
              dict(id=3, name='box', supercategory='thing', isthing=1)]
    stuff = [dict(id=9, name='sky', supercategory='sky', isthing=0)]
    ann_file = tmp_path / 'instances_val2017.json'
    ann_file.write_text(json.dumps(dict(
        images=images, annotations=annotations, categories=things)))
    (tmp_path / 'panoptic_val2017.json').write_text(json.dumps(dict(
        images=images, annotations=panoptic[:3], categories=things + stuff)))
    return ann_file
