"""A Python that has imported torch and OpenMMLab before it starts.

These imports are most of what a short run costs. A server makes them once
and forks for each call: a process of its own, with its own arguments, folder,
environment, output and exit, that imports this package and runs the script
from its files. Not for what is killed, and not where there is a GPU, which
no fork may share. Without a server that answers, the call is Python itself.

Settings that are read while torch or Python starts, such as OMP_NUM_THREADS
(here 1) and PYTHONWARNINGS, are the server's.
"""
import atexit
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

# What `import cyborgs_plugin` itself imports, but for the package.
PRELOADED = '''
    torch.utils.tensorboard mmengine.runner mmpretrain.apis mmpretrain.models
    mmpretrain.datasets mmpretrain.engine sklearn.metrics skimage.segmentation
'''.split()

CLIENT = '''#!{python} -IS
import json, os, signal, socket, sys
words = [word for word in sys.argv[1:] if word != '-u' or sys.argv[1] != '-u']
if not words or words[0][0] == '-' and words[0] not in ('-c', '-m') or (
        words[:2] == ['-m', 'pip']):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    server.connect({address!r})
    socket.send_fds(
        server, [json.dumps([words, os.getcwd(), dict(os.environ)]).encode()],
        [0, 1, 2])
    pid = int(server.recv(99))
except (OSError, ValueError):  # it has died before anything was run
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = int(server.recv(99))
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
'''

SERVER = '''
import gc, importlib, json, os, random, runpy, select, shutil, signal, socket
import sys, tempfile, types
for name in {preloaded!r}:
    importlib.import_module(name)
runpy.run_path({yapf!r})['cache_yapf']()
import numpy
sys.stdout.flush()  # or each fork says again what was said here
gc.freeze()
listener = socket.socket(fileno={listener})
while True:
    if 0 in select.select([0, listener], [], [])[0]:
        shutil.rmtree({folder!r}, ignore_errors=True)
        os._exit(0)  # the tests have ended, or were killed
    caller, _ = listener.accept()
    message, fds, *_ = socket.recv_fds(caller, 1 << 20, 3)
    if keeper := os.fork():
        for fd in (caller.detach(), *fds):
            os.close(fd)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        continue
    if child := os.fork():
        listener.close()  # or callers would wait if the server died
        caller.send(str(child).encode())
        ended = os.pidfd_open(child)
        if caller in select.select([caller, ended], [], [])[0]:
            os.kill(child, signal.SIGKILL)  # as was the caller
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        caller.send(str(status).encode())
        os._exit(0)
    break

words, folder, environment = json.loads(message)
for number, fd in enumerate(fds):
    os.dup2(fd, number)
    os.close(fd)
caller.close(), listener.close()
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
tempfile.tempdir = None
random.seed()
numpy.random.seed()
sys.executable = {client!r}  # for what the script starts itself
own = os.environ.get('PYTHONPATH')
sys.path[:0] = map(os.path.abspath, own.split(os.pathsep) if own else ())
if words[0] == '-m':
    sys.path.insert(0, folder)
    sys.argv = words[1:]
    runpy._run_module_as_main(words[1])
else:
    main = sys.modules['__main__'] = types.ModuleType('__main__')
    main.__builtins__ = __builtins__
    if words[0] == '-c':
        sys.argv, code = ['-c', *words[2:]], words[1]
        sys.path.insert(0, '')
    else:
        sys.argv, main.__file__ = words, words[0]
        with open(words[0], 'rb') as file:
            code = compile(file.read(), words[0], 'exec')
        sys.path.insert(0, os.path.dirname(os.path.realpath(words[0])))
    exec(code, main.__dict__)
'''


@functools.cache
def python():
    """Path of a command that takes the words of ``python``."""
    if torch.cuda.is_available():
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix='warm_'))
    client, address = folder / 'python', str(folder / 'socket')
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(address)
        listener.listen(64)
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # a sandbox, an old kernel, or a long path
        shutil.rmtree(folder)
        return sys.executable
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    code = SERVER.format(
        preloaded=PRELOADED, listener=listener.fileno(), client=str(client),
        folder=str(folder),
        yapf=str(Path(__file__).with_name('cached_yapf.py')))
    server = subprocess.Popen(
        [sys.executable, '-Ic', code], stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
        env=dict(os.environ, OMP_NUM_THREADS='1'))
    listener.close()
    owner = os.getpid()

    def end():
        if os.getpid() != owner:
            return  # a fork of the tests
        server.stdin.close()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return str(client)
