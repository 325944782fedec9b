"""`import cyborgs_plugin` says what is wrong with what it stands on."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import mmcv
import pytest

import cyborgs_plugin
from cyborgs_plugin import version
from cyborgs_plugin.version import require_mmcv_ops

PACKAGE = Path(cyborgs_plugin.__file__).parent

FITTING = dict(torch='2.10.0', mmengine='0.10.12', mmcv='2.3.6')


def import_with(folder, modules):
    """Import the package where some modules are replaced by others.

    Args:
        folder (Path): Where to write the replacements.
        modules (dict): A version, or code to run, by name of the module.

    Returns:
        str: The last exception, as Python prints it.
    """
    for name, content in modules.items():
        if content[0].isdigit():
            content = f'__version__ = {content!r}'
        (folder / name).mkdir()
        (folder / name / '__init__.py').write_text(content)
    path = os.pathsep.join([str(folder), str(PACKAGE.parent)])
    done = subprocess.run([sys.executable, '-c', 'import cyborgs_plugin'],
                          env=dict(os.environ, PYTHONPATH=path),
                          capture_output=True,
                          text=True)
    assert done.returncode == 1
    return done.stderr.split('Traceback (most recent call last):')[-1]


def missing(name):
    return f'raise ModuleNotFoundError("No module named {name!r}", ' \
        f'name={name!r})'


@pytest.mark.needs('onedl')  # which the remedies name
@pytest.mark.parametrize('modules, found, remedies', [
    (dict(torch=missing('torch')), 'needs torch, but found no torch.',
     ['pip install torch==2.10.0 torchvision==0.25.0']),
    (dict(torch='2.10.0', mmengine=missing('mmengine')),
     'needs mmengine >= 0.8.3, < 1.0.0, but found no mmengine.',
     ['"onedl-mmengine==0.10.12"']),
    (dict(FITTING, mmengine='0.7.4'), 'but found mmengine 0.7.4 in ',
     ['"onedl-mmengine==0.10.12"']),
    (dict(FITTING, mmcv=missing('mmcv')),
     'needs mmcv >= 2.0.0, < 2.4.0, but found no mmcv.',
     ['--no-build-isolation "onedl-mmcv==2.3.6"']),
    (dict(FITTING, mmcv='1.7.2'), 'but found mmcv 1.7.2 in ',
     ['"onedl-mmcv==2.3.6"']),
    (dict(FITTING, mmcv='2.4.0'), 'but found mmcv 2.4.0 in ',
     ['"onedl-mmcv==2.3.6"']),
    (dict(FITTING, mmcv='pass'), 'but found a mmcv without a version in ',
     ['"onedl-mmcv==2.3.6"']),
    (dict(FITTING, mmpretrain=missing('mmpretrain')),
     'needs mmpretrain >= 1.2.0, < 2.0.0, but found no mmpretrain.',
     ['"onedl-mmpretrain==1.3.6"']),
    (dict(FITTING, mmpretrain='1.0.0rc7'),
     'but found mmpretrain 1.0.0rc7 in ', ['"onedl-mmpretrain==1.3.6"']),
    (dict(FITTING, mmpretrain='assert False, "MMCV==2.3.6 is used"'),
     'a mmpretrain that does not import: MMCV==2.3.6 is used',
     ['"onedl-mmpretrain==1.3.6"']),
    (dict(FITTING, mmpretrain=missing('einops')),
     "a mmpretrain that does not import: No module named 'einops'",
     ['"onedl-mmpretrain==1.3.6"']),
])
def test_unfit_requirements(tmp_path, modules, found, remedies):
    error = import_with(tmp_path, modules)
    assert error.strip().splitlines()[-1] and 'ImportError: cyborgs_' in error
    assert found in error
    for remedy in remedies:
        assert remedy in error


@pytest.fixture
def having(monkeypatch):
    """Pretend that these packages are installed, and none else."""

    def pretend(**packages):
        versions = {name.replace('_', '-'): version
                    for name, version in packages.items()}

        def look_up(name):
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(version.metadata, 'version', look_up)
        version._installed.cache_clear()

    yield pretend
    version._installed.cache_clear()


ORIGINAL = dict(mmengine='0.10.7', mmcv='2.1.0', mmpretrain='1.2.0',
                numpy='1.26.4')


@pytest.mark.parametrize('packages, found, remedy', [
    (dict(onedl_mmcv='2.3.6', mmcv='2.1.0'),
     'both, .*onedl-mmcv 2.3.6 of the maintained and mmcv 2.1.0 of the',
     'pip uninstall -y onedl-mmcv mmcv'),
    (dict(ORIGINAL, onedl_mmdetection='3.5.1'), 'onedl-mmdetection 3.5.1',
     r'\[transfer-openmmlab\]'),
    (dict(ORIGINAL, numpy='2.4.6'), 'found numpy 2.4.6',
     'pip install "numpy<2"'),
    (dict(ORIGINAL, mmcv='2.2.0', mmdet='3.3.0'), 'mmcv < 2.2.0 with mmdet '
     '3.3.0, but found mmcv 2.2.0', '"mmcv>=2.0.0,<2.2.0"'),
    (dict(ORIGINAL, mmcv='2.2.0', mmsegmentation='1.2.2'), 'with '
     'mmsegmentation 1.2.2, but found mmcv 2.2.0', '"mmcv>=2.0.0,<2.2.0"'),
    (dict(ORIGINAL, onedl_mmsegmentation='1.4.2'),
     'onedl-mmsegmentation 1.4.2', r'\[segmentation-openmmlab\]'),
])
def test_what_does_not_fit_together(having, packages, found, remedy):
    having(**packages)
    with pytest.raises(ImportError, match=f'(?s){found}.*{remedy}'):
        version.check_requirements()


def test_transformers_that_mmpretrain_does_not_import_beside(
        having, monkeypatch):
    ours = {name: metadata.version(name) for name in (
        'onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain')}
    real = importlib.import_module

    def fail(name, *args):
        if name == 'mmpretrain.models':
            raise TypeError('NoneType takes no arguments')
        return real(name, *args)

    having(**ours, transformers='5.17.0')
    version.check_requirements()  # without pycocotools, say: it imports
    monkeypatch.setattr(version.importlib, 'import_module', fail)
    with pytest.raises(ImportError, match='(?s)found transformers 5.17.0, bes'
                       'ide .*NoneType.*"transformers<5"'):
        version.check_requirements()
    having(**ours, transformers='4.57.1')
    version.check_requirements()


def test_the_original_family_needs_pkg_resources(having, monkeypatch):
    having(**ORIGINAL)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *args: None
        if name == 'pkg_resources' else find(name, *args))
    with pytest.raises(ImportError, match='"setuptools<82"'):
        version.check_requirements()


def test_remedies_are_of_the_family_that_is_there(having, monkeypatch):
    """Or of both, if none is."""
    monkeypatch.setitem(sys.modules, 'mmengine', None)
    for packages, said, unsaid in (
            (ORIGINAL, '"mmengine>=0.8.3,<1.0.0"', 'onedl'),
            (dict(onedl_mmcv='2.3.6'), 'onedl-mmengine', 'original family'),
            ({}, 'original family', None), ({}, 'maintained family', None),
            ({}, 'never both', None)):
        having(**packages)
        with pytest.raises(ImportError) as error:
            version.check_requirements()
        assert said in str(error.value)
        assert unsaid is None or unsaid not in str(error.value)
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    having(**ORIGINAL)
    with pytest.raises(ImportError, match='--no-deps "mmcv>=2.0.0,<2.2.0"'):
        require_mmcv_ops()


def test_the_extras_mix_no_families():
    root = PACKAGE.parent / 'requirements'
    for file in ('onedl', 'transfer', 'segmentation', 'openmmlab',
                 'transfer-openmmlab', 'segmentation-openmmlab'):
        for line in (root / f'{file}.txt').read_text().splitlines():
            name = re.match(r'[\w-]*', line)[0]
            if 'mm' in name:
                assert name.startswith('onedl-') != ('openmm' in file), line


@pytest.mark.needs('onedl', 'ops')
def test_ops_present_or_named(monkeypatch):
    require_mmcv_ops()
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    with pytest.raises(ImportError) as error:
        require_mmcv_ops()
    assert f'mmcv {mmcv.__version__} in ' in str(error.value)
    assert '--no-build-isolation' in str(error.value)
    assert 'onedl-mmcv==2.3.6' in str(error.value)


def test_pins_agree():
    """What the messages tell to install is what the set-up installs."""
    text = (PACKAGE / 'version.py').read_text()
    root = PACKAGE.parent / 'requirements'
    for name in ('torch', 'onedl', 'openmmlab'):
        for line in (root / f'{name}.txt').read_text().splitlines():
            if not line.startswith('#'):
                assert line in text, f'{line} of {name}.txt'


def test_imports_are_declared():
    """Whatever the package imports at once is a requirement of its own."""
    distributions = dict(
        PIL='Pillow', cv2='opencv-python', skimage='scikit-image',
        sklearn='scikit-learn')
    declared = {'torch', 'torchvision', 'mmcv', 'mmengine', 'mmpretrain'}
    text = (PACKAGE.parent / 'requirements' / 'runtime.txt').read_text()
    declared |= {
        line.strip() for line in text.splitlines() if line[:1] not in '#'
    }
    for source in PACKAGE.rglob('*.py'):
        if '.mim' in source.parts:
            continue
        for node in ast.parse(source.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in {name.split('.')[0] for name in names}:
                assert (name in sys.stdlib_module_names
                        or distributions.get(name, name) in declared), \
                    f'{source}:{node.lineno}: {name}'


def test_package_never_imports_mmdet_or_mmseg():
    sources = list(PACKAGE.rglob('*.py'))
    assert len(sources) > 10
    for source in sources:
        if '.mim' in source.parts:
            continue
        for node in ast.walk(ast.parse(source.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or '']
            assert not {name.split('.')[0] for name in names} & {
                'mmdet', 'mmseg'}, f'{source}:{node.lineno}'


@pytest.mark.slow
def test_works_without_mmdet_and_mmseg():
    code = ("import sys; sys.modules['mmdet'] = sys.modules['mmseg'] = None; "
            "import cyborgs_plugin; "
            "from mmpretrain.registry import MODELS; "
            "assert MODELS.get('CYBORGS')")
    subprocess.run([sys.executable, '-c', code], check=True)
