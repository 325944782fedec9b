"""Each difference from the published code names tests and switches."""
import glob
import os.path as osp
import re

import pytest

from ..helpers import ROOT

with open(osp.join(ROOT, 'docs', 'differences.md')) as file:
    TEXT = file.read()
SOURCES = {}
for path in glob.glob(osp.join(ROOT, 'tests', '**', '*.py'), recursive=True):
    with open(path) as file:
        SOURCES[path] = file.read()


@pytest.mark.parametrize('name', sorted(set(re.findall('test_\\w+', TEXT))))
def test_named_test_exists(name):
    assert any(f'def {name}(' in source for source in SOURCES.values())


def test_every_row_has_a_reason_and_a_test():
    rows = re.findall(r'^\|(.*)\|$', TEXT, re.M)[2:]
    assert len(rows) > 10
    for row in rows:
        published, here, why, test, _ = map(str.strip, row.split('|'))
        assert published and here and why and 'test_' in test, row


def test_every_published_config_is_named():
    for config in glob.glob(
            osp.join(ROOT, 'configs', 'ablations', 'published_*.py')):
        assert osp.basename(config) in TEXT, config
