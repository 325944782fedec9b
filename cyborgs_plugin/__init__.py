"""CYBORGS for MMPreTrain; importing it registers its components."""

from .findings import end_without_traceback
from .version import __version__, check_requirements, without_notice

try:
    check_requirements()
except ImportError as error:
    end_without_traceback(error)  # of the program `cyborgs`
    raise

with without_notice():
    import mmpretrain.datasets  # noqa: F401

from . import (  # noqa: E402
    datasets,
    engine,
    evaluation,
    models,
    segmentation,
)
from .api import Result, pretrain  # noqa: E402
from .config_path import resolve_own_configs  # noqa: E402

__all__ = [
    'Result', '__version__', 'datasets', 'engine', 'evaluation', 'models',
    'pretrain', 'segmentation'
]

resolve_own_configs()
