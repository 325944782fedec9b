"""The transforms that crop the views, in a config and in a data set."""
from collections.abc import Iterator
from typing import Any

from mmpretrain.datasets import MultiView, RandomResizedCrop

MIN_CELLS = 5
"""Cells on each side of a view's grid, below which it has too few regions."""


def view_crops(dataset: Any) -> dict[str, Any]:
    """Find the transforms that crop the views.

    Args:
        dataset (Any): The config of a data set.

    Returns:
        dict[str, Any]: Each crop by its key below the data set's config, such
        as ``'pipeline.1.transforms.0.0'``.
    """
    return {
        f'pipeline.{step}.transforms.{view}.{number}': transform
        for step, views in enumerate(dataset.get('pipeline') or [])
        for view, transforms in enumerate(views.get('transforms') or [])
        if isinstance(transforms, list)
        for number, transform in enumerate(transforms)
        if 'RandomResizedCrop' in str(transform.get('type'))
    }


def leaves(dataset: Any) -> Iterator[Any]:
    """Find the data sets within wrappers such as ``ConcatDataset``.

    Args:
        dataset (Any): A data set, wrapped any number of times.

    Yields:
        Any: Each data set that has a pipeline.
    """
    if hasattr(dataset, 'pipeline'):
        yield dataset
    else:
        for part in getattr(dataset, 'datasets', None) or [dataset.dataset]:
            yield from leaves(part)


def built_crops(dataset: Any) -> list[RandomResizedCrop]:
    """Find the built transforms that crop the views.

    Args:
        dataset (Any): A data set, wrapped any number of times.
    """
    return [
        transform for leaf in leaves(dataset)
        for step in leaf.pipeline.transforms if isinstance(step, MultiView)
        for view in step.transforms for transform in view
        if isinstance(transform, RandomResizedCrop)
    ]
