"""tools/setup_env.sh: its errors, and that it can be cut short and repeated.

A stand-in for Python answers it, so nothing is downloaded.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Creates environments by copying itself; notes what pip is to install; fails
# where a file called `fail` names the step.
PYTHON = r"""#!/usr/bin/env bash
here=REPO
case "$*" in
    *version_info\[:3\]*) cat "$here/version" ;;
    *'version_info[1] > 11'*) ! grep -q '^3.1[2-9]' "$here/version" ;;
    *'version_info <'*) grep -q '^3.1[0-9]' "$here/version" ;;
    *'import ensurepip'*) [ ! -e "$here/no_venv" ] ;;
    '-m venv '*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    '-m pip --version') ;;
    '-m pip install'*)
        sleep 0.05
        [ "$(cat "$here/fail" 2>/dev/null)" != "${@: -1}" ] || exit 1
        echo "${@: -1}" >> "$here/installed"
        case "${@: -1}" in
            */onedl.txt|*/openmmlab.txt) [ ! -e "$here/no_ops" ] ;;
            onedl-mmcv==*) ;;
            *) false ;;
        esac && mkdir -p "$here/site/mmcv" && touch "$here/site/mmcv/_ext.so"
        if [ "${@: -1}" = . ]; then
            mkdir -p cyborgs_plugin/.mim
            touch cyborgs_plugin/.mim/model-index.yml
        fi ;;
    *sysconfig*) echo "$here/site" ;;
    '-m pip cache remove '*) echo "$5" > "$here/uncached" ;;
    *'from mmcv.ops import nms'*)
        grep -qE '/(onedl|openmmlab).txt' "$here/installed" ;;
    *'import torch'*) grep -q torch "$here/installed" 2>/dev/null ;;
    *'import cv2'*)
        [ ! -e "$here/no_libgl" ] || { echo 'libGL.so.1: no' >&2; exit 1; } ;;
esac
"""

STEPS = [
    'requirements/torch.txt', 'requirements/build.txt',
    'requirements/onedl.txt', 'requirements/dev.txt', '.'
]


@pytest.fixture
def repo(tmp_path):
    repo = tmp_path / 'a repository'
    shutil.copytree(ROOT / 'requirements', repo / 'requirements')
    for name in ('setup.py', 'tools/setup_env.sh'):
        (repo / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, repo / name)
    (repo / 'cyborgs_plugin').mkdir()
    (repo / 'version').write_text('3.11.7')
    python = repo / 'python'
    python.write_text(PYTHON.replace('REPO', f"'{repo}'"))
    python.chmod(0o755)
    return repo


def start(repo, path='/usr/bin:/bin', python=None, **variables):
    return subprocess.Popen(
        ['bash', str(repo / 'tools' / 'setup_env.sh')],
        env=dict(PATH=path, PYTHON=str(python or repo / 'python'),
                 **variables),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def setup(repo, **options):
    process = start(repo, **options)
    output, _ = process.communicate()
    return process.returncode, output


def installed(repo):
    return (repo / 'installed').read_text().split()


def test_sets_up_once(repo):
    code, output = setup(repo)
    assert code == 0, output
    assert installed(repo) == STEPS
    assert 'Set-up done in 0 min' in output and 'make demo' in output

    assert setup(repo) == (0, '')
    assert installed(repo) == STEPS


def test_the_original_family(repo):
    original = dict(FAMILY='openmmlab', VENV='.venv-openmmlab')
    code, output = setup(repo, **original)
    assert code == 0, output
    assert installed(repo) == [
        'requirements/torch-openmmlab.txt', '.venv-openmmlab/toolbox.txt',
        'requirements/dev.txt', '.'
    ]
    toolbox = (repo / '.venv-openmmlab' / 'toolbox.txt').read_text()
    assert '\nmmcv-lite>=2.0.0,<2.2.0\n' in toolbox
    assert 'make test-openmmlab' in output
    assert setup(repo, **original) == (0, '')

    # the ops come in place of it, and need what builds them
    (repo / 'installed').unlink()
    assert setup(repo, **original, OPS='1')[0] == 0
    assert installed(repo) == [
        'requirements/torch-openmmlab.txt', 'requirements/build.txt',
        'requirements/openmmlab.txt', 'requirements/dev.txt', '.'
    ]
    assert setup(repo, **original, OPS='1') == (0, '')


def test_no_family_over_the_other(repo):
    assert setup(repo)[0] == 0
    before = installed(repo)
    code, output = setup(repo, FAMILY='openmmlab', VENV='.venv')
    assert code == 1 and '.venv is that of the other family' in output
    assert installed(repo) == before


def test_the_original_family_is_for_older_pythons(repo):
    (repo / 'version').write_text('3.12.1')
    code, output = setup(repo, FAMILY='openmmlab', VENV='.venv-openmmlab')
    assert code == 1 and '3.12.1; torch==2.1.2 is for 3.11 and' in output
    assert 'make test-openmmlab PYTHON=' in output
    assert setup(repo)[0] == 0


def test_completes_after_changes(repo):
    setup(repo)
    with open(repo / 'requirements' / 'runtime.txt', 'a') as file:
        file.write('another\n')
    assert setup(repo)[0] == 0
    # The ops of mmcv are there, so nothing to build them is needed.
    assert installed(repo)[len(STEPS):] == [
        step for step in STEPS if 'build' not in step
    ]

    (repo / 'cyborgs_plugin/.mim/model-index.yml').unlink()
    assert setup(repo)[0] == 0
    assert (repo / 'cyborgs_plugin/.mim/model-index.yml').exists()

    moved = repo.rename(repo.parent / 'moved')
    python = moved / 'python'
    for file in (python, moved / '.venv/bin/python'):
        file.write_text(PYTHON.replace('REPO', f"'{moved}'"))
    before = len(installed(moved))
    assert setup(moved)[0] == 0
    assert installed(moved)[before:][-1] == '.'


@pytest.mark.parametrize('step', STEPS)
def test_goes_on_where_it_was_cut_short(repo, step):
    (repo / 'fail').write_text(step)
    code, output = setup(repo)
    assert code == 1 and 'Set-up failed: ' in output
    assert 'Set-up done' not in output
    # Still not taken for done.
    assert setup(repo)[0] == 1

    (repo / 'fail').unlink()
    assert setup(repo)[0] == 0
    assert setup(repo) == (0, '')


def test_two_at_once(repo):
    processes = [start(repo), start(repo)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert installed(repo) == STEPS
    assert sum('waiting for it' in output for output in outputs) == 1


def test_uses_the_wheels_beside_the_repository(repo):
    wheels = repo.parent / 'shared' / 'wheels'
    wheels.mkdir(parents=True)
    python = repo / 'python'
    python.write_text(python.read_text().replace(
        'sleep', 'printf "%s\n" "$@" >> "$here/arguments"; sleep'))
    assert setup(repo)[0] == 0
    lines = (repo / 'arguments').read_text().splitlines()
    assert lines[lines.index('--find-links') + 1] == str(wheels)
    assert lines.count('--find-links') == len(STEPS)


def test_a_cached_mmcv_without_its_ops_is_compiled(repo):
    """As a build in isolation has left it: only once, and of this version."""
    (repo / 'no_ops').touch()
    code, output = setup(repo)
    assert code == 0 and 'without its ops' in output
    assert (repo / 'uncached').read_text() == 'onedl_mmcv\n'
    compiled = 'onedl-mmcv==' + re.search(
        r'^onedl-mmcv==(\S+)', (repo / 'requirements/onedl.txt').read_text(),
        re.M)[1]
    after = STEPS.index('requirements/onedl.txt') + 1
    assert installed(repo) == [*STEPS[:after], compiled, *STEPS[after:]]
    assert setup(repo) == (0, '')


def test_python_is_missing(repo):
    code, output = setup(repo, python='/no/such/python')
    assert code == 1
    assert 'there is no /no/such/python' in output and '3.11' in output


def test_python_is_too_old(repo):
    (repo / 'version').write_text('3.9.18')
    code, output = setup(repo)
    assert code == 1
    assert 'Python 3.9.18; 3.10 or newer is needed (tried: 3.11)' in output


def test_venv_is_missing(repo):
    (repo / 'no_venv').touch()
    code, output = setup(repo)
    assert code == 1 and 'apt-get install python3-venv' in output


def test_disk_is_full(repo, tmp_path):
    df = tmp_path / 'bin' / 'df'
    df.parent.mkdir()
    df.write_text('#!/bin/sh\necho head; echo disk 1 2 9437184 4 /')
    df.chmod(0o755)
    code, output = setup(repo, path=f'{df.parent}:/usr/bin:/bin')
    assert code == 1 and '9 GB of disk are free' in output
    assert not (repo / 'installed').exists()


def test_opencv_lacks_a_system_library(repo):
    (repo / 'no_libgl').touch()
    code, output = setup(repo)
    assert code == 1
    assert 'import cv2: libGL.so.1: no' in output
    assert 'apt-get install libgl1 libglib2.0-0' in output
    # It has tried the build that does without.
    assert 'opencv-python-headless==4.12.0.88' in installed(repo)
