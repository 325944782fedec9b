"""`import cyborgs_plugin` says what is wrong with what it stands on."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import mmcv
import pytest

import cyborgs_plugin
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


@pytest.mark.parametrize('modules, found, remedies', [
    (dict(torch=missing('torch')), 'needs torch, but found no torch.',
     ['pip install torch==2.10.0 torchvision==0.25.0']),
    (dict(torch='2.10.0', mmengine=missing('mmengine')),
     'needs mmengine >= 0.8.3, < 1.0.0, but found no mmengine.',
     ['"onedl-mmengine==0.10.12"', '"mmengine>=0.8.3,<1.0.0"']),
    (dict(FITTING, mmengine='0.7.4'), 'but found mmengine 0.7.4 in ',
     ['"onedl-mmengine==0.10.12"', '"mmengine>=0.8.3,<1.0.0"']),
    (dict(FITTING, mmcv=missing('mmcv')),
     'needs mmcv >= 2.0.0, < 2.4.0, but found no mmcv.', [
         '--no-build-isolation "onedl-mmcv==2.3.6"',
         '"mmcv>=2.0.0,<2.2.0"', 'cyborgs_plugin[onedl]',
         'cyborgs_plugin[openmmlab]', 'never both'
     ]),
    (dict(FITTING, mmcv='1.7.2'), 'but found mmcv 1.7.2 in ',
     ['"onedl-mmcv==2.3.6"']),
    (dict(FITTING, mmcv='2.4.0'), 'but found mmcv 2.4.0 in ',
     ['"onedl-mmcv==2.3.6"']),
    (dict(FITTING, mmcv='pass'), 'but found a mmcv without a version in ',
     ['"onedl-mmcv==2.3.6"']),
    (dict(FITTING, mmpretrain=missing('mmpretrain')),
     'needs mmpretrain >= 1.2.0, < 2.0.0, but found no mmpretrain.',
     ['"onedl-mmpretrain==1.3.6"', '"mmpretrain>=1.2.0,<2.0.0"']),
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


def test_package_never_imports_mmdet():
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
            assert not any(name.split('.')[0] == 'mmdet' for name in names), \
                f'{source}:{node.lineno}'


@pytest.mark.slow
def test_works_without_mmdet():
    code = ("import sys; sys.modules['mmdet'] = None; import cyborgs_plugin; "
            "from mmpretrain.registry import MODELS; "
            "assert MODELS.get('CYBORGS')")
    subprocess.run([sys.executable, '-c', code], check=True)
