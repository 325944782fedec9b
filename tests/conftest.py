"""Fixtures that all tests share."""
import logging
import os
import sys

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from mmengine.visualization import Visualizer

import cyborgs_plugin  # noqa: F401
from cyborgs_plugin.safe_load import VARIABLES

from .annotations import annotated  # noqa: F401
from .cached_yapf import cache_yapf
from .helpers import write_photo
from .needs import skip_lacking

cache_yapf()

# Where the minutes go, the longest first: begun first, they end with the rest.
LONGEST = '''
    test_readme test_kills test_transfer test_every_backbone test_mini_coco
    test_continue_from test_backbones test_gpu_proof test_train test_hooks
    test_several_ranks test_epoch_seed_hook test_distill
'''.split()


def pytest_collection_modifyitems(items):
    skip_lacking(items)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def _fresh_singletons():
    """Loggers, hubs and scopes are global by name: clear them."""
    yield
    logging.shutdown()
    logging.disable(logging.NOTSET)  # a tool's main keeps its process quiet
    # each kind of visualizer has instances of its own
    for kind in (MMLogger, DefaultScope, MessageHub, Visualizer,
                 *Visualizer.__subclasses__()):
        kind._instance_dict.clear()


@pytest.fixture(autouse=True)
def _own_loading():
    """A run that fails before its first step leaves safe loading on."""
    schemes = CheckpointLoader._schemes
    before = {key: os.environ.get(key) for key in VARIABLES}
    yield
    CheckpointLoader._schemes = schemes
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


@pytest.fixture
def photo_root(tmp_path):
    """A data root whose train2017 holds 12 pictures of two sizes."""
    for number in range(12):
        size = (48, 64) if number % 3 else (64, 48)
        write_photo(tmp_path / 'data' / 'train2017' / f'{number:02d}.png',
                    size, number)
    return tmp_path / 'data'


@pytest.fixture
def s3(monkeypatch):
    """A server of S3 with the bucket 'bucket'; see serve()."""
    from .s3_server import serve  # moto takes a second
    yield from serve(monkeypatch)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a tool in this process; give what it printed."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, 'argv', ['tool', *map(str, arguments)])
        tool.main()
        return capsys.readouterr().out

    return run
