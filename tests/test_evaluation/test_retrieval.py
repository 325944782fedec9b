"""Dense retrieval, against a naive loop over cells."""
import faiss
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.evaluation.frozen_features import IGNORE
from cyborgs_plugin.evaluation.retrieval import retrieve_segments

from .test_paired import scenes


def naive(train, val, num_classes, neighbours, temperature):
    """One cell after the other, its neighbours by faiss."""
    cells, shares = [], []
    for features, classes in train:
        side = len(classes) // features.shape[1]
        for row in range(features.shape[1]):
            for column in range(features.shape[2]):
                block = classes[row * side:(row + 1) * side,
                                column * side:(column + 1) * side]
                known = block[block != IGNORE]
                if len(known):
                    cells.append(features[:, row, column])
                    shares.append(np.bincount(
                        known, minlength=num_classes) / len(known))
    cells, shares = np.array(cells), np.array(shares)
    mean, spread = cells.mean(0), cells.std(0) + 1e-6
    unit = (cells - mean) / spread
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit.astype(np.float32))
    hits = np.zeros(num_classes)
    union = np.zeros(num_classes)
    occurs = np.zeros(num_classes)
    for features, classes in val:
        found = np.zeros((num_classes, *features.shape[1:]))
        for row in range(features.shape[1]):
            for column in range(features.shape[2]):
                query = (features[:, row, column] - mean) / spread
                query = query / np.linalg.norm(query)
                near, where = index.search(
                    query[None].astype(np.float32), neighbours)
                weights = F.softmax(
                    torch.from_numpy(near[0]).double() / temperature, 0)
                found[:, row, column] = weights.numpy() @ shares[where[0]]
        maps = F.interpolate(
            torch.from_numpy(found)[None].float(), classes.shape,
            mode='bilinear')[0].argmax(0).numpy()
        known = classes != IGNORE
        for kind in range(num_classes):
            mine, truth = maps[known] == kind, classes[known] == kind
            hits[kind] += (mine & truth).sum()
            union[kind] += (mine | truth).sum()
            occurs[kind] += truth.sum()
    kept = occurs > 0
    return (hits[kept] / union[kept]).mean()


@pytest.mark.parametrize('noise', [0.5, 3.])
def test_equals_a_loop_over_cells(noise):
    train, val = scenes(0, 6, noise), scenes(1, 4, noise)
    found = retrieve_segments(train, val, 2, 5, 0.1)
    assert found['mIoU'] == pytest.approx(naive(train, val, 2, 5, 0.1),
                                          abs=2e-3)


def test_knows_classes_that_features_tell():
    train, val = scenes(0, 6, 0.1), scenes(1, 4, 0.1)
    assert retrieve_segments(train, val, 2)['mIoU'] > 0.9
    mixed = [(np.zeros_like(features), classes) for features, classes in val]
    assert retrieve_segments(train, mixed, 2)['mIoU'] < 0.6


def test_the_memory_is_bounded_and_drawn_by_the_seed():
    train, val = scenes(0, 6, 2.), scenes(1, 4, 2.)
    scores = {retrieve_segments(train, val, 2, memory=10, seed=seed)['mIoU']
              for seed in range(5)}
    assert len(scores) > 1
    again = [retrieve_segments(train, val, 2, memory=10, seed=3)['mIoU']
             for _ in range(2)]
    assert again[0] == again[1]


def test_no_labels():
    train = [(features, np.full_like(classes, IGNORE))
             for features, classes in scenes(0, 2)]
    with pytest.raises(UserError, match='no labelled cell'):
        retrieve_segments(train, scenes(1, 2), 2)
