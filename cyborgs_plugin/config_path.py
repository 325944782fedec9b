"""Configs of this package by name: ``cyborgs_plugin::cyborgs_coco.py``."""
import os
import os.path as osp
import re
from importlib.util import find_spec

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE, ConfigParsingError
from mmengine.utils import is_installed

from .errors import MissingFileError, MissingPackageError, UserError

_PREFIX = 'cyborgs_plugin::'
_EXTRAS = dict(mmdet='transfer', mmseg='segmentation')
"""What brings the package of a ``default_scope``."""


def find_config(name: str) -> str:
    """Find the path of a config.

    Args:
        name (str): A path, or ``cyborgs_plugin::`` and a path below
            ``configs/``.

    Returns:
        str: The path.

    Raises:
        MissingFileError: If there is no such config.
    """
    if not name.startswith(_PREFIX):
        if not osp.isfile(osp.expanduser(name)):
            raise MissingFileError(
                f'There is no config {name!r} (the current folder is '
                f'{os.getcwd()}). Those of this package also go by '
                f'{_PREFIX}NAME')
        return name
    inside = name[len(_PREFIX):]
    folder = osp.join(osp.dirname(__file__), '.mim', 'configs')
    path = osp.join(folder, inside)
    if not osp.isfile(path):
        hint = ('see the folder for what there is' if osp.isdir(folder) else
                'the folder is missing: install the package (`make setup` or '
                '`pip install -e .` in a checkout)')
        raise MissingFileError(
            f'There is no config {inside!r} in {folder}; {hint}')
    return path


def load_config(name: str) -> Config:
    """Read a config.

    Args:
        name (str): See :func:`find_config`.

    Returns:
        Config: The config.

    Raises:
        UserError: If it or one of its bases is missing or is not valid Python,
            or if the package of its ``default_scope`` is not installed.
    """
    substitute = Config._substitute_env_variables

    def checked(filename: str, temp_config_name: str) -> dict[str, str]:
        _check_variables(filename, name)
        return substitute(filename, temp_config_name)

    Config._substitute_env_variables = staticmethod(checked)
    try:
        cfg = Config.fromfile(find_config(name))
    except MissingFileError:
        raise
    except FileNotFoundError as error:  # of a base
        raise MissingFileError(f'{name}: {error}') from error
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f'{name}: {error}. Its _base_ or custom_imports need it: see the '
            'extras of requirements/') from error
    except ImportError as error:  # of custom_imports
        raise MissingPackageError(
            f'{name}: {_failed_import(error)}') from error
    except (OSError, SyntaxError) as error:
        raise UserError(
            f'{name} cannot be read as a config, which is a file of Python '
            f'with the ending .py: {error}') from error
    except ConfigParsingError as error:  # of read_base
        raise UserError(f'{name}: {error}') from error
    except KeyError as error:
        if not str(error.args[0]).startswith('Duplicate key'):
            raise
        raise UserError(
            f'{name}: {error.args[0]}. Of several bases no two may set the '
            'same key; name the one that holds the others') from error
    finally:
        Config._substitute_env_variables = staticmethod(substitute)
    scope = cfg.get('default_scope')
    if scope in _EXTRAS and find_spec(scope) is None:
        raise MissingPackageError(
            f'{name} is of {scope}, which is not installed: it comes with '
            f'{_extra_of(scope)}')
    return cfg


def _extra_of(package: str) -> str:
    extra = _EXTRAS[package]
    return (f'the extra cyborgs_plugin[{extra}], or with the original '
            f'OpenMMLab packages [{extra}-openmmlab]')


def _failed_import(error: BaseException) -> str:
    """What failed, without the search path that mmengine prints."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    said = [str(one) for one in chain[1:]] or [str(error)]
    package = said[0].removeprefix('Failed to import ').split('.')[0]
    hint = (f'{package} comes with {_extra_of(package)}'
            if package in _EXTRAS else 'if it is a module of your own, set '
            'PYTHONPATH to its folder')
    return f'custom_imports: {": ".join(said)}; {hint}'


def _check_variables(filename: str, name: str) -> None:
    """Refuse environment variables that would end a string in a config.

    mmengine pastes the value of ``{{$NAME:default}}`` into the Python of the
    config.
    """
    with open(filename, encoding='utf-8') as file:
        names = re.findall(r'\{\{[\'"]?\s*\$(\w+)', file.read())
    for variable in names:
        value = os.environ.get(variable, '')
        if re.search(r'[\'"\\\n\r{}]', value):
            raise UserError(
                f'{variable}={value!r} would be pasted into the Python of '
                f'{name}: it must not hold quotes, braces, backslashes or '
                'line breaks. Rename the folder, make a link to it, or set '
                'what the config makes of it with --cfg-options')


def resolve_own_configs() -> None:
    """Let mmengine resolve ``_base_ = 'cyborgs_plugin::cyborgs_coco.py'``.

    mmengine itself resolves only the packages of a fixed table and requires a
    folder in the name. There is no supported way to add one: mmengine#1410
    asks for it, and #1411, which opened the table, was closed without being
    merged. So a private method is replaced, which both families have; see
    tests/test_config_path.py.

    A config found here gets no scope of its own, as if its path had been
    given. Otherwise mmengine would add the scope to every dict
    with a ``type``, including ``collate_fn``, whose function would then get it
    as an argument.

    It also lets mmengine resolve ``mmseg::`` in the OneDL family, where the
    distribution has another name than in mmengine's table.
    """
    resolve = Config._get_cfg_path
    if find_spec('mmseg') and not is_installed('mmsegmentation'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if not cfg_path.startswith(_PREFIX):
            return resolve(cfg_path, filename)
        try:
            return find_config(cfg_path), None
        except FileNotFoundError as error:
            raise MissingFileError(
                f'`_base_` of {filename} names {cfg_path}. {error}') from error

    Config._get_cfg_path = staticmethod(get_cfg_path)
