"""The Python of the tests behaves as any other."""
import os
import signal
import subprocess
import sys
import time

import pytest

from .warm_python import python

pytestmark = pytest.mark.slow

TELL = ('import os, random, sys; sys.stderr.write(sys.stdin.read()); '
        'print(sys.argv, os.getcwd(), sys.path[0], os.environ["OWN"], '
        '[name for name in sys.modules if name.startswith("cyborgs")])')


@pytest.mark.parametrize('words', [
    ('-c', TELL, 'a b'), ('told.py', 'a b'), ('-m', 'told', '-x'),
    ('-u', 'told.py'), ('-c', 'import sys; sys.exit("no")'),
    ('-c', 'raise SystemExit(7)'), ('-c', 'print(1/0)'),
    ('-c', 'import os; os.kill(os.getpid(), 9)'),
    ('-c', 'import os; os.abort()')])
def test_as_python_itself(words, tmp_path):
    (tmp_path / 'told.py').write_text(TELL)
    found, expected = (
        subprocess.run([command, *words], cwd=tmp_path, input='read',
                       env=dict(os.environ, OWN='x', PYTHONPATH='here:'),
                       capture_output=True, text=True)
        for command in (python(), sys.executable))
    assert (found.returncode, found.stdout) == (
        expected.returncode, expected.stdout)
    assert found.stderr.splitlines()[-1:] == (
        expected.stderr.splitlines()[-1:])


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_what_is_killed_is_gone(number, tmp_path):
    process = subprocess.Popen(
        [python(), '-c', 'import os, time; print(os.getpid(), flush=True); '
         'time.sleep(99)'], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.send_signal(number)
    assert process.wait(60) == -number
    assert process.stdout.read() == ''  # closed by the end of the fork
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.1)
