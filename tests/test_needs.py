"""Tests are skipped where what they need is absent, and nowhere else."""
from .needs import lacking


def test_what_is_here_and_what_is_not():
    assert lacking('torch') is None and lacking('torch>=2') is None
    assert lacking('torch<1').startswith('needs torch<1, but 2.')
    assert lacking('no-such-package') == (
        'needs no-such-package, which is not installed')
