"""Who may know what: the walls between the rooms of the package."""
import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / 'cyborgs_plugin'
# What each room imports of the others, beside the files of no room.
ROOMS = {
    'ops': set(),
    'models': {'ops'},
    'datasets': {'ops'},
    'visualization': {'ops'},
    'segmentation': {'ops', 'datasets'},
    'evaluation': {'ops', 'datasets', 'models'},
    'transfer': set(),
    'engine': {
        'ops', 'datasets', 'segmentation', 'evaluation', 'transfer',
        'visualization'
    },
    'advice': {'datasets', 'segmentation', 'transfer', 'visualization',
               'engine'},
}
# Files of no room, which import no room: all may use them. (The front doors,
# __main__ and api, use all, and none uses them.)
COMMON = {
    'arguments', 'commands', 'config_path', 'errors', 'factories', 'files',
    'findings', 'layer_outputs', 'precision', 'safe_load', 'start_file',
    'timm_cache', 'version'
}
RUNNER = ('mmengine.runner', 'mmengine.hooks')
FORBIDDEN = {
    'ops': ('mmengine', 'mmcv', 'mmpretrain', 'os'),
    'models': (*RUNNER, 'mmengine.fileio', 'os', 'pathlib', 'cv2'),
    'datasets': RUNNER,
    'segmentation': RUNNER,
    'evaluation': RUNNER,
    'visualization': RUNNER,
}


def imports(path):
    """Absolute names of all that a file imports, anywhere in it."""
    place = ('cyborgs_plugin', *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = place[:len(place) - node.level + 1] if node.level else ()
            yield '.'.join([*start, *filter(None, [node.module])])


def files_of(room):
    found = sorted((PACKAGE / room).rglob('*.py'))
    assert len(found) > 1
    return found


def test_every_folder_is_a_room():
    folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert folders == set(ROOMS)


@pytest.mark.parametrize('room', ROOMS)
def test_walls_between_rooms(room):
    for path in files_of(room):
        for name in imports(path):
            parts = name.split('.')
            if parts[0] == 'cyborgs_plugin':
                assert len(parts) > 1 and parts[1] in (
                    {room} | ROOMS[room] | COMMON), f'{path} imports {name}'


@pytest.mark.parametrize('room', FORBIDDEN)
def test_walls_to_the_outside(room):
    for path in files_of(room):
        for name in imports(path):
            for wall in FORBIDDEN[room]:
                assert name != wall and not name.startswith(f'{wall}.'), \
                    f'{path} imports {name}'


@pytest.mark.parametrize('name', sorted(COMMON))
def test_common_files_import_no_room(name):
    for found in imports(PACKAGE / f'{name}.py'):
        parts = found.split('.')
        assert parts[0] != 'cyborgs_plugin' or parts[1] in COMMON


def test_tools_import_no_private_names_of_each_other():
    tools = PACKAGE.parent / 'tools'
    names = {path.stem for path in tools.rglob('*.py')}
    for path in tools.rglob('*.py'):
        assert 'sys.path' not in path.read_text(), path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in names:
                assert not [alias.name for alias in node.names
                            if alias.name.startswith('_')], path
