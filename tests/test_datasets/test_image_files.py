"""Folders and lists of names as people have them."""
import json
import os
import unicodedata

import pytest
from PIL import Image

from cyborgs_plugin.datasets import SceneDataset, image_files, image_io
from cyborgs_plugin.datasets.image_files import (
    find_files,
    list_images,
    match_names,
)
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.segmentation import GridMasks, make_round

from ..helpers import small_run


def picture(path, kind='JPEG'):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 6)).save(path, kind)


def keys(folder, **options):
    data = SceneDataset(data_root=str(folder), data_prefix='', **options)
    return [key for key, _ in data.images()]


@pytest.fixture
def told(monkeypatch):
    """What the data sets say."""
    lines = []
    monkeypatch.setattr('cyborgs_plugin.datasets.scene_dataset.print_log',
                        lambda message, **_: lines.append(message))
    return lines


# -- Folders ----------------------------------------------------------------


def test_images_are_found_by_content_and_the_rest_is_told(tmp_path, told):
    names = [
        'a.jpg', 'b.jfif', 'c.jpe', 'd.JPG_large', 'e', 'f.jpg!d', 'sub/g.gif',
        'h.jp2', 'i.avif'
    ]
    kinds = dict(g='GIF', h='JPEG2000', i='AVIF')
    for name in names:
        stem = os.path.basename(name)[0]
        picture(tmp_path / name, kinds.get(stem, 'JPEG'))
    for name in ('notes.txt', 'more.TXT', 'x.npy', 'LICENCE', 'film.mkv'):
        (tmp_path / name).write_text('no image')
    assert keys(tmp_path) == sorted(names)
    assert told == [f'{tmp_path}/: 9 images; left out: 2 .txt, '
                    + told[0].split('2 .txt, ')[1]] and len(told) == 1
    for part in ('1 .npy', '1 without an ending', '1 .mkv'):
        assert part in told[0]
    # Endings that are given are all there is.
    assert keys(tmp_path, extensions='.jpg') == ['a.jpg']
    assert '2 .txt, 2 without an ending, 1 .avif, 1 .gif, ' in told[1]
    assert '3 of other endings' in told[1]


def test_nothing_is_told_where_all_is_used(tmp_path, told):
    picture(tmp_path / 'a.jpg')
    assert keys(tmp_path) == ['a.jpg'] and not told


def test_other_endings_are_not_opened(tmp_path, monkeypatch):
    """A look into each of a million texts would take minutes on a share."""
    opened = []
    monkeypatch.setattr(image_files, 'is_image',
                        lambda path: bool(opened.append(path)))
    for name in ('a.jpg', 'b.txt', 'c.json', 'd.odd'):
        (tmp_path / name).touch()
    assert keys(tmp_path) == ['a.jpg']
    assert opened == [str(tmp_path / 'd.odd')]


def test_heic_is_left_out_with_the_way_out(tmp_path, told, monkeypatch):
    monkeypatch.setattr(image_files, 'READS_HEIF', False)
    monkeypatch.setattr(
        image_files, 'IMG_EXTENSIONS',
        tuple(set(image_io.IMG_EXTENSIONS) - set(image_io.HEIF_EXTENSIONS)))
    picture(tmp_path / 'a.jpg')
    for name in ('b.HEIC', 'c.heic'):
        (tmp_path / name).write_bytes(b'\0\0\0\x18ftypheic' + bytes(40))
    assert keys(tmp_path) == ['a.jpg']
    assert '2 .heic; HEIC is read after pip install pillow-heif' in told[0]


def test_hidden_and_system_folders_are_no_data(tmp_path, told):
    for name in ('a.jpg', '.Trash-1000/files/b.jpg', '@eaDir/a.jpg/thumb.jpg',
                 'sub/.ipynb_checkpoints/c.jpg', 'sub/d.jpg', '._a.jpg',
                 '.hidden.jpg', '__MACOSX/a.jpg'):
        picture(tmp_path / name)
    assert keys(tmp_path) == ['a.jpg', 'sub/d.jpg']
    assert 'folders that are hidden or of a system: 4, such' in told[0]
    assert '.Trash-1000' in told[0]
    # The folder itself may lie in a hidden one.
    assert keys(tmp_path / '.Trash-1000') == ['files/b.jpg']


def test_folders_of_trainings_are_no_data(tmp_path, told):
    """A run in the photo folder drew sheets, and would train with them."""
    for name in ('a.jpg', 'work_dirs/toy/2025/vis_data/vis_image/masks_0.png',
                 'old/sheet.png', '2025/vis_data/vis_image/b.png',
                 'vis_data/c.jpg'):
        picture(tmp_path / name)
    for name in ('work_dirs/toy/.training.lock', 'old/last_checkpoint',
                 '2025/vis_data/config.py'):
        (tmp_path / name).touch()
    assert keys(tmp_path) == ['a.jpg', 'vis_data/c.jpg']
    assert 'folders of trainings (work_dir): 3, such as' in told[0]
    assert "'work_dirs/toy/'" in told[0]
    # The root may itself be one.
    (tmp_path / '.training.lock').touch()
    assert keys(tmp_path) == ['a.jpg', 'vis_data/c.jpg']
    assert 'old/sheet.png' in find_files(str(tmp_path), hidden=True).files


def test_links_are_followed_once(tmp_path, told):
    picture(tmp_path / 'far' / 'x.jpg')
    folder = tmp_path / 'data'
    picture(folder / 'real' / 'a.jpg')
    (folder / 'again').symlink_to('real')  # would give each image twice
    (folder / 'parent').symlink_to('..', target_is_directory=True)
    (folder / 'real' / 'up').symlink_to(folder)
    (folder / 'self').symlink_to('self')
    (folder / 'dead.jpg').symlink_to('nowhere.jpg')
    (folder / 'file.jpg').symlink_to('real/a.jpg')
    os.mkfifo(folder / 'pipe.jpg')
    assert keys(folder) == ['file.jpg', 'parent/far/x.jpg', 'real/a.jpg']
    assert "dead links, pipes and devices: 3, such as ['dead.jpg'," in told[0]


def test_folders_that_may_not_be_read_are_told(tmp_path, told, monkeypatch):
    picture(tmp_path / 'a.jpg')
    picture(tmp_path / 'locked' / 'b.jpg')
    scan = os.scandir

    def refuse(path):
        if str(path).endswith('locked'):
            raise PermissionError(13, 'Permission denied', path)
        return scan(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    assert keys(tmp_path) == ['a.jpg']
    assert "folders that may not be read: 1, such as ['locked/']" in told[0]


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    picture(tmp_path / '.cache' / 'a.jpg')
    (tmp_path / 'a.csv').touch()
    with pytest.raises(UserError, match='1 .csv; folders that are hidden'):
        keys(tmp_path)


def test_a_backslash_is_a_letter_on_linux(tmp_path):
    picture(tmp_path / 'a\\b.jpg')
    data = SceneDataset(data_root=str(tmp_path), data_prefix='')
    (key, path), = data.images()
    assert key == 'a\\b.jpg' and os.path.isfile(path)


def test_all_counts_where_hidden_files_are_asked_for(tmp_path):
    for name in ('.a/b.jpg', '.c.jpg'):
        picture(tmp_path / name)
    assert not find_files(str(tmp_path)).files
    assert sorted(find_files(str(tmp_path), hidden=True).files
                  ) == ['.a/b.jpg', '.c.jpg']


# -- Names in a json --------------------------------------------------------


def matched(names, files, folder='/data/images'):
    return match_names(names, files, folder, 'a.json')


NFC = unicodedata.normalize('NFC', 'Köln/é.jpg')
NFD = unicodedata.normalize('NFD', NFC)


@pytest.mark.parametrize('name, file', [
    ('sub\\000.jpg', 'sub/000.jpg'),
    ('images\\000.jpg', '000.jpg'),
    ('C:\\Users\\me\\images\\000.jpg', '000.jpg'),
    ('./sub//x.jpg', 'sub/x.jpg'),
    ('../images/sub/x.jpg', 'sub/x.jpg'),
    ('/data/images/sub/x.jpg', 'sub/x.jpg'),
    ('a/b.jpg', 'a\\b.jpg'),
    ('a.JPG', 'a.jpg'), ('A.jpg', 'a.JPG'), ('a.jpeg', 'a.jpg'),
    (NFC, NFD), (NFD, NFC),
    ('000.jpg', 'train/000.jpg')])
def test_a_name_finds_its_file(name, file):
    others = ['other.jpg', 'sub/other.jpg', 'z/0000.jpg']
    assert matched([name], [*others, file]) == {name: file}
    # One that is there exactly is taken, whatever else would do.
    assert matched([name], [file, name]) == {name: name}


@pytest.mark.parametrize('name, file', [
    ('train/000.jpg', 'val/000.jpg'), ('a.jpg', 'a.txt'), ('a.jpg', 'ba.jpg'),
    ('/elsewhere/images2/x.jpg', 'images/x.jpg')])
def test_another_file_is_not_taken(name, file):
    assert matched([name], [file, 'more.jpg']) == {}


def test_exact_names_come_first_and_keep_their_files():
    files = ['a.jpg', 'b.jpg', 'sub/b.jpg', 'c.png', 'C.jpg']
    names = ['b.png', 'b.jpg', 'a.jpg', 'sub\\b.jpg', 'c.JPG']
    assert matched(names, files) == {
        'b.jpg': 'b.jpg', 'a.jpg': 'a.jpg', 'sub\\b.jpg': 'sub/b.jpg',
        'c.JPG': 'C.jpg'}


@pytest.mark.parametrize('files, file', [
    (['IMG_1.txt'], None), (['IMG_1.txt', 'IMG_1.jpg'], 'IMG_1.jpg'),
    (['IMG_1.jpg', 'IMG_1.json'], 'IMG_1.jpg'),
    (['a/IMG_1', 'a/IMG_1.jpg'], 'a/IMG_1')])
def test_a_name_without_an_ending_means_an_image(files, file):
    assert matched(['IMG_1'], files) == ({'IMG_1': file} if file else {})


@pytest.mark.parametrize('files, expected', [
    (['images/x.jpg', 'masks/x.png', 'masks/y.png'],
     {'x.jpg': 'images/x.jpg'}),
    (['x.jpg', 'masks/x.png', 'masks/y.png'], {'x.jpg': 'x.jpg'}),
    (['images/x.jpg', 'images/y.png', 'masks/x.png', 'masks/y.png'],
     {'x.jpg': 'images/x.jpg', 'y.jpg': 'images/y.png'}),
    # Where no name tells the folder.
    (['images/x.png', 'images/y.png'],
     {'x.jpg': 'images/x.png', 'y.jpg': 'images/y.png'})])
def test_a_mask_beside_is_no_photo(files, expected):
    assert matched(['x.jpg', 'y.jpg'], files) == expected


def test_another_ending_at_the_very_place():
    assert matched(['a/x.jpg', 'b/y.jpg'], ['a/x.jpg', 'b/y.png']) == {
        'a/x.jpg': 'a/x.jpg', 'b/y.jpg': 'b/y.png'}


@pytest.mark.parametrize('names, files, shown', [
    (['x.jpg'], ['a/x.jpg', 'b/x.jpg'], r"'x.jpg'.*\['a/x.jpg', 'b/x.jpg'\]"),
    (['x.bmp'], ['x.jpg', 'x.png'], r"'x.bmp'.*\['x.jpg', 'x.png'\]"),
    (['a/x.jpg', 'b/x.jpg'], ['x.jpg'], r"\['a/x.jpg', 'b/x.jpg'\].*'x.jpg'"),
    (['./a//b.jpg'], ['d/a\\b.jpg', 'e/a/b.jpg'],
     "'./a//b.jpg'.*'d/a")])
def test_ambiguous_names_are_refused(names, files, shown):
    with pytest.raises(UserError, match=f'a.json names.*{shown}'):
        matched(names, files)


def test_names_of_a_json_become_keys_of_files(tmp_path, told):
    for name in ('a.jpg', 'sub/b.JPG', NFD, '.hidden/c.jpg'):
        picture(tmp_path / 'images' / name)
    names = ['a.jpg', '.\\sub\\b.jpg', NFC, '.hidden/c.jpg', 'gone.jpg',
             str(tmp_path / 'images' / 'a.jpg')]
    (tmp_path / 'a.json').write_text(
        json.dumps(dict(images=[dict(file_name=name) for name in names])))
    data = SceneDataset(data_root=str(tmp_path), data_prefix='images',
                        ann_file='a.json')
    assert [key for key, _ in data.images()] == [
        'images/a.jpg', 'images/sub/b.JPG', f'images/{NFD}',
        'images/.hidden/c.jpg']
    assert all(os.path.isfile(path) for _, path in data.images())
    assert 'writes 3 of 6 names otherwise than the disk' in told[0]
    # Both look alike when they are printed as they are.
    assert ascii(NFC) in told[0] and ascii(NFD) in told[0]
    assert 'names 1 of 6 images' in told[1] and 'gone.jpg' in told[1]


@pytest.mark.parametrize('option', [
    dict(max_pixels=-1), dict(depth_scaling='least')])
def test_bad_options_are_refused(tmp_path, option):
    with pytest.raises(UserError, match=next(iter(option))):
        SceneDataset(data_root=str(tmp_path), **option)


def test_options_reach_training_and_the_masks(photo_root, tmp_path):
    options = {'train_dataloader.dataset.max_pixels': 64 * 48 - 1}
    run = small_run(photo_root, tmp_path / 'w', **options)
    with pytest.raises(UserError, match='more than max_pixels=3071'):
        run.train()
    data = run.train_dataloader.dataset
    data.use_masks(
        make_round(GridMasks((2, 3)), data.images(), str(tmp_path / 'm'), 0,
                   0))
    assert data.prepare_data(0) is None
    data._image_options.update(max_pixels=64 * 48)
    assert data.prepare_data(0) is not None


def test_the_images_of_a_folder(tmp_path):
    """What lies beside them is none."""
    for name in ('b.jpg', 'a/c.JPG', '.hidden/d.jpg'):
        picture(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('no image')
    assert list_images(str(tmp_path)) == [
        str(tmp_path / 'a' / 'c.JPG'), str(tmp_path / 'b.jpg')]
    (tmp_path / 'empty').mkdir()
    for place, said in (('empty', 'holds no images'), ('notes.txt', 'no fol'),
                        ('nowhere', 'is no folder')):
        with pytest.raises(UserError, match=f'{place}.*{said}'):
            list_images(str(tmp_path / place))
