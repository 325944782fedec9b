"""Files are written whole or not at all."""
import os

import pytest

from cyborgs_plugin.files import publish, sync, written_aside


def test_a_file_gets_its_name_when_it_is_on_the_disk(tmp_path, monkeypatch):
    path, calls = tmp_path / 'a.json', []
    path.write_text('old')
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda descriptor: (
        calls.append(os.readlink(f'/proc/self/fd/{descriptor}')),
        fsync(descriptor)))
    monkeypatch.setattr(os, 'replace', lambda old, new: (
        calls.append('replace'), replace(old, new)))
    with written_aside(str(path)) as partial, open(partial, 'w') as file:
        assert os.path.dirname(partial) == str(tmp_path)
        file.write('new')
        file.flush()
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    assert calls == [partial, 'replace', str(tmp_path)]
    assert os.listdir(tmp_path) == ['a.json']


def test_what_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('old')
    with pytest.raises(OSError, match='full'):
        with written_aside(str(path)) as partial:
            with open(partial, 'w') as file:
                file.write('ne')
            raise OSError('full')
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['a.json']
    with pytest.raises(FileNotFoundError):
        with written_aside(str(path)):
            pass  # nothing is written
    assert path.read_text() == 'old'


def test_names_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with written_aside('a') as partial:
        open(partial, 'w').close()
    publish('a', 'b')
    sync('b')
    assert os.listdir() == ['b']
