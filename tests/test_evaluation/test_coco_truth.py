"""COCO's formats against what was drawn."""
import json

import numpy as np
import pytest

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
