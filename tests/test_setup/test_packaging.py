"""Source package, wheel and editable install carry configs and tools."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import setuptools
from mmengine.config import Config
from mmengine.config.utils import _get_cfg_metainfo

from cyborgs_plugin.version import __version__

from ..warm_python import python

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / 'configs').rglob('*.py'))

PAGES = ROOT / 'cyborgs_plugin' / 'visualization' / 'pages'

CHILD = """
_base_ = 'cyborgs_plugin::cyborgs_coco.py'
model = _base_.model
model.neck.update(num_regions=3)
"""

LOAD_CHILD = """
import sys
import cyborgs_plugin
assert cyborgs_plugin.__file__.startswith(sys.argv[1]), cyborgs_plugin
from mmengine.config import Config
from mmpretrain.registry import MODELS
cfg = Config.fromfile(sys.argv[2])
assert cfg.default_scope == 'mmpretrain'
assert cfg.default_hooks.mask_update.type == 'MaskUpdateHook'
cfg.model.backbone.update(depth=18)
cfg.model.neck.projector.update(in_channels=896)
# mmengine warns and builds from the wrong registry if the scope is wrong.
model = MODELS.build(cfg.model)
assert model.neck.num_regions == 3, model.neck
"""


def run(*arguments, command=sys.executable, **options):
    done = subprocess.run([command, *map(str, arguments)],
                          stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT,
                          text=True,
                          **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def tree(tmp_path):
    """A copy of the repository, since building writes beside setup.py."""
    tree = tmp_path / 'tree'
    ignore = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('cyborgs_plugin', 'configs', 'tools', 'requirements'):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for name in ('setup.py', 'MANIFEST.in', 'LICENSE', 'CHANGELOG.md',
                 'CITATION.cff', 'model-index.yml', 'README.md'):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree / name)
    return tree


def make_sdist(tree):
    run('setup.py', '--quiet', 'sdist', cwd=tree)
    archive, = (tree / 'dist').glob('*.tar.gz')
    return archive


def assert_mim_is_whole(names):
    """Check that of all configs and tools there is one in ``.mim``."""
    names = set(names)
    for config in CONFIGS:
        assert f'cyborgs_plugin/.mim/{config}' in names
    for tool in (ROOT / 'tools').rglob('*.[ps][yh]'):
        there = f'cyborgs_plugin/.mim/{tool.relative_to(ROOT)}' in names
        assert there == (tool.name != 'setup_env.sh'), tool
    assert 'cyborgs_plugin/.mim/model-index.yml' in names
    assert 'cyborgs_plugin/.mim/configs/metafile.yml' in names
    assert not [name for name in names if '__pycache__' in name]


def test_sdist(tree):
    before = sorted(tree.rglob('*'))
    with tarfile.open(make_sdist(tree)) as archive:
        names = [name.partition('/')[-1] for name in archive.getnames()]
    assert_mim_is_whole(names)
    # What a wheel is built from, and what people look for.
    for name in [*CONFIGS, 'requirements/onedl.txt', 'setup.py', 'LICENSE',
                 'CITATION.cff', 'cyborgs_plugin/py.typed',
                 'cyborgs_plugin/visualization/pages/mask_page.js']:
        assert name in names
    left = [
        path for path in sorted(tree.rglob('*'))
        if path not in before and path.relative_to(tree).parts[0] not in
        ('dist', 'cyborgs_plugin.egg-info')
    ]
    assert not left


@pytest.mark.slow
def test_wheel_built_from_sdist_and_installed(tree, tmp_path):
    run('-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation',
        '--no-index', '-w', tmp_path, make_sdist(tree))
    wheel, = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        assert_mim_is_whole(archive.namelist())
        assert 'cyborgs_plugin/py.typed' in archive.namelist()
        assert {f'cyborgs_plugin/visualization/pages/{path.name}'
                for path in PAGES.iterdir()} <= {*archive.namelist()}
        top = {name.split('/')[0] for name in archive.namelist()}
        metadata, = (name for name in archive.namelist()
                     if name.endswith('METADATA'))
        fields = archive.read(metadata).decode().splitlines()
        scripts = archive.read(metadata.replace(
            'METADATA', 'entry_points.txt')).decode().split()
    assert scripts[-3:] == ['cyborgs', '=', 'cyborgs_plugin.__main__:main']
    assert top == {'cyborgs_plugin', 'cyborgs_plugin-0.1.0.dist-info'}
    assert 'Requires-Python: >=3.10' in fields
    assert {f'Provides-Extra: {extra}'
            for extra in ('dev', 'onedl', 'openmmlab', 'transfer',
                          'transfer-openmmlab', 'segmentation',
                          'segmentation-openmmlab')
            } <= set(fields)
    # Installing one family over the other would mix their files.
    assert not [
        line for line in fields if line.startswith('Requires-Dist: ')
        and 'mm' in line.split()[1] and 'extra ==' not in line
    ]

    site = tmp_path / 'site'
    run('-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index',
        '--target', site, wheel)
    child = tmp_path / 'child.py'
    child.write_text(CHILD)
    output = run('-c', LOAD_CHILD, site, child, cwd=tmp_path, command=python(),
                 env=dict(os.environ, PYTHONPATH=str(site)))
    assert 'Failed to search registry' not in output


@pytest.mark.slow
def test_editable_install_links(tree, tmp_path):
    site = tmp_path / 'site'
    site.mkdir()
    # What `pip install -e` calls, and what it called before PEP 660.
    if int(setuptools.__version__.split('.')[0]) >= 64:
        command = ['editable_wheel', '--dist-dir', site]
    else:
        command = ['develop', '--no-deps', '--install-dir', site]
    for _ in range(2):
        run('setup.py', '--quiet', *command, cwd=tree,
            env=dict(os.environ, PYTHONPATH=str(site)))
    mim = tree / 'cyborgs_plugin' / '.mim'
    assert sorted(path.name for path in mim.iterdir()) == [
        'configs', 'model-index.yml', 'tools'
    ]
    for link in mim.iterdir():
        assert link.is_symlink() and not os.path.isabs(os.readlink(link))
        assert link.resolve() == tree / link.name

    child = tmp_path / 'child.py'
    child.write_text(CHILD)
    output = run('-c', LOAD_CHILD, tree, child, cwd=tmp_path, command=python(),
                 env=dict(os.environ, PYTHONPATH=str(tree)))
    assert 'Failed to search registry' not in output


def test_unknown_config_is_named(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'cyborgs_plugin::no_such.py'")
    with pytest.raises(FileNotFoundError, match='names cyborgs_plugin::no_s'):
        Config.fromfile(child)


def test_bases_of_other_packages_resolve_as_before(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'mmpretrain::_base_/default_runtime.py'")
    assert Config.fromfile(child).default_scope == 'mmpretrain'


def test_model_index(tree):
    """mmengine and mim find every recipe through the index."""
    run('-c', 'import runpy, sys; sys.argv[1:] = ["--version"]; '
        'runpy.run_path("setup.py")["link_mim"]()', cwd=tree)
    package = str(tree / 'cyborgs_plugin')
    recipes = [Path(c).name for c in CONFIGS if Path(c).parent.name ==
               'configs']
    assert 'cyborgs_coco.py' in recipes
    for recipe in recipes:
        meta = _get_cfg_metainfo(package, recipe)
        assert meta['In Collection'] == 'CYBORGS'
        assert meta['Results'] is None and 'Weights' not in meta
        assert os.path.isfile(os.path.join(package, '.mim', meta['Config']))


def test_the_citation_has_this_version():
    assert f'\nversion: {__version__}\n' in (ROOT / 'CITATION.cff').read_text()
