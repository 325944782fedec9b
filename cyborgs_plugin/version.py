"""Version of the package, and checks of the packages that it stands on."""

import importlib
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


def check_requirements() -> None:
    """Check that torch, mmengine, mmcv and mmpretrain are there and fit.

    Raises:
        ImportError: If one is missing, too old, too new or broken. The
            message names what was found, what is expected, and how to mend
            it.
    """
    _import('torch', 'torch', '    pip install torch==2.10.0 '
            'torchvision==0.25.0')
    # Needed by torch's and mmengine's own requirements, so there by now.
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


def require_mmcv_ops() -> None:
    """Check that mmcv has its compiled ops.

    Pretraining does without them; the detectors and segmentors of the
    transfer configs do not.

    Raises:
        ImportError: If mmcv was installed without its ops, or with ops built
            for another torch.
    """
    import mmcv
    try:
        import mmcv.ops  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f'Detectors and segmentors need the compiled ops of mmcv, but '
            f'mmcv {mmcv.__version__} in {_where(mmcv)} has none that load '
            f'({error}): it is mmcv-lite, or was built with build isolation '
            f'or for another torch. Build it again (10 minutes on 2 cores; '
            f'leave out FORCE_CUDA=0 where a GPU and the CUDA toolkit are):\n'
            f'    pip install "setuptools>=80,<82" wheel ninja psutil\n'
            f'    FORCE_CUDA=0 pip install --no-build-isolation '
            f'--no-cache-dir --force-reinstall --no-deps onedl-mmcv==2.3.6'
        ) from error


def _import(name: str, expected: str, remedy: str) -> ModuleType:
    """Import a required module, or say how to get it."""
    try:
        return importlib.import_module(name)
    # Packages of the toolbox check one another's versions with an assert.
    except (ImportError, AssertionError) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        found = (f'no {name}'
                 if absent else f'a {name} that does not import: {error}')
        raise ImportError(_message(expected, found, remedy)) from error


def _message(expected: str, found: str, remedy: str) -> str:
    return (f'cyborgs_plugin {__version__} needs {expected}, but found '
            f'{found}.\nTo mend it:\n{remedy}')


def _where(module: ModuleType) -> str:
    return next(iter(getattr(module, '__path__', [])), repr(module))


def _remedy(onedl: str, original: str) -> str:
    # mmcv alone is compiled, against the torch already installed.
    flag = '--no-build-isolation ' if 'mmcv' in onedl else ''
    return (f'    pip install {flag}"{onedl}"  # maintained family\n'
            f'    pip install {flag}"{original}"  # original family\n'
            f'One of the two, never both: they install files of the same '
            f'names. All at once: `make setup` in a checkout, or the extra '
            f'cyborgs_plugin[onedl] or cyborgs_plugin[openmmlab].')
