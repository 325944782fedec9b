"""health.json, the rules of alarms, and the verdict."""
import json

import pytest

from cyborgs_plugin.evaluation.health_alarms import BANDS, RULES, find_alarms
from cyborgs_plugin.evaluation.health_record import HealthRecord
from cyborgs_plugin.evaluation.health_verdict import verdict


def test_what_comes_after_the_checkpoint_is_left_out(tmp_path):
    record = HealthRecord(str(tmp_path / 'health.json'))
    record.size = (32, 48)
    record.epochs = [dict(epoch=n, loss=n / 3) for n in range(4)]
    record.epochs[2]['loss'] = float('nan')
    # a round begins before the epoch of the same checkpoint ends
    record.rounds = [dict(round=n, epoch=n) for n in range(3)]
    record.alarms = [dict(epoch=n, name='collapse') for n in (1, 3)]
    record.verdict = 'fine'
    record.write()
    assert [path.name for path in tmp_path.iterdir()] == ['health.json']
    content = json.loads((tmp_path / 'health.json').read_text())
    assert content['epochs'][2] == dict(epoch=2)
    found = HealthRecord.resumed(record.path, 2, 1)
    assert found.epochs == [dict(epoch=0, loss=0), dict(epoch=1,
                                                        loss=0.333333),
                            dict(epoch=2)]
    assert found.rounds == record.rounds[:2]
    assert found.alarms == record.alarms[:1]
    assert (found.size, found.verdict) == ((32, 48), '')
    assert HealthRecord.resumed(record.path, 2).rounds == []
    assert HealthRecord.resumed(str(tmp_path / 'none.json'), 2).epochs == []


@pytest.mark.parametrize('content', ['', '[]', '{"schema": 1}',
                                     '{"schema": 2, "epochs": []}',
                                     '{"schema": 1, "size": [2], "epochs": [],'
                                     '"rounds": [], "alarms": []}'])
def test_another_file(content, tmp_path):
    (tmp_path / 'health.json').write_text(content)
    with pytest.raises(ValueError, match='no record of health'):
        HealthRecord.resumed(str(tmp_path / 'health.json'), 1)


FINE = dict(epoch=3, iter=300, image_cosine=0.9, image_rank=80., rank_kept=1.,
            region_spread=0.9, pixel_contrast=60., regions_per_view=6.,
            regions_per_image=9., matched_regions=0.7, agreement=0.6,
            border_share=0.4, contrast_to_chance=0.8, target_change=0.1)


@pytest.mark.parametrize('name, changed', [
    ('not_finite', dict(loss=float('inf'))),
    ('pictures_alike', dict(pixel_contrast=1., image_cosine=1.)),
    ('collapse', dict(image_cosine=0.9995)),
    ('collapse', dict(region_spread=0.02)),
    ('collapse', dict(rank_kept=0.1)),
    ('target_still', dict(target_change=0.)),
    ('learns_nothing', dict(contrast_to_chance=1.01)),
    ('one_region', dict(regions_per_view=1.2)),
    ('one_region', dict(regions_per_image=1., border_share=1.)),
    ('nothing_matched', dict(matched_regions=0.05)),
    ('masks_stopped', dict(agreement=0.99)),
    ('frame', dict(border_share=0.9))])
def test_one_alarm_for_one_fault(name, changed):
    ill = dict(FINE, **changed)
    alarm, = find_alarms(ill, None, BANDS)
    assert (alarm['name'], alarm['epoch']) == (name, 3)
    assert '{' not in alarm['message'] + alarm['advice']
    assert find_alarms(ill, FINE, BANDS) == [alarm]
    assert find_alarms(ill, ill, BANDS) == []  # it is known
    assert find_alarms(FINE, ill, BANDS) == []


def test_no_alarm_without_a_reason():
    assert find_alarms(FINE, None, BANDS) == []
    assert find_alarms(dict(epoch=1, iter=2), None, BANDS) == []
    # before the first step, or in the first steps
    assert not find_alarms(
        dict(FINE, iter=0, image_cosine=1., contrast_to_chance=1.), None,
        BANDS)
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_verdict_names_what_improved_until_when():
    epochs = [dict(epoch=n, image_rank=rank, contrast_to_chance=ratio)
              for n, (rank, ratio) in enumerate(
                  [(40., 1.), (60., 0.9), (90.1, 0.8), (90., 0.7), (50, 0.7)])]
    rounds = [dict(round=0), dict(round=1, agreement=0.512)]
    said = verdict(epochs, rounds, [])
    assert said.startswith('after epoch 4: no alarm; ')
    assert 'loss over chance improved from 1 to 0.7 until epoch 3' in said
    assert 'effective rank of images 40 -> 50' in said
    assert 'round to round 0.51' in said
    alarms = [dict(epoch=2, name='collapse'), dict(epoch=4, name='collapse')]
    assert 'alarms: collapse (epoch 2);' in verdict(epochs, [], alarms)
    assert 'did not improve (0.8, in the end 0.9)' in verdict(
        [dict(epoch=1, contrast_to_chance=0.8),
         dict(epoch=2, contrast_to_chance=0.9)], [], [])
    losses = [dict(epoch=n, loss=loss) for n, loss in enumerate((3, 1, 2))]
    assert 'loss improved from 3 to 1 until epoch 1, then rose to 2' in (
        verdict(losses, [], []))
    assert verdict([], [], []) == 'after epoch 0: no alarm'
    # one step without a finite loss, which does not end a run
    losses[0]['loss'] = float('nan')
    assert 'did not improve (1, in the end 2)' in verdict(losses, [], [])
