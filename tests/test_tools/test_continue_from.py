"""tools/benchmarks/continue_from.py: from a start to paired differences."""
import copy
import json
import os.path as osp
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS
from torchvision.models import mobilenet_v2

from cyborgs_plugin.datasets.toy_scenes import make_toy_scenes
from cyborgs_plugin.errors import UserError

from ..helpers import ROOT
from ..test_evaluation.test_paired import collected as probe_features
from ..warm_python import python

sys.path.insert(0, osp.join(ROOT, 'tools', 'benchmarks'))
import continue_from  # noqa: E402
import continue_score  # noqa: E402


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """Toy scenes, and torchvision's network with random statistics."""
    folder = tmp_path_factory.mktemp('inputs')
    make_toy_scenes(str(folder / 'toy'), num_train=12, num_val=6)
    torch.manual_seed(0)
    network = mobilenet_v2(weights=None).eval()
    for name, value in network.state_dict().items():
        if name.endswith('running_var'):
            value.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), folder / 'theirs.pth')
    return network, [
        '--start', str(folder / 'theirs.pth'), '--data-root',
        str(folder / 'toy'), '--splits', '2', '--labels', '1', '--epochs', '1'
    ]


@pytest.fixture
def bench(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'executable', python())
    network, arguments = inputs
    (tmp_path / 'theirs.pth').symlink_to(arguments[1])
    return network, [
        '--start', str(tmp_path / 'theirs.pth'), *arguments[2:], '--work-dir',
        str(tmp_path / 'w')
    ]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Of all methods, which share masks where they can."""
    return str(tmp_path_factory.mktemp('methods'))


def parsed(monkeypatch, arguments):
    monkeypatch.setattr(sys, 'argv', ['tool', *arguments])
    return continue_from.parse_args()


def test_weights_in_their_order_give_the_same_features(bench, monkeypatch):
    network, arguments = bench
    made = continue_from.Benchmark(parsed(monkeypatch, arguments))
    backbone = made.scores.backbone(made.start)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        theirs = network.features[:-1](image)
        ours = backbone(image)
    assert [part.shape[1] for part in ours] == [32, 96, 320]
    assert torch.allclose(ours[-1], theirs, atol=1e-5)


def test_other_weights_are_refused(bench, monkeypatch, tmp_path, capsys):
    _, arguments = bench
    (tmp_path / 'theirs.pth').unlink()
    torch.save({'x.weight': torch.ones(3)}, tmp_path / 'theirs.pth')
    monkeypatch.setattr(sys, 'argv', ['tool', *arguments])
    with pytest.raises(SystemExit) as stopped:
        continue_from.main()
    assert 'theirs.pth' in str(stopped.value)
    assert 'model_converters' in str(stopped.value)


def test_methods_that_know_another_networks_stages(bench, monkeypatch):
    _, arguments = bench
    r18 = osp.join(ROOT, 'configs', 'cyborgs_continue_r18.py')
    arguments = parsed(monkeypatch, [
        *arguments, '--config', r18, '--methods', 'anchored', 'layer-decay'])
    with pytest.raises(UserError, match='layer-decay name the stages of a '
                       'MobileNetV2.* has a ResNet: .*continue_layer-decay'):
        continue_from.Benchmark(arguments)


@pytest.mark.parametrize('share', ['5', '-0.1', 'half', 'nan'])
def test_a_share_of_a_blend(bench, monkeypatch, capsys, share):
    _, arguments = bench
    with pytest.raises(SystemExit):
        parsed(monkeypatch, [*arguments, '--blend', share])
    assert f'{share!r} is no number from 0 to 1' in capsys.readouterr().err


@pytest.mark.parametrize('method', continue_from.METHODS)
def test_methods_change_keys_that_there_are(method):
    cfg = Config.fromfile(continue_from.CONFIG)
    changes = continue_from.METHODS[method]

    def found(key):
        part = cfg
        for name in key.split('.'):
            if isinstance(part, (list, tuple)):
                name = int(name)
            else:
                assert name in part, key
            part = part[name]
        return part

    for key, value in changes.items():
        assert found(key) != value, key
    cfg.merge_from_dict(copy.deepcopy(changes))
    for key, value in changes.items():
        if not isinstance(value, dict):
            assert found(key) == value, key


def test_the_average_of_two_backbones(tmp_path):
    files = [str(tmp_path / name) for name in ('start.pth', 'end.pth')]
    for file, value in zip(files, (0., 4.)):
        torch.save(
            dict(state_dict=dict(
                weight=torch.full((2, ), value),
                steps=torch.tensor(int(value)))), file)
    made = continue_from.average(*files, 0.25)
    assert osp.basename(made) == 'end@0.25.pth'
    state = torch.load(made)['state_dict']
    assert state['weight'].tolist() == [1., 1.]
    assert state['steps'] == 4


def test_choosing_leaves_val_alone(bench, monkeypatch):
    _, arguments = bench
    made = continue_from.Benchmark(
        parsed(monkeypatch, [
            *arguments, '--score-on', 'train', '--labels', '0.5', '1'
        ]))
    monkeypatch.setattr(
        continue_score, 'collect',
        lambda features, side, *rest: collected(side))
    seen = []

    def collected(side):
        seen.append(side.root)
        return probe_features(0, 20)

    scores = made.scores.of(made.start)
    assert [osp.basename(root) for root in seen] == ['train2017']
    assert scores.keys() == {'0.5', '1'}
    assert [len(splits) for splits in scores.values()] == [2, 2]
    assert made.scores.of(made.start) == scores and len(seen) == 1


@pytest.mark.slow
def test_from_a_start_to_differences(bench, monkeypatch, capsys):
    _, arguments = bench
    options = [
        'train_dataloader.batch_size=4', 'train_dataloader.num_workers=0',
        'view_size=64'
    ]
    monkeypatch.setattr(sys, 'argv', [
        'tool', *arguments, '--methods', 'continue', 'anchored', '--blend',
        '0.5', '--recalibrate', '--masks', '4', '--cfg-options', *options
    ])
    continue_from.main()
    said = capsys.readouterr().out
    probes, masks = (
        {line.split('|')[1].strip(): line for line in table.splitlines()}
        for table in said[said.index('| method'):].split('\n\n')[:2])
    for rows, score in ((probes, 'regions'), (masks, 'mBO, K=4')):
        assert {
            'method', '---', 'start', 'continue', 'anchored',
            'continue, blended 0.5', 'anchored, blended 0.5',
            'continue, norms recomputed', 'anchored, norms recomputed'
        } == set(rows)
        assert '±' in rows['anchored'] and score in rows['method']
    continue_from.main()  # all is done by now
    assert capsys.readouterr().out.count('±') == said.count('±')
    drifts = {
        row: [float(cell) for cell in line.split('|')[-3:-1]]
        for row, line in probes.items() if row in ('continue', 'anchored')
    }
    assert all(0 < drift < 2 and seen <= 1 for drift, seen in drifts.values())
    assert drifts['continue'] != drifts['anchored']
    sys.argv[-1] = 'view_size=96'
    with pytest.raises(SystemExit, match='other settings.*--work-dir'):
        continue_from.main()


# Those that differ in what is built or moved, or in where masks come from.
RUN = ['continue', 'heads-first', 'frozen-stem', 'superpixels',
       'felzenszwalb', 'annotated']


@pytest.mark.slow
def test_the_other_methods_can_be_built(bench, monkeypatch):
    _, arguments = bench
    made = continue_from.Benchmark(parsed(monkeypatch, arguments))
    for method in continue_from.METHODS.keys() - RUN:
        cfg = made._config(continue_from.METHODS[method], 0)
        model = MODELS.build(cfg.model)
        assert model.head.anchor_loss is None or method in (
            'anchored', 'larger', 'layer-decay')
        rates = {group['lr'] for group in build_optim_wrapper(
            model, cfg.optim_wrapper).param_groups}
        assert len(rates) == (5 if method == 'layer-decay' else 2), method
        Compose(cfg.train_dataloader.dataset.pipeline)


@pytest.mark.slow
@pytest.mark.parametrize('method', RUN)
def test_a_method_trains(bench, monkeypatch, method, folder):
    _, arguments = bench
    made = continue_from.Benchmark(
        parsed(monkeypatch, [
            *arguments, '--work-dir', folder, '--pictures', 'annotated',
            '--methods', method,
            '--cfg-options', 'train_dataloader.batch_size=6',
            'train_dataloader.num_workers=0'
        ]))
    file = made.train(method, 0)
    before, after = (made.scores.backbone(path).state_dict()
                     for path in (made.start, file))
    moved = {name for name in before if not before[name].equal(after[name])}
    assert 'layer7.0.conv.2.conv.weight' in moved
    assert ('conv1.conv.weight' in moved) == (method != 'frozen-stem')
    assert ('conv1.bn.running_mean' in moved) == (method == 'continue')
    assert 0 < torch.load(file)['drift']['drift'] < 2


def test_annotated_pictures(bench, monkeypatch):
    _, arguments = bench
    # Two real photographs have no annotations here.
    for pictures, count in (('all', 14), ('annotated', 12)):
        made = continue_from.Benchmark(
            parsed(monkeypatch, [*arguments, '--pictures', pictures]))
        with open(made.images) as file:
            names = [one['file_name'] for one in json.load(file)['images']]
        assert len(names) == count
    monkeypatch.setattr(
        sys, 'argv', ['tool', *arguments, '--methods', 'annotated'])
    with pytest.raises(SystemExit) as stopped:
        continue_from.main()
    assert '--pictures annotated' in str(stopped.value)


def test_a_name_in_timm(bench, monkeypatch):
    network, arguments = bench
    asked = []
    monkeypatch.setattr(
        continue_from, 'find_cached',
        lambda name: asked.append(name) or arguments[1])
    for name in ('timm:mobilenetv2_100.ra_in1k', 'resnet18.a1_in1k',
                 'resnet18'):
        made = continue_from.Benchmark(
            parsed(monkeypatch, ['--start', name, *arguments[2:]]))
        assert asked.pop() == name
        state = torch.load(made.start)['state_dict']
        assert state['conv1.conv.weight'].equal(
            network.state_dict()['features.0.0.weight'])
    with pytest.raises(UserError, match='weights.pth: no such file'):
        continue_from.Benchmark(
            parsed(monkeypatch, ['--start', 'weights.pth', *arguments[2:]]))
    assert not asked


def test_norms_anew(bench, monkeypatch):
    _, arguments = bench
    made = continue_from.Benchmark(parsed(monkeypatch, arguments))
    file = made.recalibrated(made.start)
    before, after = (made.scores.backbone(path).state_dict()
                     for path in (made.start, file))
    for name in before:
        kept = name.rpartition('.')[2] in ('weight', 'bias')
        assert before[name].equal(after[name]) == kept, name
