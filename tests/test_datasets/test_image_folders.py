"""What the keys of several folders begin with."""
import pytest

from cyborgs_plugin.datasets.image_folders import folders_of
from cyborgs_plugin.errors import UserError


@pytest.mark.parametrize('prefixes, expected', [
    (['/a/cam'], ['']),
    (['cam'], ['cam/']),
    ([''], ['']),
    (['/a/x', '/b/y/'], ['x/', 'y/']),
    (['/a/cam', '/b/cam'], ['a/cam/', 'b/cam/']),
    (['/a/1/cam', '/b/1/cam', '/b/2/cam'],
     ['a/1/cam/', 'b/1/cam/', 'b/2/cam/']),
    (['cam', '/b/cam'], ['cam/', 'b/cam/']),
    # 'x/' and 'x/a/' would be parts of each other
    (['x', '/y/x/a', '/z/a'], ['x/', 'y/x/a/', 'z/a/']),
])
def test_labels(prefixes, expected):
    found = folders_of(prefixes, '/root')
    assert list(found) == expected
    assert list(found.values()) == [
        prefix if prefix.startswith('/') else f'/root/{prefix}'.rstrip('/')
        if prefix else '/root/' for prefix in prefixes]


def test_folders_that_cannot_be_told_apart():
    with pytest.raises(UserError, match='tell apart'):
        folders_of(['x', '/x'], '/root')


@pytest.mark.parametrize('prefixes', [['/a', '/a'], ['/a', '/a/b'],
                                      ['/root/b', 'b']])
def test_a_folder_in_another(prefixes):
    with pytest.raises(UserError, match='name one of them'):
        folders_of(prefixes, '/root')
