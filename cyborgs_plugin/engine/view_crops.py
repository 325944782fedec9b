"""Where a config says how large the views are."""
from typing import Any


def view_crops(dataset: Any) -> dict[str, Any]:
    """Find the transforms that crop the views.

    Args:
        dataset (Any): The config of a data set.

    Returns:
        dict[str, Any]: Each by its key below the data set's config, as in
        ``'pipeline.1.transforms.0.0'``.
    """
    return {
        f'pipeline.{step}.transforms.{view}.{number}': transform
        for step, views in enumerate(dataset.get('pipeline') or [])
        for view, transforms in enumerate(views.get('transforms') or [])
        if isinstance(transforms, list)
        for number, transform in enumerate(transforms)
        if 'RandomResizedCrop' in str(transform.get('type'))
    }
