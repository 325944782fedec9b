"""Commands in messages can be copied to where the message was printed."""
import argparse
import ast
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from cyborgs_plugin import commands
from cyborgs_plugin.__main__ import find_tools
from cyborgs_plugin.arguments import at_least
from cyborgs_plugin.commands import command

ROOT = Path(commands.__file__).parents[1]
PUBLISH = 'model_converters/publish_backbone'


def test_in_a_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command(PUBLISH, 'a b.pth') == (
        "python tools/model_converters/publish_backbone.py 'a b.pth'")


def test_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "it's $HOME.pth"
    said = command(PUBLISH, name, '--out-dir', 'x')
    assert shlex.split(said) == ['python', '-m', 'cyborgs_plugin',
                                 'publish_backbone', name, '--out-dir', 'x']
    assert 'publish_backbone' in find_tools()


def test_of_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, '_CHECKOUT', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert command('train', 'x.py') == 'python -m cyborgs_plugin train x.py'


def test_in_a_folder_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.rmdir(tmp_path)
    assert command('train').startswith('python -m')


@pytest.mark.parametrize('place', ['tools', 'cyborgs_plugin'])
def test_tools_that_commands_name_exist(place):
    for path in (ROOT / place).rglob('*.py'):
        for tool in re.findall(r"\bcommand\(\s*['\"]([\w/]+)['\"]",
                               path.read_text()):
            assert (ROOT / 'tools' / f'{tool}.py').is_file(), (path, tool)


def test_no_message_names_a_path_of_a_checkout():
    """An installed package has no tools/ in the current folder."""
    for place in ('tools', 'cyborgs_plugin'):
        for path in (ROOT / place).rglob('*.py'):
            if path.stem == 'demo':  # which runs in a checkout alone
                continue
            tree = ast.parse(path.read_text())
            texts = {
                id(node.body[0].value) for node in ast.walk(tree)
                if isinstance(node, (ast.Module, ast.ClassDef,
                                     ast.FunctionDef))
                and isinstance(node.body[0], ast.Expr)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(
                        node.value, str) and id(node) not in texts:
                    found = re.search(r'(python|bash) tools/(?=\w)',
                                      node.value)
                    assert not found, f'{path}:{node.lineno}: {node.value}'


def test_numbers_from_the_least_one_on():
    assert at_least(0)('0') == 0 and at_least(2)('12') == 12
    for text in ('1', '-3', '2.5', 'x', ''):
        with pytest.raises(argparse.ArgumentTypeError, match='from 2 on'):
            at_least(2)(text)


@pytest.mark.parametrize('words', [
    'browse_masks.py photos masks --num-images 0',
    'evaluate_masks.py --ann x.json --floor 5 0',
    'evaluate_masks.py --ann x.json --floor 5 --seeds 0',
    'evaluate_masks.py --ann x.json --floor 5 --max-images -1',
    'dataset_converters/make_toy_scenes.py --num-train -3',
    'benchmarks/frozen_probes.py resnet18 --long-side -5',
    'benchmarks/frozen_probes.py resnet18 --grid-stride 0',
    'benchmarks/frozen_probes.py resnet18 --max-images -3',
    'benchmarks/mini_coco.py --steps -3',
    'benchmarks/continue_from.py --start x --epochs 0'])
def test_tools_refuse_numbers_without_sense(words, monkeypatch, capsys):
    tool, *arguments = words.split()
    monkeypatch.syspath_prepend(str((ROOT / 'tools' / tool).parent))
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    assert stopped.value.code == 2
    assert 'is no whole number' in capsys.readouterr().err


def test_toy_scenes_name_the_command_that_trains_on_them(
        tmp_path, monkeypatch, capsys):
    def said(*arguments):
        monkeypatch.setattr(sys, 'argv', [
            'x', '--num-train', '1', '--num-val', '0', *arguments])
        tool = 'tools/dataset_converters/make_toy_scenes.py'
        runpy.run_path(str(ROOT / tool), run_name='__main__')
        return capsys.readouterr().out.splitlines()[-1]

    monkeypatch.chdir(tmp_path)
    train = 'Next: python -m cyborgs_plugin train cyborgs_plugin::'
    assert said() == f'{train}cyborgs_toy.py'
    assert said('--out', 'a b') == (
        f"{train}cyborgs_toy.py --cfg-options 'data_root=a b/'")
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit, match='file is a file'):
        said('--out', 'file')
    monkeypatch.chdir(ROOT)
    assert said('--out', f'{tmp_path}/x').startswith(
        'Next: python tools/train.py configs/cyborgs_toy.py --cfg-options ')
