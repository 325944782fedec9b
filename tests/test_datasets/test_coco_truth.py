"""COCO's formats against what was drawn, and in the tools' dialects."""
import itertools
import json
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyborgs_plugin.datasets import SceneDataset, coco_truth
from cyborgs_plugin.datasets.coco_truth import is_copy, is_turned, load_coco
from cyborgs_plugin.errors import UserError
from cyborgs_plugin.evaluation import CocoTruth, MaskQuality
from cyborgs_plugin.segmentation import AnnotatedMasks


def test_instances(annotated):
    truth = CocoTruth(str(annotated))
    assert truth.classes == ['animal', 'thing']
    assert truth.names == ['0.png', '1.png', '2.png', '3.png']
    found = truth.instances('0.png')
    square = found.masks[-3]  # given as a polygon
    assert square[30:38, 5:25].all() and square.sum() == 160
    assert found.crowd.tolist() == [False] * (len(found.crowd) - 1) + [True]
    assert found.classes.tolist()[-3:] == [1, 1, 0]
    assert (found.areas == found.masks.sum((1, 2))).all()


def test_smaller_instances_lie_on_top_and_crowds_are_unlabelled(annotated):
    truth = CocoTruth(str(annotated))
    found = truth.instances('1.png')
    segments = truth.segments('1.png')
    classes = truth.semantic('1.png')
    for y in range(segments.shape[0]):
        for x in range(segments.shape[1]):
            here = [i for i in range(len(found.masks))
                    if found.masks[i, y, x] and not found.crowd[i]]
            if here:
                top = min(here, key=lambda i: found.areas[i])
                assert segments[y, x] == top + 1
                assert classes[y, x] == found.classes[top] + 1
            else:
                assert segments[y, x] == 0
                in_crowd = found.masks[found.crowd][:, y, x].any()
                assert classes[y, x] == (255 if in_crowd else 0)


def test_panoptic(annotated):
    truth = CocoTruth(
        str(annotated), str(annotated.parent / 'panoptic_val2017.json'))
    assert truth.names == ['0.png', '1.png', '2.png']
    assert '3.png' not in truth and '2.png' in truth
    assert truth.segment_classes == ['animal', 'thing', 'sky']
    segments, classes = truth.segments('2.png'), truth.semantic('2.png')
    crowd = truth.instances('2.png').masks[-1]
    assert (segments[crowd] == 0).all()
    assert (classes[crowd] == 0).all()  # a crowd of animals are animals
    square = truth.instances('2.png').masks[-3] & ~crowd
    assert (classes[square] == 1).all()
    assert len(np.unique(segments[square])) == 1
    sky = classes == 2
    assert sky.any() and not sky[12:].any()
    assert (classes[20:][segments[20:] == 0] != 2).all()
    assert set(np.unique(classes)) <= {0, 1, 2, 255}


def edited(annotated, edit):
    content = json.loads(annotated.read_text())
    edit(content)
    annotated.write_text(json.dumps(content))
    return str(annotated)


def test_mistakes(annotated, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.json'):
        CocoTruth('nowhere.json')
    odd = tmp_path / 'odd.json'
    odd.write_text('[1]')
    with pytest.raises(ValueError, match='odd.json.*no COCO json'):
        CocoTruth(str(odd))

    def spoil(content):
        del content['annotations'][0]['segmentation']

    truth = CocoTruth(edited(annotated, spoil))
    with pytest.raises(ValueError, match='annotation 1 .*segmentation'):
        truth.instances('0.png')


def test_a_panoptic_picture_of_another_size(annotated):
    def spoil(content):
        content['images'][0]['height'] = 41

    truth = CocoTruth(edited(annotated, spoil),
                      str(annotated.parent / 'panoptic_val2017.json'))
    with pytest.raises(ValueError, match=r'0.png: expected.*41'):
        truth.segments('0.png')


def test_categories_without_supercategory(annotated):
    def strip(content):
        for category in content['categories']:
            del category['supercategory']

    assert CocoTruth(edited(annotated, strip)).classes == ['cat', 'dog', 'box']


def with_supercategories(annotated, *names):
    def edit(content):
        for category, name in zip(content['categories'], names):
            category['supercategory'] = name

    return edited(annotated, edit)


@pytest.mark.parametrize('names', [
    ('none', 'none', 'none'), ('none', 'animal', 'thing'), ('', 'a', 'b'),
    (None, 'a', 'b'), ('None', 'a', 'b'), ('things', 'things', 'things')])
def test_supercategories_that_do_not_group(annotated, names):
    truth = CocoTruth(with_supercategories(annotated, *names))
    assert truth.classes == ['cat', 'dog', 'box']
    assert truth.instances('0.png').classes.tolist()[-3:] == [2, 2, 1]


def test_a_root_category_as_roboflow_exports_it(annotated):
    def add_root(content):
        content['categories'].insert(
            0, dict(id=0, name='things', supercategory='none'))

    with_supercategories(annotated, 'things', 'things', 'things')
    truth = CocoTruth(edited(annotated, add_root))
    found = truth.instances('0.png').classes
    assert [truth.classes[index] for index in found[-3:]] == [
        'box', 'box', 'dog']
    # A root that no object has does not keep others from being grouped.
    with_supercategories(annotated, 'none', 'animal', 'animal', 'thing')
    truth = CocoTruth(str(annotated))
    found = truth.instances('0.png').classes
    assert [truth.classes[index] for index in found[-3:]] == [
        'thing', 'thing', 'animal']


def test_only_categories_of_objects_that_are_there_count(annotated):
    def keep_animals(content):
        content['annotations'] = [
            a for a in content['annotations'] if a['category_id'] != 3
        ]
        # of an image that is not listed
        content['annotations'].append(
            dict(content['annotations'][0], image_id=99, category_id=3))

    truth = CocoTruth(edited(annotated, keep_animals))
    assert truth.classes == ['cat', 'dog', 'box']


def test_panoptic_supercategories_that_do_not_group(annotated):
    panoptic = annotated.parent / 'panoptic_val2017.json'
    with_supercategories(panoptic, 'none', 'none', 'none', 'none')
    truth = CocoTruth(str(annotated), str(panoptic))
    assert truth.segment_classes == ['cat', 'dog', 'box', 'sky']


def test_an_unknown_category(annotated):
    def spoil(content):
        content['annotations'][0]['category_id'] = 77

    with pytest.raises(ValueError, match=r'instances_val2017.*\[77\]'):
        CocoTruth(edited(annotated, spoil))


def test_a_file_under_several_ids_has_all_its_objects(annotated):
    expected = CocoTruth(str(annotated))
    expected = {name: expected.instances(name) for name in expected.names}

    def split(content):
        for image in content['images'][:2]:
            content['images'].append(dict(image, id=image['id'] + 100))
        for annotation in content['annotations'][::2]:
            if annotation['image_id'] < 12:
                annotation['image_id'] += 100

    truth = CocoTruth(edited(annotated, split))
    assert truth.names == list(expected)
    for name, wanted in expected.items():
        found = truth.instances(name)
        assert len(found.masks) == len(wanted.masks)
        order = sorted(range(len(found.areas)), key=lambda i: (
            found.masks[i].tobytes()))
        other = sorted(range(len(found.areas)), key=lambda i: (
            wanted.masks[i].tobytes()))
        for part, of_wanted in zip(found, wanted):
            np.testing.assert_array_equal(part[order], of_wanted[other])


def test_a_file_under_two_ids_with_one_panoptic_picture(annotated):
    panoptic = str(annotated.parent / 'panoptic_val2017.json')
    expected = CocoTruth(str(annotated), panoptic).segments('0.png')

    def split(content):  # the id without a picture comes last
        content['images'].append(dict(content['images'][0], id=99))

    truth = CocoTruth(edited(annotated, split), panoptic)
    assert '0.png' in truth and truth.names.count('0.png') == 1
    np.testing.assert_array_equal(truth.segments('0.png'), expected)

    def add_picture(content):
        content['annotations'].append(
            dict(content['annotations'][0], image_id=99))

    edited(annotated.parent / 'panoptic_val2017.json', add_picture)
    with pytest.raises(ValueError, match=r"'0.png' under ids \[10, 99\]"):
        CocoTruth(str(annotated), panoptic).segments('0.png')


@pytest.mark.parametrize('change, said', [
    (dict(id=99, height=41), r"'0.png'.*\(40, 48\) under id 10.*"
                             r'\(41, 48\) under id 99'),
    (dict(file_name='x.png'), "'0.png' and 'x.png' have the same id 10")])
def test_images_that_contradict(annotated, change, said):
    def add(content):
        content['images'].append(dict(content['images'][0], **change))

    with pytest.raises(ValueError, match=said):
        CocoTruth(edited(annotated, add))


def test_an_image_without_a_size(annotated):
    def spoil(content):
        del content['images'][1]['height']

    with pytest.raises(ValueError, match=r'instances_val2017.*1.png.*height'):
        CocoTruth(edited(annotated, spoil))


@given(
    st.integers(20, 3000), st.integers(20, 3000), st.integers(1, 32),
    st.integers(1, 3000))
def test_which_way_a_map_stands(height, width, stride, long_side):
    """Never a false alarm; always a true one where the grid tells."""
    scale = long_side / max(height, width)
    scaled = [max(1, int(side * scale + 0.5)) for side in (height, width)]
    for shape in ((height, width), scaled):
        rows, cols = (-(-side // stride) for side in shape)
        assert not is_turned((rows, cols), (height, width))
        assert is_turned((cols, rows), (height, width)) == (rows != cols)
    assert is_turned((width, height), (height, width)) == (width != height)
    assert not is_turned((1, 1), (height, width))


# Exports as the tools write them: the same two objects each, a dog's box at
# columns 4 to 12 and a cat's at 20 to 36 of one image of 40x48.
DOG, CAT = [4, 6, 12, 6, 12, 16, 4, 16], [20, 8, 36, 8, 36, 32, 20, 32]


def cvat():
    """Empty supercategories; what was painted comes as run lengths."""
    mask = np.zeros((40, 48), dtype=np.uint8)
    mask[8:32, 20:36] = 1
    runs = [len([*run]) for _, run in itertools.groupby(mask.T.ravel())]
    return dict(
        licenses=[dict(name='', id=0, url='')],
        info=dict(contributor='', year=''),
        categories=[dict(id=1, name='dog', supercategory=''),
                    dict(id=2, name='cat', supercategory='')],
        images=[dict(id=1, width=48, height=40, file_name='a/x.png',
                     license=0, flickr_url='', coco_url='', date_captured=0)],
        annotations=[
            dict(id=1, image_id=1, category_id=1, segmentation=[DOG],
                 area=80.0, bbox=[4.0, 6.0, 8.0, 10.0], iscrowd=0,
                 attributes=dict(occluded=False)),
            dict(id=2, image_id=1, category_id=2, area=384.0, iscrowd=0,
                 segmentation=dict(counts=runs, size=[40, 48]),
                 bbox=[20.0, 8.0, 16.0, 24.0],
                 attributes=dict(occluded=False))])


def label_studio():
    """Everything from 0, and no supercategories."""
    return dict(
        images=[dict(width=48, height=40, id=0, file_name='a/x.png')],
        categories=[dict(id=0, name='dog'), dict(id=1, name='cat')],
        annotations=[
            dict(id=number, image_id=0, category_id=number, ignore=0,
                 segmentation=[outline], iscrowd=0, bbox=[], area=area)
            for number, (outline, area) in enumerate([(DOG, 80), (CAT, 384)])],
        info=dict(year=2024, version='1.0', contributor='Label Studio'))


def roboflow():
    """A root that is the supercategory of all others."""
    return dict(
        info=dict(year='2024', version='1'),
        categories=[dict(id=0, name='pets', supercategory='none'),
                    dict(id=1, name='dog', supercategory='pets'),
                    dict(id=2, name='cat', supercategory='pets')],
        images=[dict(id=0, license=1, file_name='a/x.png', height=40,
                     width=48, date_captured='2024', extra=dict(name='x'))],
        annotations=[
            dict(id=0, image_id=0, category_id=1, bbox=[4, 6, 8, 10], area=80,
                 segmentation=[DOG], iscrowd=0),
            dict(id=1, image_id=0, category_id=2, bbox=[20, 8, 16, 24],
                 area='384', segmentation=[CAT], iscrowd=0)])


def labelme2coco():
    """No area."""
    return dict(
        images=[dict(height=40, width=48, id=0, file_name='a/x.png')],
        categories=[dict(supercategory='dog', id=0, name='dog'),
                    dict(supercategory='cat', id=1, name='cat')],
        annotations=[
            dict(segmentation=[[float(v) for v in outline]], iscrowd=0,
                 image_id=0, category_id=number, id=number + 1)
            for number, outline in enumerate([DOG, CAT])])


def via():
    """Numbers as text, a bare list of coordinates, no ids of objects."""
    return dict(
        images=[dict(id='0', file_name='a/x.png', width='48', height='40.0')],
        categories=[dict(id='1', name='dog', supercategory='type'),
                    dict(id='2', name='cat', supercategory='type')],
        annotations=[
            dict(image_id=0, category_id=str(number), segmentation=outline,
                 iscrowd='0', bbox=[])
            for number, outline in enumerate([DOG, CAT], 1)])


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(coco_truth, 'print_log',
                        lambda text, **_: lines.append(text))
    return lines


@pytest.mark.parametrize('export, fixed', [
    (cvat, None), (label_studio, None),
    (roboflow, '1 annotations whose area is counted from the outline'),
    (labelme2coco, '2 annotations whose area is counted from the outline'),
    (via, '7 numbers as text or with a decimal point; 2 annotations without '
          'an id; 2 outlines that are one bare list; 2 annotations whose area '
          'is counted from the outline')])
def test_exports(tmp_path, logged, export, fixed):
    path = tmp_path / 'x.json'
    path.write_bytes(b'\xef\xbb\xbf' + json.dumps(export()).encode())
    truth = CocoTruth(str(path))
    assert truth.names == ['a/x.png'] and truth.size('a/x.png') == (40, 48)
    found = truth.instances('a/x.png')
    assert [truth.classes[index] for index in found.classes] == ['dog', 'cat']
    assert found.areas.tolist() == [80, 384] and not found.crowd.any()
    for mask, (rows, cols) in zip(found.masks, (
            (slice(6, 16), slice(4, 12)), (slice(8, 32), slice(20, 36)))):
        assert mask[rows, cols].all() and mask.sum() == mask[rows, cols].size
    assert logged == ([f'{path}: read with {fixed}'] if fixed else [])


@pytest.mark.parametrize('name', ['x.pkl', 'x.yaml', 'x'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
def test_json_is_json_whatever_it_is_called(tmp_path, name, encoding):
    path = tmp_path / name
    path.write_text(json.dumps(cvat()), encoding=encoding)
    assert CocoTruth(str(path)).classes == ['dog', 'cat']


def scenes(root, path):
    return SceneDataset(
        data_root=str(root), data_prefix='train2017', ann_file=str(path))


@pytest.mark.parametrize('reader', [
    lambda root, path: CocoTruth(str(path)),
    lambda root, path: MaskQuality(str(path)),
    lambda root, path: AnnotatedMasks(str(path)), scenes])
def test_all_that_read_annotations_read_them_here(photo_root, reader):
    """JSON whatever its name, no code, and a line for what is wrong."""
    content = via()
    content['images'][0]['file_name'] = '00.png'
    path = photo_root / 'x.pkl'
    path.write_bytes(b'\xef\xbb\xbf' + json.dumps(content).encode())
    reader(photo_root, path)
    del content['images'][0]['file_name']
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r'x.pkl.*has no file_name'):
        reader(photo_root, path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match='x.pkl.*no whole json'):
        reader(photo_root, path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match='x.pkl'):
        reader(photo_root, path)


class Evil:

    def __reduce__(self):
        return exec, ('raise RuntimeError("this file ran code")', )


@pytest.mark.parametrize('content, said', [
    (json.dumps(cvat())[:-40].encode(), r'no whole json .*truncated'),
    (b'', 'no whole json'), (b'version https://git-lfs', 'begin with .*git'),
    (b'[' * 100000, 'no whole json'), (b'{"a": "\xff"}', 'no whole json'),
    (b'!!python/object/apply:os.getcwd []', 'no whole json'),
    (pickle.dumps(Evil()), 'no whole json'),
    (b'[1]', 'no COCO json.*found a list.*format COCO'),
    (b'{"images": []}', "annotations, categories.*object with 'images'")])
def test_files_that_are_no_coco(tmp_path, content, said):
    path = tmp_path / 'x.pkl'
    path.write_bytes(content)
    with pytest.raises(UserError, match=f'x.pkl.*{said}') as refused:
        CocoTruth(str(path))
    assert '\n' not in str(refused.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'x.json')
    with pytest.raises(UserError, match='x.json.*no regular file'):
        CocoTruth(str(tmp_path / 'x.json'))


def change(kind, **fields):
    def edit(content):
        record = content[kind][-1]
        for key, value in fields.items():
            record.pop(key, None)
            if value is not None:
                record[key] = value
    return edit


def put(kind, value):
    return lambda content: content[kind].append(value)


@pytest.mark.parametrize('edit, said', [
    (change('images', file_name=None),
     r'images\[0\] has no file_name: give the path'),
    (change('images', file_name=3), r'images\[0\] has the file_name 3: give'),
    (change('images', id=None), r"images\[0\] \('a/x.png'\) has no id"),
    (change('images', width=None),
     r"images\[0\] \('a/x.png'\) has no width: write"),
    (change('images', width='wide'), r"images\[0\].* has the width 'wide'"),
    (change('images', width=-48), 'has the width -48'),
    (change('images', height=40.5), 'has the height 40.5'),
    (change('annotations', image_id=None),
     r'annotations\[1\] \(2\) has no image_id'),
    (change('annotations', image_id=[1]), r'has the image_id \[1\]'),
    (change('annotations', category_id=None),
     r'annotations\[1\] \(2\) has no category_id: give'),
    (change('annotations', category_id=True), 'has the category_id True'),
    (change('annotations', category_id=7), r'category ids \[7\]'),
    (change('annotations', category_id='x'), r"category ids \['x'\]"),
    (change('annotations', iscrowd='no'), r"\[1\] has the iscrowd 'no'"),
    (change('categories', id=None), r"categories\[1\] has no id: give each"),
    (change('categories', name=None), r'categories\[1\] \(2\) has no name'),
    (change('categories', id=1),
     "categories 'dog' and 'cat' have the same id 1"),
    (change('categories', supercategory=['a', 'b']),
     r"categories\[1\] \(2\) has the supercategory \['a', 'b'\]: give"),
    (change('images', height=200000), 'has the height 200000: .* at most'),
    (change('images', height=40000, width=40000), 'has the height 40000: '),
    (change('images', height=10**12), 'has the height 1000000000000: '),
    (change('images', height='9' * 5000), "has the height '999"),
    (change('images', id='9' * 5000), 'none of its 2 annotations'),
    (lambda content: [
        annotation.update(category_id=number) for annotation, number in zip(
            content['annotations'], (9, 'x'))], r"category ids \[9, 'x'\]"),
    (put('images', 'x.png'), r"images\[1\] is 'x.png': expected an object"),
    (put('images', dict(id=2, file_name='a/x.png', height=48, width=40)),
     "'a/x.png' has height and width .40, 48. under id 1, but .48, 40.*"),
    (put('images', dict(id='1', file_name='b/x.png', height=40, width=48)),
     "'a/x.png' and 'b/x.png' have the same id 1"),
    (change('images', id='one'),
     "none of its 2 annotations.* such as 1, .*such as 'one'. Make them"),
    (change('annotations', area=None, segmentation=[], bbox=[1, 2, 3, 4]),
     "annotation 2 of 'a/x.png'.*box only"),
    (change('annotations', area=None,
            segmentation=dict(counts=[9], size=[3, 3])),
     r"annotation 2 of 'a/x.png'.*size \[3, 3\].*\[40, 48\]"),
    (lambda content: [annotation.update(iscrowd=1)
                      for annotation in content['annotations']],
     'each of its 2 annotations is a crowd.*CVAT')])
def test_what_is_refused(tmp_path, edit, said):
    content = cvat()
    edit(content)
    path = tmp_path / 'x.json'
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f'x.json: .*{said}') as refused:
        CocoTruth(str(path))
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('outline', [
    None, [], 'x', [['x', 'y']], [[]], [{}], dict(counts='?'), 5,
    dict(counts=[5, 'x'], size=[40, 48]), dict(counts=[16], size=[4, 4]),
    [[1, 1, 9, 9]], [[1, 2, 3, 4, 5, 6, 7]], [[60, 1, 70, 1, 70, 9]],
    [[1, 1, 9, 1, 9, float('nan')], CAT], [[1, 1, 9, 1, 9, 1e18], CAT],
    [[10**400, 1, 9, 1, 9, 9]], dict(counts='zzzz', size=[40, 48])])
def test_an_outline_that_is_none(tmp_path, outline):
    content = cvat()
    content['annotations'][1]['segmentation'] = outline
    path = tmp_path / 'x.json'
    path.write_text(json.dumps(content))
    truth = CocoTruth(str(path))  # others may still be read
    with pytest.raises(UserError, match="x.json: annotation 2 of 'a/x.png' has"
                       ' no usable segmentation'):
        truth.instances('a/x.png')


@pytest.mark.parametrize('edit, said', [
    (put('annotations', dict(cvat()['annotations'][0], image_id=9)),
     '1 annotations (image_id such as 9) of images that are not listed'),
    (put('images', dict(id=5, file_name='a/x.png', height=40, width=48)),
     '1 files listed once more, whose objects are joined'),
    (change('images', height=40.0), '1 numbers as text'),
    (change('annotations', segmentation=[CAT, [1, 2, 3]]),
     '1 parts of outlines that are left out'),
    (change('annotations', segmentation=[[], CAT, [60, 1, 70, 1, 70, 9]]),
     '2 parts of outlines that are left out'),
    (change('annotations', segmentation=[[20, 8], [36, 8], [36, 32]]),
     '1 outlines of points [x, y]'),
    (change('annotations', segmentation=[[[20, 8], [36, 8], [36, 32]], DOG]),
     '1 outlines of points [x, y]'),
    (change('annotations', segmentation=dict(counts=[1000, 920],
                                             size=['40', '48.0'])),
     '1 sizes of run lengths as text'),
    (change('annotations', area=10**400),
     '1 annotations whose area is counted'),
    (change('annotations', segmentation=[[20, 8, 60, 8, 60, 32]]),
     "1 images, such as 'a/x.png', whose outlines go beyond them"),
    (change('categories', name=5), '1 names of categories that are numbers'),
    (change('categories', supercategory=5),
     '1 names of categories that are numbers')])
def test_what_is_read_with_a_line(tmp_path, logged, edit, said):
    content = cvat()
    edit(content)
    path = tmp_path / 'x.json'
    path.write_text(json.dumps(content))
    assert len(CocoTruth(str(path)).instances('a/x.png').masks) == 2
    assert len(logged) == 1 and said in logged[0]


@pytest.mark.parametrize('value, crowd', [
    ('false', False), ('False', False), ('', False), ('true', True),
    ('TRUE', True), (1.0, True)])
def test_ways_to_write_a_crowd(tmp_path, value, crowd):
    content = cvat()
    content['annotations'][1]['iscrowd'] = value
    path = tmp_path / 'x.json'
    path.write_text(json.dumps(content))
    found = CocoTruth(str(path)).instances('a/x.png')
    assert found.crowd.tolist() == [False, crowd]


def test_an_id_with_leading_zeros_is_another_one(tmp_path):
    content = cvat()
    image, = content['images']
    content['images'] = [dict(image, id='1'),
                         dict(image, id='01', file_name='b.png')]
    content['annotations'][1]['image_id'] = '01'
    path = tmp_path / 'x.json'
    path.write_text(json.dumps(content))
    truth = CocoTruth(str(path))
    assert [len(truth.instances(name).masks) for name in truth.names] == [1, 1]


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.05, 1))
def test_a_resized_image_is_known(height, width, scale):
    small = max(1, round(height * scale)), max(1, round(width * scale))
    assert is_copy(small, (height, width)) and is_copy((height, width), small)


def test_another_or_a_cut_image_is_no_copy():
    assert not is_copy((480, 640), (427, 640))
    assert not is_copy((64, 60), (32, 32))
    assert not is_copy((32, 32), (64, 60))


def swapped(content, names):
    for image in content['images']:
        if image['file_name'] in names:
            image.update(height=image['width'], width=image['height'])


def many(export):
    """Three images, each with a large object at its right side."""
    content = export()
    image, = content['images']
    content['images'] = [
        dict(image, id=number, file_name=f'{number}.png')
        for number in range(3)]
    content['annotations'] = [
        dict(content['annotations'][0], id=number, image_id=number,
             segmentation=[[30, 2, 47, 2, 47, 30, 30, 30]])
        for number in range(3)]
    return content


def test_height_and_width_swapped(tmp_path, logged):
    path = tmp_path / 'x.json'
    content = many(cvat)
    swapped(content, ['0.png', '1.png'])
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"x.json: the outlines of 2 images, "
                       r"such as '0.png' \(height 48, width 40\)"):
        CocoTruth(str(path))
    swapped(content, ['0.png'])
    path.write_text(json.dumps(content))
    assert len(CocoTruth(str(path)).names) == 3
    assert "1 images, such as '1.png'" in logged[0]
    swapped(content, ['1.png'])
    # a little beyond the image, as people draw
    content['annotations'][1]['segmentation'] = [[2, 2, 30, 2, 30, 41.5]]
    path.write_text(json.dumps(content))
    CocoTruth(str(path))
    assert len(logged) == 1


def test_panoptic_files(annotated, logged):
    panoptic = annotated.parent / 'panoptic_val2017.json'
    expected = CocoTruth(str(annotated), str(panoptic)).semantic('1.png')

    def as_text(content):
        for annotation in content['annotations']:
            annotation['image_id'] = str(annotation['image_id'])
            for info in annotation['segments_info']:
                info['category_id'] = str(info['category_id'])
                info['iscrowd'] = str(info['iscrowd'])

    edited(panoptic, as_text)
    truth = CocoTruth(str(annotated), str(panoptic))
    np.testing.assert_array_equal(truth.semantic('1.png'), expected)
    assert len(logged) == 1 and str(panoptic) in logged[0]
    with pytest.raises(UserError, match='instances.*has no segments_info'):
        CocoTruth(str(annotated), str(annotated))
    edited(panoptic, lambda content: content['annotations'][0][
        'segments_info'][0].pop('id'))
    with pytest.raises(UserError,
                       match=r'annotations\[0\].segments_info\[0\] has no id'):
        CocoTruth(str(annotated), str(panoptic))


def test_of_a_list_of_images_only_names_are_asked(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text(json.dumps(dict(images=[dict(file_name='a.png')])))
    assert load_coco(str(path), ('images', ))['images'][0] == dict(
        file_name='a.png')
    path.write_text(json.dumps(dict(images=[dict(name='a.png')])))
    with pytest.raises(UserError, match=r'images\[0\] has no file_name'):
        load_coco(str(path), ('images', ))
