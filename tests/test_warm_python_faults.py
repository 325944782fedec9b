"""What the tests' Python does where there is no server."""
import os
import signal
import socket
import subprocess
import sys

import pytest

from . import warm_python


def test_where_sockets_are_refused_it_is_python_itself(monkeypatch, tmp_path):
    def refused(*args):
        raise PermissionError('sockets are refused')

    monkeypatch.setattr(warm_python.torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(warm_python.tempfile, 'tempdir', str(tmp_path))
    monkeypatch.setattr(socket, 'socket', refused)
    assert warm_python.python.__wrapped__() == sys.executable
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('there', [False, True])
def test_without_a_server_it_is_python_itself(tmp_path, there):
    """It has died, and its socket may be there still."""
    address = str(tmp_path / 'socket')
    if there:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(address)
    client = tmp_path / 'python'
    client.write_text(warm_python.CLIENT.format(
        python=sys.executable, address=address))
    client.chmod(0o755)
    done = subprocess.run([client, '-c', 'import sys; print(sys.argv)', 'x'],
                          capture_output=True, text=True, check=True)
    assert done.stdout == "['-c', 'x']\n"


@pytest.fixture
def server(tmp_path):
    """One that imports nothing, its client, and its folder."""
    folder = tmp_path / 'warm'
    folder.mkdir()
    yapf = tmp_path / 'yapf.py'
    yapf.write_text('import tempfile\n\n\ndef cache_yapf():\n'
                    '    tempfile.gettempdir()  # as an import may\n')
    client, address = folder / 'python', str(folder / 'socket')
    client.write_text(warm_python.CLIENT.format(
        python=sys.executable, address=address))
    client.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(1)
        code = warm_python.SERVER.format(
            preloaded=[], yapf=str(yapf), listener=listener.fileno(),
            client=str(client), folder=str(folder))
        process = subprocess.Popen(
            [sys.executable, '-Ic', code], stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()])
    yield process, client, folder
    process.stdin.close()
    process.wait(60)


def test_it_leaves_no_folder_when_the_tests_are_killed(server):
    process, _, folder = server
    process.stdin.close()  # as a killed process closes it
    assert process.wait(60) == 0
    assert not folder.exists()


def test_the_folder_for_temporary_files_is_the_callers(server, tmp_path):
    _, client, _ = server
    done = subprocess.run(
        [client, '-c', 'import sys, tempfile; print(tempfile.gettempdir()); '
         f'assert sys.executable == {str(client)!r}'],
        env=dict(os.environ, TMPDIR=str(tmp_path)), capture_output=True,
        text=True, check=True)
    assert done.stdout.strip() == str(tmp_path)


@pytest.mark.parametrize('number', [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_reaches_the_fork(server, number):
    _, client, _ = server
    process = subprocess.Popen(
        [client, '-c', 'import signal, sys, time; '
         f'signal.signal({int(number)}, lambda *_: sys.exit(75)); '
         'print("set", flush=True); time.sleep(30)'], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'set\n'
    process.send_signal(number)
    assert process.wait(30) == 75
    process.stdout.close()
