"""tools/browse_masks.py and report.py on a folder that looks like a run's."""
import json
import os.path as osp
import shutil
import sys

import pytest

from cyborgs_plugin.datasets.mask_arrays import MaskBankWriter
from cyborgs_plugin.datasets.mask_bank import publish_round

from ..helpers import ROOT, random_maps, small_config, write_photo
from ..test_visualization.pages import EVIL, Parsed, cells, content

sys.path.insert(0, osp.join(ROOT, 'tools'))
import browse_masks  # noqa: E402
import report  # noqa: E402
from _run_folder import RunFolder  # noqa: E402

KEYS = sorted(['train2017/a.png', 'train2017/b.png', f'train2017/{EVIL}'])


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp('made')
    for number, key in enumerate(KEYS):
        write_photo(root / 'data' / key, seed=number)
    run = root / 'run'
    run.mkdir()
    small_config(root / 'data', run).dump(run / 'toy.py')
    for number in range(3):
        writer = MaskBankWriter(run / 'masks', number)
        for index, (key, ids) in enumerate(
                zip(KEYS, random_maps(number, num=3))):
            writer.add(index, key, ids)
        writer.close()
        publish_round(run / 'masks', number, 3, dict(
            epoch=number, iter=10 * number, broken_images=[],
            counts=dict(regions=5.0, clusters=[5, 5.0, 5], groups=1)))
    write_log(run, '20260101_000000', [
        dict(step=0, **{'masks/mBO': 0.25}),
        dict(step=5, loss=4., epoch=1), dict(step=10, loss=3., epoch=1),
        dict(step=10, **{'masks/mBO': 0.375}),
        # of a try that was killed, and done again by the next
        dict(step=15, loss=99., epoch=2)], end='{"step": 20, "lo')
    write_log(run, '20260102_000000', [
        dict(step=10, **{'masks/mBO': 0.375, 'health/rank': 5.5}),
        dict(step=11, loss=2., lr=0.5, epoch=2), dict(step=20, loss=1.,
                                                      epoch=2)])
    write_log(run, '20260103_000000', [])  # of a try that did not begin
    return root


def write_log(run, name, entries, end=''):
    path = run / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(json.dumps(e) + '\n' for e in entries) + end)


@pytest.fixture
def root(made, tmp_path):
    shutil.copytree(made, tmp_path / 'x')
    root = tmp_path / 'x'
    config = root / 'run' / 'toy.py'
    config.write_text(config.read_text().replace(str(made), str(root)))
    return root


def test_the_log_of_a_resumed_run(made):
    scalars = RunFolder(str(made / 'run')).scalars
    assert [e['loss'] for e in scalars if 'loss' in e] == [4, 3, 2, 1]
    assert [e['masks/mBO'] for e in scalars if 'masks/mBO' in e] == [
        0.25, 0.375]


def test_a_page_of_a_run_with_a_broken_picture(root, call):
    (root / 'data' / KEYS[1]).write_bytes(b'')
    said = call(browse_masks, root / 'run')
    assert f'Wrote {root}/run/masks.html' in said
    assert f'Broken: {root}/data/{KEYS[1]}: an empty file' in said
    found = content((root / 'run' / 'masks.html').read_text())
    assert found['rounds'] == [f'round {n}, epoch {n}' for n in range(3)]
    assert [image['key'] for image in found['images']] == KEYS
    assert found['images'][1]['broken'].endswith('an empty file')
    assert (cells(found['images'][0], 3)[0] == random_maps(0)[0]).all()


def test_a_page_of_banks(made, call, tmp_path):
    masks = made / 'run' / 'masks'
    page = tmp_path / 'page.html'
    call(browse_masks, made / 'data', masks / 'round_0001', masks, '--keys',
         KEYS[2], '--html', page)
    found = content(page.read_text())
    assert found['rounds'] == [
        'round 1, epoch 1', 'round 0, epoch 0', "round 1, epoch 1'",
        'round 2, epoch 2']
    image, = found['images']
    assert image['key'] == KEYS[2] and image['agreement'][1] < 1
    assert len({image['regions'][n] for n in (0, 2)}) == 1


def test_a_sheet_of_a_run(made, call, tmp_path):
    out = tmp_path / 'sheet.png'
    assert '3 images, round 0, round 1, round 2' in call(
        browse_masks, made / 'run', '--out', out)
    assert out.is_file() and not (made / 'run' / 'masks.html').exists()


def test_a_report(root, call):
    health = dict(
        schema=1, verdict='Better & better',
        epochs=[dict(epoch=1, iter=10, rank=5.5, note='x', seconds=1.),
                dict(epoch=2, iter=20, rank=7.5)],
        rounds=[dict(round=0, share=0.5), dict(round=1, share=None)],
        alarms=[dict(epoch=2, name='collapse', message='<b>It fell</b>',
                     advice='Lower the rate')])
    (root / 'run' / 'health.json').write_text(json.dumps(health))
    call(report, root / 'run')
    page = Parsed((root / 'run' / 'report.html').read_text())
    alts = [attrs['alt'] for attrs, _ in page.all('img')]
    assert alts[:-1] == ['loss: from 4 to 1', 'lr: from 0.5 to 0.5',
                         'rank: from 5.5 to 7.5', 'share: from 0.5 to 0.5']
    texts = [text for _, text in page.all('p')]
    assert {'Better & better', 'Epoch 2: <b>It fell</b>',
            'Lower the rate'} <= {*texts}
    cells = [text for _, text in page.all('td')]
    assert '2 of 3 logged' in cells and 'random weights' in cells
    assert '0.25' in cells and '0.375' in cells
    assert 'mBO' in [text for _, text in page.all('th')]
    assert any('--resume' in text for _, text in page.all('pre'))
    assert not any('publish' in text for _, text in page.all('pre'))


def test_a_report_without_photographs_and_health(root, call):
    shutil.rmtree(root / 'data')
    call(report, root / 'run', '--out', root / 'there' / 'x.html')
    page = Parsed((root / 'there' / 'x.html').read_text())
    notes = ' '.join(text for _, text in page.all('p'))
    assert 'No health' in notes and 'No photographs' in notes
    assert any(text.startswith('not found') for _, text in page.all('td'))


def test_a_run_that_stopped_in_its_last_epoch_can_be_resumed(root, call):
    run = root / 'run'
    write_log(run, '20260104_000000', [dict(step=25, loss=1., epoch=3)])
    for name, more in (('epoch_2.pth', True), ('epoch_3.pth', False)):
        (run / name).touch()
        (run / 'last_checkpoint').write_text(str(run / name))
        call(report, run)
        page = Parsed((run / 'report.html').read_text())
        assert more is any(
            '--resume' in text for _, text in page.all('pre'))


def test_a_report_of_a_run_that_has_just_begun(root, call):
    for name in ('masks', '20260101_000000', '20260102_000000',
                 '20260103_000000'):
        shutil.rmtree(root / 'run' / name)
    call(report, root / 'run')
    page = Parsed((root / 'run' / 'report.html').read_text())
    assert not page.all('img')
    assert 'No loss: the run has logged none yet.' in [
        text for _, text in page.all('p')]
    with pytest.raises(SystemExit, match='No masks at .*run/masks'):
        call(browse_masks, root / 'run')


def test_mistakes_are_explained(root, call):
    for tool in (browse_masks, report):
        with pytest.raises(SystemExit, match='no work_dir of a run: it holds'):
            call(tool, root / 'data')
        with pytest.raises(SystemExit, match='There is no folder'):
            call(tool, root / 'nowhere')
    with pytest.raises(SystemExit, match="No label map for 'a.png'"):
        call(browse_masks, root / 'run', '--keys', 'a.png')
    with pytest.raises(SystemExit, match='/proc/none.*No such file'):
        call(browse_masks, root / 'run', '--html', '/proc/none/x.html')
    (root / 'run' / 'health.json').write_text('{"schema": 7}')
    with pytest.raises(SystemExit, match='health.json is not what .*schema 7'):
        call(report, root / 'run')
    config = root / 'run' / 'toy.py'
    config.write_text(config.read_text().replace(f'{root}/data', 'data'))
    with pytest.raises(SystemExit, match='call this from the folder'):
        call(browse_masks, root / 'run')
    with pytest.raises(SystemExit):
        call(browse_masks, root / 'run', '--html', 'x', '--out', 'y')

