"""What a test needs that not every environment has (docs/compatibility.md).

``@pytest.mark.needs('ops', 'torch>=2.6')`` skips a test and says why.
"""
import functools
from importlib import metadata

import pytest

from cyborgs_plugin.version import _installed


@functools.cache
def lacking(need):
    """Why a test that needs this cannot run here; None where it can.

    Args:
        need (str): ``ops``, the compiled ops of mmcv; ``onedl``, the
            maintained family of OpenMMLab packages; or a requirement as pip
            takes it.
    """
    from packaging.requirements import Requirement
    if need == 'ops':
        try:
            import mmcv.ops  # noqa: F401
        except ImportError as error:
            return f'needs the compiled ops of mmcv: {error}'
        return None
    if need == 'onedl':
        return None if _installed('onedl') else (
            'needs the maintained family of OpenMMLab packages')
    wanted = Requirement(need)
    try:
        found = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f'needs {need}, which is not installed'
    # versions of builds (2.1.2+cu121) and of the future count as well
    if wanted.specifier.contains(found, prereleases=True):
        return None
    return f'needs {need}, but {found} is installed'


def skip_lacking(items):
    """Skip the tests that need what is not here."""
    for item in items:
        for mark in item.iter_markers('needs'):
            for need in mark.args:
                if reason := lacking(need):
                    item.add_marker(pytest.mark.skip(reason=reason))
