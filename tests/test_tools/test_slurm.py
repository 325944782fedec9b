"""The sbatch script, with stand-ins for srun and scontrol."""
import os
import os.path as osp
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ..helpers import ROOT

SCRIPT = osp.join(ROOT, 'tools', 'slurm_train.sh')
DOC = Path(ROOT, 'docs', 'interruptions.md')


@pytest.fixture
def job(tmp_path):
    """Run a copy of the script, as sbatch does; what was called."""
    copy = tmp_path / 'spool' / 'slurm_script'
    copy.parent.mkdir()
    copy.write_text(Path(SCRIPT).read_text())

    def run(code, *arguments, **variables):
        for name, status in dict(srun=code, scontrol=0).items():
            (tmp_path / name).write_text(
                f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n'
                f'exit {status}\n')
            (tmp_path / name).chmod(0o755)
        (tmp_path / 'calls').write_text('')
        environment = {name: value for name, value in os.environ.items()
                       if name not in ('PYTHON', 'MASTER_PORT')}
        environment['PATH'] = f'{tmp_path}:{environment["PATH"]}'
        done = subprocess.run(
            ['bash', str(copy), *arguments], text=True, capture_output=True,
            env=environment | dict(SLURM_JOB_ID='42') | variables)
        return done, (tmp_path / 'calls').read_text().splitlines()

    return run


def test_an_interrupted_job_is_queued_again(job):
    done, (first, then) = job(75, 'CONFIG', '--amp')
    assert done.returncode == 75 and then == 'scontrol requeue 42'
    assert first == ('srun --kill-on-bad-exit=0 python -u -m cyborgs_plugin '
                     'train CONFIG --launcher slurm --resume --amp')


@pytest.mark.parametrize('code', [0, 1, 137])
def test_no_other_end_is(job, code):
    done, calls = job(code, 'CONFIG')
    assert done.returncode == code and len(calls) == 1


def test_outside_of_slurm_it_says_how_to_call_it(job):
    done, calls = job(0, 'CONFIG', SLURM_JOB_ID='')
    assert done.returncode == 2 and 'sbatch --partition' in done.stderr
    assert not calls


def test_what_sbatch_reads():
    directives = dict(re.findall(r'^#SBATCH --([\w-]+)=?(.*)$',
                                 Path(SCRIPT).read_text(), re.M))
    assert directives['signal'] == 'USR1@120'
    assert directives['open-mode'] == 'append' and 'requeue' in directives


def test_the_other_launchers_files():
    pod, sky = map(yaml.safe_load, re.findall(
        r'^```yaml\n(.*?)^```', DOC.read_text(), re.M | re.S))
    again = pod['spec']['podFailurePolicy']['rules'][0]
    container, = pod['spec']['template']['spec']['containers']
    assert again['action'] == 'Ignore' and (
        again['onExitCodes']['values'] == [75])
    assert again['onExitCodes']['containerName'] == container['name']
    # as Kubernetes demands beside a podFailurePolicy
    assert pod['spec']['template']['spec']['restartPolicy'] == 'Never'
    mounted = {mount['name'] for mount in container['volumeMounts']}
    assert mounted == {volume['name'] for volume in
                       pod['spec']['template']['spec']['volumes']}
    assert sky['resources']['use_spot'] and '--resume' in sky['run']
    done = subprocess.run(['bash', '-n'], input=sky['run'], text=True)
    assert done.returncode == 0
