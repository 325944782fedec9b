"""Several objects of a store at once."""
import signal
import subprocess
import sys
import time
from threading import Event

import pytest

from cyborgs_plugin.datasets.far_folder import for_each


def test_results_are_in_the_order_of_the_items():
    """Whichever ends first."""
    second = Event()

    def square(number):
        if number == 3:
            assert second.wait(30)
        else:
            second.set()
        return number * number

    assert for_each(square, iter([3, 4])) == [9, 16]
    assert for_each(square, []) == []


def test_the_first_failure_is_raised_and_the_rest_left_out():
    begun = []

    def fail(number):
        begun.append(number)
        time.sleep(0.01)
        raise OSError(str(number))

    with pytest.raises(OSError, match='^0$'):
        for_each(fail, range(2000))
    time.sleep(0.05)  # for those that have begun
    count = len(begun)
    time.sleep(0.05)
    assert len(begun) == count < 2000


def test_ctrl_c_does_not_wait_for_the_store():
    """Threads that wait for an answer end with the process."""
    code = ('import signal, threading\n'
            'from cyborgs_plugin.datasets.far_folder import for_each\n'
            'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
            'def wait(_):\n'
            '    print("waiting", flush=True)\n'
            '    threading.Event().wait(60)\n'
            'for_each(wait, range(1))\n')
    process = subprocess.Popen([sys.executable, '-c', code], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == 'waiting\n'
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1]
    assert 'KeyboardInterrupt' in said
    assert time.monotonic() - begun < 20
