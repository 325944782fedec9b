"""Means, differences and sentences of a comparison."""
import json

import pytest

from cyborgs_plugin.evaluation.comparison import Cell, rows_of, sentences

GAINS = {1: (0.05, 0.06, 0.055), 10: (0.03, -0.03, 0.01), 100: (0.1, 0.1, 0.1)}


def cells(scores=('AP', )):
    found = []
    for start in ('usual', 'ours'):
        for labels, gains in GAINS.items():
            for seed, gain in enumerate(gains):
                value = labels / 200 + seed / 50 + gain * (start == 'ours')
                found.append(Cell(start, labels, seed,
                                  {name: value for name in scores}, 1.))
    return found


def test_rows_in_the_order_of_scores_labels_and_starts():
    rows = rows_of(cells(('AP', 'mIoU')), 'usual', True)
    assert [(row['score'], row['labels'], row['start']) for row in rows] == [
        (score, labels, start) for score in ('AP', 'mIoU')
        for labels in (1, 10, 100) for start in ('usual', 'ours')]
    json.dumps(rows, allow_nan=False)
    assert rows[1]['mean'] == pytest.approx(0.005 + 0.02 + 0.055)
    assert rows[1]['difference']['mean'] == pytest.approx(0.055)
    assert rows[0]['difference'] is None


def test_the_verdict_says_what_is_not_shown():
    rows = rows_of(cells(), 'usual', True)
    sentence, = sentences(rows, 'usual')
    assert sentence.startswith('ours against usual, AP: better with 1 % ('
                               '+0.055, 95 % interval +0.0')
    assert 'not shown with 10 % (+0.003, 95 % interval -0.0' in sentence
    assert 'seeds would tell 0.01' in sentence
    # the same step of all seeds: no spread, nothing shown
    assert sentence.endswith('not shown with 100 % (+0.100; no interval '
                             'without a spread of seeds).')


def test_all_labels_give_a_probe_no_interval():
    changed = [cell._replace(scores=dict(AP=cell.scores['AP'] + (
        0.001 * cell.seed if cell.start == 'ours' else 0)))
        for cell in cells()]
    for trained, verdict in ((True, 'better'), (False, 'not shown')):
        row = rows_of(changed, 'usual', trained)[-1]
        assert (row['labels'], row['difference']['verdict']) == (100, verdict)
        assert (row['difference']['low'] is None) != trained


def test_only_seeds_of_both_are_compared():
    few = [cell for cell in cells() if cell.start == 'ours' or cell.seed]
    row = rows_of(few, 'usual', True)[1]
    assert (row['start'], row['seeds']) == ('ours', 3)
    assert row['difference']['seeds'] == 2
    assert row['difference']['mean'] == pytest.approx((0.06 + 0.055) / 2)


def test_scores_that_were_not_possible_are_left_out():
    lacking = [cell._replace(scores={}) if cell.labels == 1 else cell
               for cell in cells()]
    assert {row['labels'] for row in rows_of(lacking, 'usual', True)} == {
        10, 100}
