"""Classes of pixels for compare.py, from outlines of objects."""
import os
import os.path as osp

import cv2
from compare_data import LabelledData

from cyborgs_plugin.evaluation import CocoTruth
from cyborgs_plugin.evaluation.probes import ProbeImages, share_classes
from cyborgs_plugin.files import written_aside


def write_semantic(data: LabelledData, folder: str) -> list[str]:
    """Write masks as mmseg reads them, and links to the images.

    ``images/SIDE/N.jpg`` and ``masks/SIDE/N.png``, N being the place in the
    json; ``SPLIT.txt`` lists those of a part of the labels.

    Args:
        data (LabelledData): The images, whose jsons are written.
        folder (str): To write to.

    Returns:
        list[str]: Names of the classes; the first is the background.
    """
    truths = [CocoTruth(path)
              for path in (data.split_json(100, 0), data.val_json)]
    sides = share_classes(*(ProbeImages(root, truth, truth)
                            for root, truth in zip(data.roots, truths)))
    for part, side in zip(('train', 'val'), sides):
        for kind in ('images', 'masks'):
            os.makedirs(osp.join(folder, kind, part), exist_ok=True)
        for place, name in enumerate(side.scenes.names):
            # cv2 reads it by its content, whatever the ending
            link = osp.join(folder, 'images', part, f'{place:06d}.jpg')
            if not osp.islink(link):
                os.symlink(osp.join(side.root, name), link)
            mask = osp.join(folder, 'masks', part, f'{place:06d}.png')
            if not osp.isfile(mask):
                done = cv2.imencode('.png', side.scenes.semantic(name))[1]
                with written_aside(mask) as aside:
                    done.tofile(aside)
    places = {name: place for place, name in enumerate(truths[0].names)}
    for stem in [*data.sizes, 'val']:
        names = CocoTruth(osp.join(data.folder, f'{stem}.json')).names
        numbers = (range(len(names)) if stem == 'val' else
                   [places[name] for name in names])
        with written_aside(osp.join(folder, f'{stem}.txt')) as aside, open(
                aside, 'w', encoding='utf-8') as file:
            file.writelines(f'{number:06d}\n' for number in numbers)
    return list(sides[0].scenes.segment_classes)
