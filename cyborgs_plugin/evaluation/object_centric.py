"""Scores that object-centric papers report on COCO."""
import numpy as np

from .overlaps import best_overlaps


def object_centric_scores(ids: np.ndarray, masks: np.ndarray,
                          classes: np.ndarray,
                          crowd: np.ndarray) -> dict[str, float]:
    """Score the regions of one image as DINOSAUR and its successors do.

    The central square of the image is scored. Pixels of crowds, and pixels
    that belong to two objects, count neither for regions nor for objects.

    The protocol of `DINOSAUR <https://arxiv.org/abs/2209.14860>`_, Appendix C,
    at the resolution of the image.

    Args:
        ids (np.ndarray): Region of each pixel, shape (H, W), integer, at
            least 0.
        masks (np.ndarray): Objects and crowds, shape (N, H, W), bool.
        classes (np.ndarray): Class of each, shape (N, ), integer.
        crowd (np.ndarray): Which are crowds, shape (N, ), bool.

    Returns:
        dict[str, float]: ``FG_ARI``, the adjusted Rand index over the pixels
        of objects; ``mBO_i``, the best overlap of each object with a region,
        averaged over objects; ``mBO_c``, the same with all objects of a class
        as one. Empty if the square shows no object.
    """
    # a second of the start of every command, were it at the top
    from sklearn.metrics import adjusted_rand_score
    rows, columns = central_square(ids.shape)
    ids, masks = ids[rows, columns], masks[:, rows, columns]
    ignored = masks[crowd].any(0)
    masks, classes = masks[~crowd], classes[~crowd]
    merged = np.stack([masks[classes == each].any(0)
                       for each in np.unique(classes)]
                      ) if len(masks) else masks
    scores = {}
    for name, objects in (('mBO_i', masks), ('mBO_c', merged)):
        shown = ~(ignored | (objects.sum(0) > 1))
        visible = objects[:, shown]
        visible = visible[visible.any(1)]
        if not len(visible):
            continue
        regions = np.unique(ids[shown], return_inverse=True)[1].reshape(-1)
        scores[name] = float(best_overlaps(regions, visible).mean())
        if name == 'mBO_i':
            inside = visible.any(0)
            scores['FG_ARI'] = float(adjusted_rand_score(
                visible.argmax(0)[inside], regions[inside]))
    return scores


def central_square(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The largest square in the middle of an image.

    Args:
        shape (tuple[int, ...]): Height and width of the image.

    Returns:
        tuple[slice, slice]: Its rows and columns; of an odd remainder the
        smaller part comes before it.
    """
    side = min(shape)
    top, left = ((length - side) // 2 for length in shape)
    return slice(top, top + side), slice(left, left + side)
