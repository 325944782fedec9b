"""The annotated pictures of compare.py, and their label splits."""
import os.path as osp
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from cyborgs_plugin.datasets.coco_truth import evenly, load_coco
from cyborgs_plugin.errors import MissingFileError, UserError
from cyborgs_plugin.evaluation.label_splits import (
    count_of,
    frequent_classes,
    nested_order,
    split_name,
    strata_of,
    subset,
    with_classes,
    write_once,
    write_splits,
)

_HELD_OUT = 20
"""Per cent of the images that score where there is one json."""


class LabelledData:
    """Jsons to learn from and to score on, and the folders of their images.

    Args:
        jsons (Sequence[str]): One or two in COCO's format. Of one, a fifth of
            the images is held out to score on.
        images (Sequence[str]): Their folders; none: they are looked for
            beside the jsons.
        classes (str, optional): 'one', or a number of classes, the most
            frequent. None keeps all.
        max_images (int, optional): Of each side, evenly spread.
        folder (str): Where the jsons of all runs are written.

    Attributes:
        sizes (dict[str, int]): Number of images by the name of a split, once
            they are written.

    Raises:
        UserError: If there are more than two jsons, or no images.
    """

    sizes: dict[str, int]

    def __init__(self, jsons: Sequence[str], images: Sequence[str],
                 classes: str | None, max_images: int | None,
                 folder: str) -> None:
        if len(jsons) > 2 or len(images) > len(jsons):
            raise UserError(
                f'--data takes one json, or one to learn from and one to '
                f'score on, and --images a folder for each; {len(jsons)} and '
                f'{len(images)} were given')
        self.folder = folder
        contents = [load_coco(path) for path in jsons]
        self.roots = [
            osp.abspath(images[place]) if place < len(images) else
            find_images(path, content)
            for place, (path, content) in enumerate(zip(jsons, contents))
        ]
        if len(contents) == 1:
            contents = _hold_out(contents[0])
            self.roots *= 2
        self.found = [len(content['images']) for content in contents]
        self.train, self.val = (
            subset(content, evenly(range(len(content['images'])), max_images))
            for content in _classes(contents, classes))
        if not self.train['annotations'] or not self.val['annotations']:
            raise UserError(f'{" and ".join(jsons)} have no object '
                            'of the classes to learn and to score on')

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the categories, in the order of the json."""
        return [each['name'] for each in self.train['categories']]

    def write(self, shares: Sequence[float], seeds: int) -> None:
        """Write all jsons that runs read.

        Args:
            shares (Sequence[float]): Of the labels, in per cent.
            seeds (int): Number of seeds.
        """
        self.sizes = write_splits(self.train, shares, seeds, self.folder)
        write_once(self.val, self.val_json)

    @property
    def val_json(self) -> str:
        """The json that scores."""
        return osp.join(self.folder, 'val.json')

    def split_json(self, share: float, seed: int) -> str:
        """The json of a part of the labels."""
        return osp.join(self.folder, f'{split_name(share, seed)}.json')


def find_images(path: str, content: dict[str, Any]) -> str:
    """Find the folder of the images of a json.

    Args:
        path (str): The json. Beside it, one level up as in COCO's layout, and
            in the folder of its own name (``train2017`` of
            ``instances_train2017.json``) images are looked for.
        content (dict): Its content.

    Returns:
        str: The folder's absolute path.

    Raises:
        MissingFileError: If none has the first image.
    """
    if not content['images']:
        raise UserError(f'{path} lists no images')
    name = content['images'][0]['file_name']
    here = osp.dirname(osp.abspath(path))
    stem = osp.splitext(osp.basename(path))[0]
    words = {stem, stem.rpartition('_')[2], 'images', ''}
    folders = [osp.normpath(osp.join(place, word))
               for place in (here, osp.dirname(here))
               for word in sorted(words)]
    for folder in folders:
        if osp.isfile(osp.join(folder, name)):
            return folder
    raise MissingFileError(
        f'The images of {path}, such as {name!r}, are in none of '
        f'{", ".join(folders)}: name their folder by --images')


def _hold_out(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Divide a json into what is learnt and what is scored."""
    order = nested_order(strata_of(content), 0)
    count = count_of(_HELD_OUT, len(order))
    if count == len(order):
        raise UserError('--data has a single image: give one json with more, '
                        'or another to score on')
    return [subset(content, order[count:]), subset(content, order[:count])]


def _classes(contents: Sequence[dict[str, Any]],
             classes: str | None) -> list[dict[str, Any]]:
    if classes is None:
        return [*contents]
    kept = None if classes == 'one' else frequent_classes(
        contents[0], int(classes))
    return [with_classes(content, kept) for content in contents]
