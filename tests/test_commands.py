"""Commands in messages can be copied to where the message was printed."""
import os
import re
import shlex
from pathlib import Path

import pytest

from cyborgs_plugin import commands
from cyborgs_plugin.__main__ import find_tools
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
