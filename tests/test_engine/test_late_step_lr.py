"""LateStepLR and the schedule of resumed runs."""
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner

from cyborgs_plugin.engine import LateStepLR, ScheduleHook

from ..helpers import PER_EPOCH, FewZeros, OneWeight


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.)


def rates(scheduler, steps):
    found = []
    for _ in range(steps):
        found.append(scheduler.optimizer.param_groups[0]['lr'])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize('end, low, lowest', [
    # first steps at a tenth and a hundredth of the rate
    (100, 96, 98), (50, 48, 49), (800, 768, 784), (4, None, 3), (2, None, 1)])
def test_falls_where_the_run_is_short_too(end, low, lowest):
    found = rates(LateStepLR(optimizer(), end=end), end)
    expected = [1.] * end
    for step in range(end):
        if low is not None and step >= low:
            expected[step] = 0.1
        if step >= lowest:
            expected[step] = 0.01
    assert found == pytest.approx(expected)


def test_a_single_step_is_not_lowered():
    assert rates(LateStepLR(optimizer(), end=1), 1) == [1.]


def test_counts_from_its_begin():
    found = rates(LateStepLR(optimizer(), begin=10, end=100), 100)
    assert found[95:99] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_iterations_of_epochs():
    scheduler = PARAM_SCHEDULERS.build(
        dict(
            type='LateStepLR',
            fractions=[0.5],
            gamma=0.2,
            end=4,
            convert_to_iter_based=True),
        default_args=dict(optimizer=optimizer(), epoch_length=3))
    assert not scheduler.by_epoch
    assert rates(scheduler, 12) == pytest.approx([1.] * 6 + [0.2] * 6)


@pytest.mark.parametrize('options, message', [
    (dict(end=10, fractions=(0.5, 1.)), 'fractions .*between 0 and 1'),
    (dict(end=10, fractions=(768, 784)), r'\(768, 784\)'),
    (dict(), 'end is missing'),
])
def test_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        LateStepLR(optimizer(), **options)


def test_wrong_conversion():
    with pytest.raises(ValueError, match='by_epoch=False'):
        LateStepLR.build_iter_from_epoch(
            optimizer(), end=4, by_epoch=False, epoch_length=3)


class RecordHook(Hook):
    """The rate of each iteration of a real run."""

    def __init__(self):
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.param_groups[0]['lr'])


SCHEDULES = {
    'late': [
        dict(type='LinearLR', start_factor=0.01, end=1,
             convert_to_iter_based=True),
        dict(type='LateStepLR', convert_to_iter_based=True)
    ],
    'late by epoch': [dict(type='LateStepLR', fractions=(0.5, 0.75))],
    'cosine': [
        dict(type='LinearLR', start_factor=0.01, end=1,
             convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', convert_to_iter_based=True)
    ],
    'cosine with a floor, by epoch': [
        dict(type='CosineAnnealingLR', eta_min=0.01)
    ],
    'by iteration': [dict(type='PolyLR', power=0.9, by_epoch=False)],
}


def train(work_dir, epochs, schedule, follow=True, lr=0.1, **options):
    """Run a few epochs and return the rate of each iteration."""
    record = RecordHook()
    run = Runner(
        OneWeight(),
        str(work_dir),
        train_dataloader=dict(
            batch_size=1,
            num_workers=0,
            dataset=FewZeros(),
            sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr)),
        param_scheduler=schedule,
        default_scope='mmpretrain',
        experiment_name=f'{work_dir}_{epochs}_{follow}_{lr}',
        **options)
    run.register_hook(record)
    if follow:
        run.register_hook(ScheduleHook())
    run.train()
    return record.rates


@pytest.mark.parametrize('schedule', SCHEDULES.values(), ids=SCHEDULES)
def test_resumed_with_more_epochs(schedule, tmp_path):
    """From the resumed epoch on, the rates of one run of that length."""
    expected = train(tmp_path / 'one', 5, schedule)
    first = train(tmp_path / 'w', 2, schedule)
    assert first != pytest.approx(expected[:2 * PER_EPOCH])
    again = train(tmp_path / 'w', 5, schedule, resume=True)
    assert again == pytest.approx(expected[2 * PER_EPOCH:], rel=1e-6)


def test_mmengine_alone_keeps_the_end_of_the_checkpoint(tmp_path):
    """Why there is a hook: without it, the rate stays at its lowest."""
    schedule = SCHEDULES['cosine']
    train(tmp_path, 2, schedule, follow=False)
    again = train(tmp_path, 5, schedule, follow=False, resume=True)
    assert len(again) == 3 * PER_EPOCH
    assert min(again) == max(again) < 0.03 * 0.1


def test_says_what_has_changed(tmp_path, capsys):
    train(tmp_path, 2, SCHEDULES['cosine'])
    train(tmp_path, 3, SCHEDULES['cosine'], resume=True)
    text = capsys.readouterr()
    text = text.out + text.err
    assert 'param_scheduler.1.end: 10 -> 15' in text
    assert 'param_scheduler.1.T_max: 10 -> 15' in text
    assert 'continues with that of the config' in text
    assert 'before `optimizer.step()`' not in text


def test_a_plain_resume_is_left_alone(tmp_path, capsys):
    schedule = SCHEDULES['cosine']
    expected = train(tmp_path / 'one', 4, schedule)
    train(tmp_path / 'w', 4, schedule)
    (tmp_path / 'w' / 'last_checkpoint').write_text(
        str(tmp_path / 'w' / 'epoch_2.pth'))
    assert train(
        tmp_path / 'w', 4, schedule,
        resume=True) == pytest.approx(expected[2 * PER_EPOCH:])
    assert 'another schedule' not in capsys.readouterr().out


def test_follows_another_rate_and_another_schedule(tmp_path):
    expected = train(tmp_path / 'one', 4, SCHEDULES['late'], lr=0.3)
    train(tmp_path / 'w', 2, SCHEDULES['by iteration'], lr=0.1)
    again = train(tmp_path / 'w', 4, SCHEDULES['late'], lr=0.3, resume=True)
    assert again == pytest.approx(expected[2 * PER_EPOCH:])


@pytest.mark.parametrize('before, after', [
    ([dict(type='CosineAnnealingLR')], None),
    ([dict(type='MultiStepLR', milestones=[1], gamma=.5)],
     [dict(type='ExponentialLR', gamma=.5)]),
])
def test_follows_a_schedule_that_has_less_to_say(tmp_path, before, after):
    expected = train(tmp_path / 'one', 4, after)
    train(tmp_path / 'w', 2, before)
    again = train(tmp_path / 'w', 4, after, resume=True)
    assert again == pytest.approx(expected[2 * PER_EPOCH:])


def test_scores_cannot_be_replayed(tmp_path, capsys):
    train(tmp_path, 2, SCHEDULES['cosine'])
    plateau = [dict(type='ReduceOnPlateauLR', monitor='x')]
    train(tmp_path, 3, plateau, resume=True)
    assert 'depends on scores' in capsys.readouterr().out
