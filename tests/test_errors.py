"""What ends with a line, and what keeps its traceback."""
import os

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from cyborgs_plugin.errors import UserError, reported


class Failing(Hook):
    """Its constructor fails by itself."""

    def __init__(self, kind=TypeError):
        raise kind('of the constructor')


def ends(call):
    with pytest.raises(SystemExit) as stopped, reported():
        call()
    return stopped.value.code


def test_a_mistake_of_the_user():
    def call():
        raise UserError('x.py: that')

    assert ends(call) == 'UserError: x.py: that'


def test_paths_of_the_wrong_kind(tmp_path):
    (tmp_path / 'file').touch()
    for call in (lambda: open(tmp_path / 'none'), lambda: open(tmp_path, 'w'),
                 lambda: os.listdir(tmp_path / 'file'),
                 lambda: os.makedirs(tmp_path / 'file')):
        assert f'{tmp_path}' in ends(call)


def test_without_a_path_there_is_nothing_to_fix():
    with pytest.raises(FileNotFoundError), reported():
        os.makedirs('')  # our mistake: dirname of a bare name


@pytest.mark.parametrize('cfg, expected', [
    (dict(type='LoggerHook', gap=2), "argument 'gap'"),
    (dict(type='LoggerHok'), 'LoggerHok is not in the'),
    ('LoggerHook', 'cfg should be a dict'),
])
def test_a_component_that_does_not_take_its_config(cfg, expected):
    said = ends(lambda: HOOKS.build(cfg))
    assert said.startswith('UserError: the config') and expected in said

    def again():  # as the Runner does with what a hook raises
        try:
            HOOKS.build(cfg)
        except TypeError as error:
            raise TypeError(f'{error} in {object()}') from None

    assert expected in ends(again)


@pytest.mark.parametrize('kind', [TypeError, KeyError])
def test_a_constructor_that_fails_keeps_its_traceback(kind):
    with pytest.raises(kind, match='of the constructor'), reported():
        HOOKS.build(dict(type=Failing, kind=kind))
