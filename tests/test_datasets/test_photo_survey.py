"""The survey of a folder, against what was put into it."""
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cyborgs_plugin.datasets import photo_survey
from cyborgs_plugin.datasets.photo_survey import survey, typical_pixels
from cyborgs_plugin.errors import UserError

from ..helpers import write_photo


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / 'photos'
    for number in range(4):
        write_photo(root / f'{number}.jpg', (96, 128), number)
    shutil.copy(root / '1.jpg', root / 'copy.jpg')
    write_photo(root / 'sub' / 'large.png', (200, 300), 9)
    write_photo(root / 'tiny.png', (20, 90), 10)
    Image.fromarray(np.full((70, 80), 99, np.uint8)).save(root / 'grey.png')
    (root / 'broken.jpg').write_bytes(b'<html>')
    (root / 'empty.jpg').touch()
    (root / 'empty2.jpg').touch()
    (root / 'notes.txt').write_text('x')
    return root


def test_everything_is_counted(folder):
    seen = survey(str(folder), duplicates=True)
    assert len(seen.names) == seen.looked == 11
    assert len(seen.broken) == 3 and seen.usable == 8
    assert any('HTML' in line for line in seen.broken)
    assert seen.tiny == ['tiny.png']
    assert dict(seen.modes) == dict(L=1)
    # two empty files are of one content, and are no photographs
    assert seen.duplicates == [['1.jpg', 'copy.jpg']]
    assert '1 .txt' in seen.left_out
    assert seen.describe_sizes() == '128x96 (from 90x20 to 300x200)'
    assert typical_pixels(seen.sizes) == (
        5 * 96 * 128 + 200 * 300 + 20 * 90 + 70 * 80) / 8
    assert typical_pixels([]) == 0


def test_few_files_wait_at_a_time(folder, monkeypatch):
    waiting = []

    class Pool(ThreadPoolExecutor):

        def submit(self, *given):
            waiting.append(self._work_queue.qsize())
            return super().submit(*given)

    monkeypatch.setattr(photo_survey, 'ThreadPoolExecutor', Pool)
    monkeypatch.setattr(photo_survey, '_PART', 3)
    seen = survey(str(folder))
    assert len(waiting) == 11 and max(waiting) < 3
    assert len(seen.broken) == 3 and seen.tiny == ['tiny.png']


def test_a_part_is_spread_and_extrapolated(folder):
    seen = survey(str(folder), most=5)
    assert seen.looked == 5 and len(seen.names) == 11
    assert len(seen.sizes) + len(seen.broken) == 5
    assert seen.usable == round(11 * len(seen.sizes) / 5)
    assert not seen.duplicates


@pytest.mark.parametrize('name, said', [
    ('nowhere', 'no such folder'), ('notes.txt', 'is a file'),
    ('none', 'holds no photographs; it holds 1 .txt')])
def test_what_is_no_folder_of_photographs(folder, name, said):
    (folder / 'none').mkdir()
    (folder / 'none' / 'a.txt').touch()
    with pytest.raises(UserError, match=said):
        survey(str(folder / name))
