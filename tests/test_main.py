"""The front door finds every tool and runs it."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cyborgs_plugin import commands
from cyborgs_plugin.__main__ import find_tools, main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def door(monkeypatch, capsys, tmp_path):
    """Come in by `cyborgs`; give exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, 'DOOR', [])
    monkeypatch.setattr(sys, 'path', [*sys.path])

    def run(*words, by='/venv/bin/cyborgs'):
        monkeypatch.setattr(sys, 'argv', [by, *words])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_every_script_is_a_tool_once():
    scripts = [
        path.stem for path in (ROOT / 'tools').rglob('*.py')
        if '\nif __name__' in path.read_text() and path.stem != 'demo'
    ]
    assert sorted(find_tools()) == sorted(scripts)
    assert {'train', 'publish_backbone', 'make_toy_scenes'} <= set(scripts)


def test_runs_a_tool_as_a_script(tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'cyborgs_plugin', 'make_toy_scenes',
         '--num-train', '1', '--num-val', '1', '--out', 'toy'],
        cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'toy' / 'train2017').is_dir()
    # what it was come in by, and nothing else: scripts read the output
    assert done.stdout.splitlines()[-1].startswith(
        'Next: python -m cyborgs_plugin train ')
    assert 'OneDL' not in done.stdout


@pytest.mark.parametrize('words, code', [(['--help'], 0), ([], 2)])
@pytest.mark.parametrize('by, name', [
    ('/venv/bin/cyborgs', 'cyborgs'),
    ('/x/cyborgs_plugin/__main__.py', 'python -m cyborgs_plugin')])
def test_lists_the_tools(words, code, by, name, door):
    found, said, _ = door(*words, by=by)
    assert found == code and f'usage: {name} COMMAND' in said
    rows = [line.split(maxsplit=1) for line in said.splitlines()]
    assert ['publish', 'Take the backbone out of a training checkpoint.'
            ] in rows
    assert ' generate_masks ' in said.replace('\n', ' ')


def test_short_names_are_those_of_tools(door):
    tools = find_tools()
    for word, tool in commands.SHORT.items():
        if tool != 'report':  # it may come later
            assert tool in tools, word
    code, said, _ = door('masks', '--help')
    assert code == 0 and '--num-images' in said


def test_messages_name_the_door_that_one_came_by(door):
    code, said, _ = door('make_toy_scenes', '--num-train', '1', '--num-val',
                         '0')
    assert code == 0 and said.splitlines()[-1] == (
        'Next: cyborgs train cyborgs_plugin::cyborgs_toy.py')
    assert commands.command('model_converters/publish_backbone', 'a b') == (
        "cyborgs publish 'a b'")


def test_unknown_tools_are_named(door):
    code, _, error = door('trian')
    assert code == 2 and (
        "no tool 'trian'; did you mean 'train'? There are" in error)


def test_a_recipe_that_there_is_not(door):
    code, said, error = door('train', 'cyborgs_plugin::x.py')
    assert code == 1 and "no config 'x.py'" in said + error
    assert 'Traceback' not in said + error
