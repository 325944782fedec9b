"""Parts of annotated images, nested and alike in classes, for few labels.

To see how much weights help with few labels, a detector is trained on 1, 5, 10
per cent of the images. The parts of one seed are nested, the smaller in the
larger, and each has its share of every class, so that what differs between
them is the number of labels.
"""
import json
import os
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import written_aside

WHOLE = 100
"""Per cent: all images, the same for each seed."""


def nested_order(strata: Sequence[Hashable], seed: int) -> list[int]:
    """Put items in an order of which any beginning is a stratified sample.

    The items of a stratum are shuffled and spread evenly over the order, from
    a random place on (systematic sampling). So wherever the order is cut, two
    strata of m and n items have shares that differ by less than 1/m + 1/n.

    Args:
        strata (Sequence[Hashable]): The stratum of each item.
        seed (int): Determines the order.

    Returns:
        list[int]: The numbers of the items, each once.
    """
    members = defaultdict(list)
    for number, stratum in enumerate(strata):
        members[stratum].append(number)
    random = np.random.default_rng(seed)
    placed = []
    for items in members.values():
        first = random.random()
        placed += [((rank + first) / len(items), int(item))
                   for rank, item in enumerate(random.permutation(items))]
    return [item for _, item in sorted(placed)]


def strata_of(content: dict[str, Any]) -> list[Hashable]:
    """The rarest category in each image; None if it has no object.

    Args:
        content (dict): A COCO json as ``load_coco`` gives it.

    Returns:
        list[Hashable]: In the order of its images.
    """
    found = defaultdict(set)
    for annotation in content['annotations']:
        found[annotation['image_id']].add(annotation['category_id'])
    images = [found[image['id']] for image in content['images']]
    counts = Counter(kind for kinds in images for kind in kinds)
    return [
        min(kinds, key=lambda kind: (counts[kind], str(kind)), default=None)
        for kinds in images
    ]


def count_of(share: float, total: int) -> int:
    """Number of images in a share of them, in per cent; at least one."""
    return max(1, round(share / 100 * total))


def subset(content: dict[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """A json of some images with their annotations.

    Args:
        content (dict): A COCO json.
        numbers (Sequence[int]): Places of the images in its list.

    Returns:
        dict: The images in the order of the json, and all its other fields.
    """
    images = [content['images'][number] for number in sorted(numbers)]
    ids = {image['id'] for image in images}
    return dict(
        content,
        images=images,
        annotations=[
            annotation for annotation in content['annotations']
            if annotation['image_id'] in ids
        ])


def with_classes(content: dict[str, Any],
                 kept: Sequence[str] | None) -> dict[str, Any]:
    """Keep some categories alone, or take all as one.

    Args:
        content (dict): A COCO json.
        kept (Sequence[str], optional): Names of the categories to keep. None:
            every object is of the category 'object'.

    Returns:
        dict: The json; the ids of its categories count from 1.
    """
    if kept is None:
        renamed = {each['id']: 1 for each in content['categories']}
        names: Sequence[str] = ['object']
    else:
        places = {name: place for place, name in enumerate(kept, 1)}
        renamed = {
            each['id']: places[each['name']] for each in content['categories']
            if each['name'] in places
        }
        names = kept
    return dict(
        content,
        categories=[
            dict(id=place, name=name) for place, name in enumerate(names, 1)
        ],
        annotations=[
            dict(each, category_id=renamed[each['category_id']])
            for each in content['annotations']
            if each['category_id'] in renamed
        ])


def frequent_classes(content: dict[str, Any], count: int) -> list[str]:
    """Names of the categories with most objects, crowds aside."""
    names = {each['id']: each['name'] for each in content['categories']}
    found = Counter(names[each['category_id']]
                    for each in content['annotations']
                    if not each['iscrowd'] and each['category_id'] in names)
    return [name for name, _ in found.most_common(count)]


def split_name(share: float, seed: int) -> str:
    """What the part of a seed is called: ``labels_5_s0``, ``labels_100``."""
    name = f'labels_{share:g}'
    return name if share == WHOLE else f'{name}_s{seed}'


def write_splits(content: dict[str, Any], shares: Sequence[float],
                 seeds: int, folder: str) -> dict[str, int]:
    """Write a json for each share and seed, unless it is there already.

    Args:
        content (dict): A COCO json.
        shares (Sequence[float]): In per cent.
        seeds (int): Number of seeds, from 0.
        folder (str): Folder to write to; it is created.

    Returns:
        dict[str, int]: Number of images by the name of the file, without
        ``.json``.

    Raises:
        UserError: If a share is not in 0 to 100, or if a file is there that
            holds other images.
    """
    wrong = [share for share in shares if not 0 < share <= WHOLE]
    if wrong:
        raise UserError(f'--labels are shares of the images in per cent, '
                        f'above 0 and up to {WHOLE}, but {wrong[0]:g} is '
                        'given')
    os.makedirs(folder, exist_ok=True)
    strata = strata_of(content)
    sizes = {}
    for seed in range(seeds):
        order = nested_order(strata, seed)
        for share in shares:
            name = split_name(share, seed)
            chosen = order[:count_of(share, len(order))]
            sizes[name] = len(chosen)
            write_once(subset(content, chosen),
                       osp.join(folder, f'{name}.json'))
    return sizes


def write_once(content: dict[str, Any], path: str) -> None:
    """Write a json, or check that the file there is the same.

    Raises:
        UserError: If it holds something else.
    """
    text = json.dumps(content)
    if osp.isfile(path):
        with open(path, encoding='utf-8') as file:
            if file.read() == text:
                return
        raise UserError(
            f'{path} was made from other annotations or settings than are '
            'given now, and runs may have been trained on it: give another '
            '--out, or delete that folder')
    with written_aside(path) as aside, open(
            aside, 'w', encoding='utf-8') as file:
        file.write(text)
