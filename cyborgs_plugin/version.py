"""Version of the package, and checks of the packages that it needs."""

import contextlib
import functools
import importlib
import importlib.util
import io
from collections.abc import Iterator
from importlib import metadata
from types import ModuleType

from .errors import MissingPackageError

__version__ = '0.1.0'

# Module, lowest version, first version too new, and the requirement that
# brings it in the maintained (onedl) and in the original OpenMMLab family.
# The order matters: mmcv imports mmengine, mmpretrain imports both.
_REQUIRED = (
    ('mmengine', '0.8.3', '1.0.0', 'onedl-mmengine==0.10.12',
     'mmengine>=0.8.3,<1.0.0'),
    ('mmcv', '2.0.0', '2.4.0', 'onedl-mmcv==2.3.6', 'mmcv>=2.0.0,<2.2.0'),
    ('mmpretrain', '1.2.0', '2.0.0', 'onedl-mmpretrain==1.3.6',
     'mmpretrain>=1.2.0,<2.0.0'),
)

_PINS = {name: pins for name, _, _, *pins in _REQUIRED}

# Packages of either family, which install files of the same names.
_FAMILIES = dict(
    onedl=('onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain',
           'onedl-mmdetection', 'onedl-mmsegmentation'),
    openmmlab=('mmengine', 'mmengine-lite', 'mmcv', 'mmcv-lite', 'mmpretrain',
               'mmdet', 'mmsegmentation'))


def check_requirements() -> None:
    """Check that torch, mmengine, mmcv and mmpretrain are installed and fit.

    It also finds what would make importing mmpretrain, or training later,
    fail: a mix of both families, and, for the original one, unsuitable
    versions of numpy, setuptools, mmdet and mmsegmentation.

    Raises:
        ImportError: If one is missing, too old, too new or broken. The message
            names what was found, what is expected, and how to fix it.
    """
    _check_families()
    _import('torch', 'torch', '    pip install torch==2.10.0 '
            'torchvision==0.25.0')
    # Needed by torch's and mmengine's own requirements, so already installed.
    from packaging.version import Version

    for name, lowest, too_new, onedl, original in _REQUIRED:
        expected = f'{name} >= {lowest}, < {too_new}'
        remedy = _remedy(onedl, original)
        module = _import(name, expected, remedy)
        found = getattr(module, '__version__', None)
        if found is None:
            raise ImportError(
                _message(expected, f'a {name} without a version in '
                         f'{_where(module)}', remedy))
        if not Version(lowest) <= Version(found) < Version(too_new):
            raise ImportError(
                _message(expected, f'{name} {found} in {_where(module)}',
                         remedy))
        if name == 'mmcv' and _installed('openmmlab'):
            _check_beside_original()
    _check_beside_transformers()


@functools.cache
def _installed(family: str) -> dict[str, str]:
    """Version of each installed package of a family."""
    found = {}
    for name in _FAMILIES[family]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _check_families() -> None:
    """Refuse files of one family that overwrite those of the other."""
    both = {family: _installed(family) for family in _FAMILIES}
    if all(both.values()):
        there = {
            family: ', '.join(f'{name} {version}'
                              for name, version in found.items())
            for family, found in both.items()
        }
        names = ' '.join(name for found in both.values() for name in found)
        raise ImportError(
            _message(
                'one family of OpenMMLab packages',
                f'both, whose files have the same names: {there["onedl"]} of '
                f'the maintained and {there["openmmlab"]} of the original '
                'one',
                f'    pip uninstall -y {names}\n'
                'then install one of the extras cyborgs_plugin[onedl] and '
                'cyborgs_plugin[openmmlab]; detectors are in [transfer] and '
                '[transfer-openmmlab], segmentors in [segmentation] and '
                '[segmentation-openmmlab]'))


def _check_beside_original() -> None:
    """Check what the original family needs of other packages."""
    from packaging.version import Version
    numpy = metadata.version('numpy')
    if Version(numpy) >= Version('2'):
        raise ImportError(
            _message('numpy<2 with the original family of OpenMMLab',
                     f'numpy {numpy}', '    pip install "numpy<2"'))
    if importlib.util.find_spec('pkg_resources') is None:
        raise ImportError(
            _message(
                'setuptools<82 with the original family of OpenMMLab, whose '
                'mmengine imports pkg_resources', 'none with it',
                '    pip install "setuptools<82"'))
    found = _installed('openmmlab')
    mmcv = found.get('mmcv') or found.get('mmcv-lite')
    for name in ('mmdet', 'mmsegmentation'):
        if name in found and mmcv and Version(mmcv) >= Version('2.2.0'):
            raise ImportError(
                _message(f'mmcv < 2.2.0 with {name} {found[name]}',
                         f'mmcv {mmcv}',
                         f'    pip install --no-build-isolation '
                         f'"{_PINS["mmcv"][1]}"'))


def _check_beside_transformers() -> None:
    """Check that the models of mmpretrain import.

    Where transformers and pycocotools are installed, it imports its multimodal
    models, too. They use what transformers 5 no longer has.
    """
    from packaging.version import Version
    try:
        found = metadata.version('transformers')
    except metadata.PackageNotFoundError:
        return
    if Version(found) < Version('5'):
        return
    try:
        with without_notice():
            importlib.import_module('mmpretrain.models')
    except TypeError as error:
        raise ImportError(
            _message(
                'transformers < 5, or none',
                f'transformers {found}, beside which mmpretrain does not '
                f'import ({error})', '    pip install "transformers<5"\n'
                'or, if nothing else needs it:\n'
                '    pip uninstall -y transformers')) from error


def require_mmcv_ops() -> None:
    """Check that mmcv has its compiled ops.

    Pretraining does not need them, but the detectors and segmentors of the
    transfer configs do.

    Raises:
        ImportError: If mmcv was installed without its ops, or with ops built
            for another torch.
    """
    import mmcv
    try:
        import mmcv.ops  # noqa: F401
    except ImportError as error:
        package = _PINS['mmcv'][bool(_installed('openmmlab'))]
        raise MissingPackageError(
            f'Detectors and segmentors need the compiled ops of mmcv, but '
            f'mmcv {mmcv.__version__} in {_where(mmcv)} has none that load '
            f'({error}): it is mmcv-lite, or was built with build isolation '
            f'or for another torch. Build it again (10 minutes on 2 cores; '
            f'leave out FORCE_CUDA=0 where a GPU and the CUDA toolkit are):\n'
            f'    pip install "setuptools>=80,<82" wheel ninja psutil\n'
            f'    FORCE_CUDA=0 pip install --no-build-isolation '
            f'--no-cache-dir --force-reinstall --no-deps "{package}"'
        ) from error


@contextlib.contextmanager
def without_notice() -> Iterator[None]:
    """Keep a line off stdout that mmpretrain prints as it is imported.

    It says that a data platform is missing, which nothing here needs, and
    would precede what scripts read from stdout.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        for line in said.getvalue().splitlines():
            if line != 'Could not import OneDL':
                print(line)


def _import(name: str, expected: str, remedy: str) -> ModuleType:
    """Import a required module, or say how to install it."""
    try:
        return importlib.import_module(name)
    # Packages of the toolbox check one another's versions with an assert.
    except (ImportError, AssertionError) as error:
        if 'libGL' in str(error):  # of OpenCV with windows, which none needs
            remedy = ('    pip uninstall -y opencv-python\n'
                      '    pip install --force-reinstall '
                      'opencv-python-headless')
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        found = (f'no {name}'
                 if absent else f'a {name} that does not import: {error}')
        raise ImportError(_message(expected, found, remedy)) from error


def _message(expected: str, found: str, remedy: str) -> str:
    return (f'cyborgs_plugin {__version__} needs {expected}, but found '
            f'{found}.\nTo fix it:\n{remedy}')


def _where(module: ModuleType) -> str:
    return next(iter(getattr(module, '__path__', [])), repr(module))


def _remedy(onedl: str, original: str) -> str:
    # mmcv alone is compiled, against the torch already installed.
    flag = '--no-build-isolation ' if 'mmcv' in onedl else ''
    lines = dict(
        onedl=f'    pip install {flag}"{onedl}"  # maintained family',
        openmmlab=f'    pip install {flag}"{original}"  # original family')
    there = [line for family, line in lines.items() if _installed(family)]
    if there:
        return there[0]
    return '\n'.join(lines.values()) + (
        '\nOne of the two, never both: they install files of the same names. '
        'All at once: `make setup` in a checkout, or the extra '
        'cyborgs_plugin[onedl] or cyborgs_plugin[openmmlab].')
