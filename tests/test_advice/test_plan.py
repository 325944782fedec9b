"""Plans, against sums done by hand."""
from dataclasses import replace

import pytest

from cyborgs_plugin.advice.machine import (
    Gpu,
    Machine,
    duration,
    existing,
    size,
    usable_cores,
)
from cyborgs_plugin.advice.networks import Network
from cyborgs_plugin.advice.plan import describe, make_plan, read_budget
from cyborgs_plugin.advice.trial import TOO_LARGE, Trial
from cyborgs_plugin.datasets.photo_survey import Survey
from cyborgs_plugin.errors import UserError

CPU = Machine(cores=2, load=0., memory=16 * 10**9)
GPU = Machine(cores=16, load=0., memory=10**11,
              gpus=(Gpu('G', 80 * 10**9, 80 * 10**9), ))
COST = Trial(step=1., load=0.01, round=0.05, memory=10**9,
             checkpoint=2 * 10**8, masks=5000.)


def photographs(number, side=640, looked=None):
    looked = number if looked is None else looked
    return Survey('/photos', [f'{n}.jpg' for n in range(number)], looked,
                  sizes=[(side, side)] * looked)


def plan_of(number, machine=CPU, start=None, processes=1, budget=None,
            network='resnet18', cost=COST, **options):
    return make_plan(photographs(number, **options), machine,
                     Network(network), start, processes, budget,
                     cost if callable(cost) else lambda plan: cost)


def test_three_thousand_photographs_on_a_cpu():
    plan = plan_of(3000)
    assert (plan.epochs, plan.batch, plan.interval, plan.rounds) == (
        18, 32, 3, 6)
    assert plan.steps == 93 and plan.rate == 1e-3 and plan.workers == 1
    steps, rounds = plan.parts()
    # the views of a batch are made on the same two cores
    assert steps == pytest.approx(18 * 93 * (1 + 32 * 0.01 / 2))
    assert rounds == pytest.approx(6 * 3000 * 0.05)
    checkpoints, masks = plan.disk
    assert checkpoints == 3 * 2e8 and masks == 6 * 3000 * 5000


def test_a_gpu_waits_for_its_loader_unless_it_holds_the_photographs():
    plan = plan_of(3000, GPU)
    assert plan.on_device and plan.workers == 0
    assert plan.parts()[0] == pytest.approx(18 * 93 * 1.)
    small = replace(GPU, gpus=(Gpu('G', 4 * 10**9, 8 * 10**9), ))
    plan = plan_of(3000, small, cost=replace(COST, load=0.5))
    assert not plan.on_device and plan.workers == 8
    assert plan.parts()[0] == pytest.approx(18 * 93 * 32 * 0.5 / 8)


def test_several_processes_share_batch_and_rounds():
    plan = plan_of(3000, GPU, processes=4)
    assert plan.each == 8 and plan.batch == 32 and plan.steps == 93
    assert plan.parts()[1] == pytest.approx(6 * 3000 * 0.05 / 4)


def test_the_first_round_may_take_longer():
    """Superpixels are found once; with little more, nothing is said."""
    cost = replace(COST, first=0.02)
    plan = plan_of(3000, cost=cost)
    assert plan.parts()[1] == pytest.approx(6 * 3000 * 0.05 + 3000 * 0.02)
    # a process sees half of the others' photographs in each further round
    both = plan_of(3000, processes=2, cost=cost)
    assert both.parts()[1] == pytest.approx(
        1500 * (6 * 0.05 + 0.02 * (2 - 1 / 2**5)))
    # there is room for 17,000: the others are new in each of 10 rounds
    many = plan_of(50_000, cost=cost)
    assert many.rounds == 10 and many.parts()[1] == pytest.approx(
        10 * 50_000 * 0.05 + 0.02 * (17_000 + 10 * 33_000))
    assert '(50 ms per photograph, 20 ms more when it is new).' in ' '.join(
        describe(plan, 10**10).split())
    plan = plan_of(3000, cost=replace(COST, first=0.01))
    assert '(50 ms per photograph).' in ' '.join(
        describe(plan, 10**10).split())


@pytest.mark.parametrize('number, processes', [(3000, 3), (13, 3), (8, 4)])
def test_the_batch_is_that_of_all_processes(number, processes):
    plan = plan_of(number, processes=processes)
    assert plan.batch == plan.each * processes and plan.each >= 2
    less = plan_of(3000, replace(CPU, memory=10**10), processes=3,
                   cost=lambda plan: replace(COST, memory=10**9 * plan.each))
    assert less.batch == less.each * 3 == 6  # neither 30 nor 15


@pytest.mark.parametrize('minutes', [12, 30, 45])
def test_epochs_fill_the_budget(minutes):
    plan = plan_of(3000, budget=60. * minutes)
    assert plan.seconds <= 60 * minutes
    assert 1 <= plan.epochs < plan.most_epochs == 18
    assert replace(plan, epochs=plan.epochs + 1).seconds > 60 * minutes


def test_a_long_budget_changes_nothing():
    assert plan_of(3000, budget=1e9).epochs == plan_of(3000).epochs == 18


def test_a_budget_of_less_than_an_epoch():
    with pytest.raises(UserError, match='a mask round .2 min. and one epoch '
                       '.2 min. take about 5 min here') as error:
        plan_of(3000, budget=60.)
    assert 'busy' not in str(error.value)
    with pytest.raises(UserError, match='busy .load 9 on 2 cores'):
        plan_of(3000, replace(CPU, load=9.), budget=60.)


def test_a_batch_that_does_not_fit_is_halved_with_its_rate():
    asked = []

    def cost(plan):
        asked.append(plan.batch)
        return replace(COST, memory=plan.batch * 10**9)

    plan = plan_of(3000, replace(CPU, memory=10 * 10**9), cost=cost)
    assert asked == [32, 16, 8] and plan.batch == 8
    assert plan.rate == pytest.approx(1e-3 / 4)
    with pytest.raises(UserError, match='takes about 4.0 GB of memory, more '
                       'than is free'):
        plan_of(3000, replace(CPU, memory=10**9), cost=cost)
    with pytest.raises(UserError, match='takes more than is free'):
        plan_of(3000, GPU, cost=TOO_LARGE)


def test_going_on_keeps_the_masks_and_looks_at_the_drift():
    plan = plan_of(300, start='/w.pth')
    assert (plan.epochs, plan.interval, plan.rounds) == (18, -1, 1)
    assert plan.parts()[1] == pytest.approx((300 + 18 * 64 / 4) * 0.05)


def test_the_published_recipe_is_for_gpus_and_its_networks():
    assert plan_of(118_000, GPU, looked=9).batch == 128
    assert plan_of(118_000, GPU, looked=9).rate == 0.2
    assert plan_of(118_000, CPU, looked=9).row.epochs == 100
    # MobileNetV2 has a recipe of small data alone
    plan = plan_of(118_000, GPU, looked=9, network='mobilenetv2')
    assert plan.row.epochs == 100
    # AdamW of its own recipe, 2.5e-4 for 128
    plan = plan_of(3000, network='convnext_tiny')
    assert plan.rate == pytest.approx(2.5e-4 / 4)


def test_too_few_photographs():
    with pytest.raises(UserError, match='7 photographs that can be read'):
        plan_of(7)
    seen = photographs(20)
    seen.sizes, seen.broken = seen.sizes[:5], ['x'] * 15
    with pytest.raises(UserError, match='5 photographs'):
        make_plan(seen, CPU, Network('resnet18'), None, 1, None, lambda: COST)
    assert plan_of(8).batch == 4


def test_the_text_says_all_of_it():
    text = describe(plan_of(300, budget=900.), 10**10)
    for part in ('cyborgs_small_data.py', 'epochs of 9 steps', 'learning rate',
                 'one every', 'estimate', '1.0 GB of 16.0 GB',
                 '200 MB per checkpoint', '1.5 MB per mask round',
                 'Without a budget it would be 178 epochs',
                 'Probably not worth it', '--start FILE'):
        assert part in ' '.join(text.split()), part
    assert max(map(len, text.splitlines())) < 80
    text = describe(plan_of(300, budget=90.), 10**10)
    assert 'Hardly anything is learnt in' in text and 'more time' in text
    text = describe(plan_of(40, start='/w.pth'), 10**10)
    assert 'Give more photographs' in ' '.join(text.split())
    text = describe(plan_of(3000, GPU, '/w.pth', processes=2), 10**10)
    for part in ('from /w.pth', '16 of each of 2 processes', 'one round',
                 'on the GPU', 'Worth it?'):
        assert part in ' '.join(text.split()), part


@pytest.mark.parametrize('text, seconds', [
    ('90s', 90), ('30m', 1800), ('30min', 1800), ('1.5h', 5400),
    ('2 h', 7200), ('1d', 86400)])
def test_budgets(text, seconds):
    assert read_budget(text) == seconds


@pytest.mark.parametrize('text', ['', '2', 'h', '-2h', '0m', '2 weeks', 'x'])
def test_what_is_no_budget(text):
    with pytest.raises(UserError, match='with its unit'):
        read_budget(text)


def test_sizes_and_times_in_words(tmp_path):
    assert [size(n) for n in (12, 5e3, 1.44e6, 189e6, 2.5e9)] == [
        '12 bytes', '5.0 kB', '1.4 MB', '189 MB', '2.5 GB']
    assert [duration(n) for n in (0.2, 80, 150, 7500, 4 * 86400)] == [
        '1 s', '80 s', '2 min', '2 h 05 min', '4.0 days']
    assert existing(str(tmp_path / 'a' / 'b')) == str(tmp_path)
    assert usable_cores() >= 1
