"""The table in code and the pages say the same."""
import re
from pathlib import Path

import pytest

from cyborgs_plugin.advice import table
from cyborgs_plugin.advice.table import (
    CONTINUE,
    SCRATCH,
    batch_for,
    choose,
    epochs_for,
    verdict,
)
from cyborgs_plugin.config_path import load_config

DOCS = Path(__file__).parents[2] / 'docs'


def rows_of(page, title):
    """Cells of the rows of the first table below a line, by the first one."""
    text = (DOCS / page).read_text().split(title, 1)[1]
    lines = re.search(r'(?:^\|.*\n)+', text, re.M)[0].splitlines()
    return {line.split('|')[1].strip(): [
        cell.strip() for cell in line.split('|')[2:-1]] for line in lines}


def test_the_page_of_small_data_has_the_table():
    rows = rows_of('small_data.md', '# Settings by the number')
    assert [rows['`cyborgs pretrain` takes it'][number] for number in (0, 1)
            ] == [f'below {row.below:,}' for row in SCRATCH[:2]]
    for number, row in enumerate(SCRATCH):
        cells = {name: cells[number] for name, cells in rows.items()
                 if len(cells) > number}
        assert int(cells['epochs']) == row.epochs
        assert int(cells['batch']) == row.batch
        assert cells['optimiser'].split()[0] == (
            'LARS' if row.rate == 0.2 else 'AdamW')
        assert float(cells['optimiser'].split()[1]) == row.rate
        assert float(cells['1 - target decay']) == row.momentum
        assert int(cells['mask interval'].split()[0]) == row.interval
        assert cells['K'] == '{} to {}'.format(*row.clusters)
        assert cells['`smooth`'] == (
            f'{row.smooth} pixels' if row.smooth else 'none')
        assert cells['view, grid stride'] == (
            f'{row.view}, {row.stride}')
    # steps of 3,000 photographs
    assert int(rows['steps'][0].replace(',', '')) == table.STEPS


def test_the_recipes_have_what_the_table_says():
    """Where a row takes a recipe as it is."""
    for row in (SCRATCH[0], SCRATCH[2], CONTINUE[1]):
        cfg = load_config(f'cyborgs_plugin::{row.recipe}')
        hook = cfg.default_hooks.mask_update
        gpus = 8 if row is SCRATCH[2] else 1
        assert cfg.train_cfg.max_epochs == row.epochs
        assert cfg.train_dataloader.batch_size * gpus == row.batch
        assert cfg.optim_wrapper.optimizer.lr == row.rate
        assert cfg.model.target_ema.get('momentum') == row.momentum
        assert hook.interval == row.interval
        assert tuple(hook.source.num_clusters) == row.clusters
        assert hook.source.get('smooth', 0) == row.smooth
        assert cfg.model.neck.grid_stride == row.stride
        view = cfg.train_dataloader.dataset.pipeline[1].transforms[0][0]
        assert view.scale == row.view


def test_the_numbers_of_the_verdict_are_measured_ones():
    results = (DOCS / 'results.md').read_text()
    before, after = table.FROM_SCRATCH
    assert f'| random weights | {before} (' in results
    assert f'| CYBORGS | {after} (' in results
    text = (DOCS / 'continue.md').read_text()
    start = float(re.search(r'^\| start \| ([\d.]+)', text, re.M)[1])
    gains = [float(gain) for gain in re.findall(
        r'^\| `anchored`[^|]*\| \+(0\.\d{4}) ', text, re.M)]
    runs = re.search(
        r'^\| `anchored`[^|]*\| 1 \| \+(0\.\d{4}) .*\n'
        r'\| \| 2 \| \+(0\.\d{4}) ',
        text, re.M).groups()
    many, few = gains[0], sum(map(float, runs)) / 2
    assert table.FROM_MANY == (start, round(start + many, 3))
    assert table.FROM_FEW == (start, round(start + few, 3))
    assert f'{table.FEWEST_STEPS} steps, one seed' in text.replace('\n', ' ')
    rows = rows_of('continue.md', 'What the recipe changes')
    assert rows['`train_cfg.max_epochs`'][1] == str(CONTINUE[1].epochs)
    assert f'`--epochs {CONTINUE[0].epochs} ' in text


@pytest.mark.parametrize('photographs, start, gpus, row', [
    (300, False, False, SCRATCH[0]), (9_999, False, True, SCRATCH[0]),
    (10_000, False, True, SCRATCH[1]), (59_999, False, True, SCRATCH[1]),
    (60_000, False, True, SCRATCH[2]), (10**7, False, True, SCRATCH[2]),
    (10**7, False, False, SCRATCH[1]), (999, True, True, CONTINUE[0]),
    (1_000, True, False, CONTINUE[1]), (10**6, True, True, CONTINUE[1])])
def test_choice(photographs, start, gpus, row):
    assert choose(photographs, start, gpus) is row


@pytest.mark.parametrize('photographs, batch', [
    (8, 4), (15, 4), (16, 8), (63, 16), (64, 32), (10**6, 32)])
def test_an_epoch_has_two_steps(photographs, batch):
    assert batch_for(SCRATCH[0], photographs) == batch
    assert photographs >= 2 * batch


def test_few_photographs_are_seen_more_often():
    first = SCRATCH[0]
    assert epochs_for(first, 3_000, 32) == first.epochs
    assert epochs_for(first, 9_000, 32) == first.epochs
    # as many steps as 3,000 have, or MOST_EPOCHS
    steps = 1_000 // 32
    assert (epochs_for(first, 1_000, 32) - 1) * steps < table.STEPS
    assert epochs_for(first, 1_000, 32) * steps >= table.STEPS
    assert epochs_for(first, 20, 8) == table.MOST_EPOCHS
    assert epochs_for(CONTINUE[0], 100, 32) == 18
    assert epochs_for(SCRATCH[1], 20_000, 32) == 100


def test_verdict():
    worth, why = verdict(300, False)
    assert not worth and '--start' in why and 'you have 300' in why
    assert '343 photographs' in why and 'two runs' in why
    worth, why = verdict(3_000, False)
    assert worth and '0.357' in why and '2,915 photographs lifted 0.685' in why
    for photographs in (300, 3_000):
        worth, why = verdict(photographs, True)
        assert worth and why.startswith('expect a small gain')
    assert 'no run of that length' in verdict(100_000, False)[1]
