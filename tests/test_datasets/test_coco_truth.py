"""COCO's formats against what was drawn."""
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyborgs_plugin.datasets.coco_truth import is_turned
from cyborgs_plugin.evaluation import CocoTruth


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

    with pytest.raises(ValueError, match=r'instances_val2017.*height.*1.png'):
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
