"""What a run costs, measured in a process that has done other things."""
import sys

import numpy as np
import pytest

from cyborgs_plugin.advice import trial


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux alone forgets')
def test_memory_of_earlier_work_does_not_count():
    """A notebook may have held much more than a step takes."""
    held = np.ones(3 << 27)  # 3 GiB, and all of it written
    del held
    assert trial._peak() > 3 << 30
    trial._forget_peak()
    assert trial._peak() < 3 << 30
