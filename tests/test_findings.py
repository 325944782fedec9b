"""Findings as text, as JSON and as an exit code."""
import json

import pytest

from cyborgs_plugin.findings import (
    Finding,
    as_json,
    as_text,
    end_without_traceback,
    exit_code,
)

FINDINGS = [
    Finding('data', 'ok', 'fine'),
    Finding('config', 'warning', 'odd', 'set it'),
    Finding('data', 'error', 'é is broken', 'fetch it'),
]


def test_text_is_by_area_and_names_the_fix():
    assert as_text(FINDINGS).splitlines() == [
        'Data', '  ok      fine', '  ERROR   é is broken',
        '          -> fetch it', 'Config', '  WARNING odd',
        '          -> set it', '1 error, 1 warning'
    ]


def test_json_and_exit_code():
    found = json.loads(as_json(FINDINGS))
    assert found['ok'] is False and len(found['findings']) == 3
    assert found['findings'][2] == dict(
        area='data', severity='error', found='é is broken', fix='fetch it')
    assert exit_code(FINDINGS) == 1
    assert exit_code(FINDINGS[:2]) == 0
    assert json.loads(as_json(FINDINGS[:2]))['ok'] is True


ERROR = ImportError('needs mmcv, but found no mmcv.\nTo fix it:\n  pip x')


@pytest.mark.parametrize('words', [['pretrain'], ['doctor'],
                                   ['doctor', '--json']])
def test_the_program_ends_without_a_traceback(words, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['/bin/cyborgs', *words])
    with pytest.raises(SystemExit) as end:
        end_without_traceback(ERROR)
    said = capsys.readouterr().out
    if words[0] == 'pretrain':
        assert 'pip x' in end.value.code and not said
        return
    assert end.value.code == 1
    if '--json' in words:
        finding, = json.loads(said)['findings']
        assert finding['severity'] == 'error'
        assert 'pip x' in finding['fix']
    else:
        assert 'ERROR   needs mmcv' in said and '-> ' in said


def test_other_programs_raise(monkeypatch):
    monkeypatch.setattr('sys.argv', ['train.py', 'doctor'])
    end_without_traceback(ERROR)  # returns
