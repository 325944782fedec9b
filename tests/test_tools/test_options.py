"""Options of the command line, and the shell scripts around the tools."""
import argparse
import glob
import os
import os.path as osp
import re
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
    assert re.search(
        rf'(bash|sbatch .*) tools/{osp.relpath(script, ROOT)[6:]} ',
        done.stdout)
    assert 'unbound' not in done.stdout


@pytest.mark.parametrize('script, arguments, command, port', [
    ('dist_train.sh', ['CONFIG', '2'], 'python', r'--master_port=(\d+)'),
    ('dist_test.sh', ['CONFIG', 'X.pth', '2'], 'python',
     r'--master_port=(\d+)'),
    ('slurm_train.sh', ['CONFIG'], 'srun', r'MASTER_PORT=(\d+)'),
])
def test_two_trainings_on_a_machine_take_two_ports(tmp_path, script,
                                                   arguments, command, port):
    (tmp_path / command).write_text('#!/bin/sh\necho "$@" '
                                    'MASTER_PORT=$MASTER_PORT\n')
    (tmp_path / command).chmod(0o755)
    environment = {name: value for name, value in os.environ.items()
                   # make exports a PYTHON of its own
                   if name not in ('PORT', 'NNODES', 'MASTER_PORT', 'PYTHON')}
    environment['PATH'] = f'{tmp_path}:{environment["PATH"]}'
    environment['SLURM_JOB_ID'] = '7'

    def drawn(**variables):
        said = subprocess.run(
            ['bash', osp.join(ROOT, 'tools', script), *arguments],
            env={**environment, **variables}, text=True, check=True,
            stdout=subprocess.PIPE).stdout
        return int(re.search(port, said)[1]), said

    ports = {drawn()[0] for _ in range(3)}
    assert len(ports) > 1 and all(10000 <= port < 30000 for port in ports)
    if script == 'slurm_train.sh':
        assert drawn(MASTER_PORT='777')[0] == 777
    else:
        assert drawn(PORT='777')[0] == 777
        # that all machines of a run have to name alike
        assert drawn(NNODES='2')[0] == 29500
