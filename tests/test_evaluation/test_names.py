"""Names in a json against those on the disk."""
import pytest

from cyborgs_plugin.errors import UserError
from cyborgs_plugin.evaluation.names import find_annotated


def test_names_that_are_not_alike_to_the_letter():
    found = find_annotated(
        ['.\\a.JPG', 'b.png', '/else/c.png', 'x/d.png', 'e.png', 'lost.png'],
        ['a.jpg', 'b.png', 'c.png', 'x/d.png', 'train/e.png'], '', 'x.json')
    assert found == {
        '.\\a.JPG': 'a.jpg', 'b.png': 'b.png', '/else/c.png': 'c.png',
        'x/d.png': 'x/d.png'}


def test_two_names_of_one_file():
    with pytest.raises(UserError, match=r"x.json.*'a.png' and './a.png'"):
        find_annotated(['a.png', './a.png'], ['a.png'], '', 'x.json')
