"""python -m cyborgs_plugin finds every tool and runs it."""
import subprocess
from pathlib import Path

import pytest

from cyborgs_plugin.__main__ import find_tools

from .warm_python import python

ROOT = Path(__file__).parents[1]


def run(*arguments, cwd):
    done = subprocess.run([python(), '-m', 'cyborgs_plugin', *arguments],
                          cwd=cwd, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_every_script_is_a_tool_once():
    scripts = [
        path.stem for path in (ROOT / 'tools').rglob('*.py')
        if '\nif __name__' in path.read_text() and path.stem != 'demo'
    ]
    assert sorted(find_tools()) == sorted(scripts)
    assert {'train', 'publish_backbone', 'make_toy_scenes'} <= set(scripts)


def test_runs_a_tool_as_a_script(tmp_path):
    code, said, _ = run('make_toy_scenes', '--num-train', '1', '--num-val',
                        '1', '--out', 'toy', cwd=tmp_path)
    assert code == 0 and (tmp_path / 'toy' / 'train2017').is_dir(), said


@pytest.mark.parametrize('arguments, code', [(['--help'], 0), ([], 2)])
def test_lists_the_tools(arguments, code, tmp_path):
    found, said, _ = run(*arguments, cwd=tmp_path)
    assert found == code and 'publish_backbone' in said


def test_unknown_tools_are_named(tmp_path):
    code, _, error = run('trian', cwd=tmp_path)
    assert code == 2 and "no tool 'trian'" in error and ' train' in error


def test_a_recipe_that_there_is_not(tmp_path):
    code, said, error = run('train', 'cyborgs_plugin::x.py', cwd=tmp_path)
    assert code == 1 and "no config 'x.py'" in said + error
    assert 'Traceback' not in said + error
