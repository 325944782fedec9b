"""CYBORGS for MMPreTrain; importing it registers its components."""

from .version import __version__, check_requirements

check_requirements()

from . import (  # noqa: E402
    datasets,
    engine,
    evaluation,
    models,
    segmentation,
)
from .config_path import resolve_own_configs  # noqa: E402

__all__ = [
    '__version__', 'datasets', 'engine', 'evaluation', 'models', 'segmentation'
]

resolve_own_configs()
