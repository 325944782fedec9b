"""Options of the command line, and the shell scripts around the tools."""
import argparse
import glob
import os.path as osp
import subprocess
import sys

import pytest

from ..helpers import ROOT

sys.path.insert(0, osp.join(ROOT, 'tools'))
import _options  # noqa: E402

SCRIPTS = sorted(
    path for path in glob.glob(osp.join(ROOT, 'tools', '**', '*.sh'),
                               recursive=True)
    if osp.basename(path) != 'setup_env.sh')  # takes none


def options(*words):
    parser = argparse.ArgumentParser()
    _options.add_options(parser)
    return _options.parse(parser, ['--cfg-options', *words]).cfg_options


@pytest.mark.parametrize('key', [
    'data_root', 'train_dataloader.dataset.data_root',
    'train_dataloader.dataset.data_prefix.img_path', 'load_from', 'data',
    'train_dataloader.dataset.ann_file', 'val_evaluator.ann_file',
    'train_dataloader.dataset.mask_bank', 'work_dir',
    'default_hooks.mask_update.bank_root',
    'default_hooks.mask_update.source.checkpoint',
    'default_hooks.mask_update.source.path',
    'default_hooks.checkpoint.out_dir'])
@pytest.mark.parametrize('path', [
    'Holiday, 2024', '2017', '/photos/my pictures/', '1e5', "o'neil", 'True',
    'a=b/c', '(old) x', ''])
def test_paths_are_taken_as_they_are(tmp_path, monkeypatch, key, path):
    monkeypatch.chdir(tmp_path)
    if path.startswith('('):
        (tmp_path / path).mkdir()
    assert options(f'{key}={path}') == {key: path}


def test_other_settings_are_read_as_before():
    assert options(
        'train_dataloader.batch_size=3', 'model.x=[1, 2.5]', 'a.b=1,2',
        'optim_wrapper.loss_scale=512', 'sync_bn=None', 'resume=True',
        'a.type=Name', 'default_hooks.mask_update.source.num_clusters=(4,32)',
        'load_from=None', 'a.ann_file=[x, y]', 'data_root="a b"') == {
            'train_dataloader.batch_size': 3, 'model.x': [1, 2.5],
            'a.b': [1, 2], 'optim_wrapper.loss_scale': 512, 'sync_bn': None,
            'resume': True, 'a.type': 'Name',
            'default_hooks.mask_update.source.num_clusters': (4, 32),
            'load_from': None, 'a.ann_file': ['x', 'y'], 'data_root': 'a b'}


def test_a_word_without_a_key_is_explained(capsys):
    with pytest.raises(SystemExit):
        options('data_root=my', 'photos')
    assert "'photos' is no key=value; quote" in capsys.readouterr().err


@pytest.mark.parametrize('script', SCRIPTS, ids=map(osp.basename, SCRIPTS))
@pytest.mark.parametrize('arguments', [[], ['x']])
def test_scripts_without_arguments_show_how_they_are_used(script, arguments):
    done = subprocess.run(['bash', script, *arguments], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 2
    assert f'bash tools/{osp.relpath(script, ROOT)[6:]}' in done.stdout
    assert 'unbound' not in done.stdout
