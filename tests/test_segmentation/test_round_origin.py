"""What a round is made from: safe to build, and compared with the data."""
import weakref

import numpy as np
import pytest
import torch
from mmpretrain.registry import TASK_UTILS

from cyborgs_plugin.datasets import MaskBank
from cyborgs_plugin.segmentation import (
    GridMasks,
    NetworkMasks,
    make_round,
    network_masks,
)
from cyborgs_plugin.segmentation.round_origin import (
    RoundOrigin,
    changed_images,
    file_marks,
    file_sizes,
)

from ..helpers import IMAGENET, images_of, network, write_photo


def origin(**source):
    return dict(round=0, source=source, epoch=0, iter=0, network=None,
                fingerprint=None)


@pytest.mark.parametrize('name', [
    'os.system', 'builtins.exec', 'cyborgs_plugin.segmentation.GridMasks',
    'mmpretrain.os.system', 'mmengine.GridMasks', None, 3, ['x']])
def test_only_registered_sources_are_built_from_a_file(tmp_path, name):
    canary = tmp_path / 'canary'
    held = RoundOrigin.of_checkpoint(
        origin(type=name, command=f'touch {canary}'), 'evil.pth')
    with pytest.raises(ValueError, match='evil.pth: mask_origin.source.type'):
        held.build('evil.pth')
    assert not canary.exists()


def test_what_is_registered(monkeypatch):
    monkeypatch.setitem(TASK_UTILS.module_dict, 'NoSource', dict)
    with pytest.raises(ValueError, match='registered MaskSource'):
        RoundOrigin.of_checkpoint(origin(type='NoSource'), 'x').build('x')
    for name in ('GridMasks', 'mmpretrain.GridMasks'):
        built = RoundOrigin.of_checkpoint(
            origin(type=name, grid=[2, 3]), 'x').build('x')
        assert isinstance(built, GridMasks) and built.grid == (2, 3)


@pytest.mark.parametrize('content', [
    None, 3, 'x', dict(round=1), origin() | dict(source='x'),
    origin() | dict(more=1)])
def test_other_content_is_refused_by_the_file_s_name(content):
    with pytest.raises(ValueError, match='x.pth: mask_origin'):
        RoundOrigin.of_checkpoint(content, 'x.pth').build('x.pth')


@pytest.mark.parametrize('field, value', [
    ('round', '1'), ('iter', None), ('network', []), ('fingerprint', 3),
    ('network', {'a': 'b'}), ('file_sizes', [1]), ('file_marks', 3),
    ('file_sizes', torch.ones(2, 2, dtype=torch.int64))])
def test_a_field_of_another_type_is_named(field, value):
    RoundOrigin.of_checkpoint(origin(), 'x.pth')
    with pytest.raises(ValueError, match=f'x.pth: mask_origin .*{field}'):
        RoundOrigin.of_checkpoint(origin() | {field: value}, 'x.pth')


def test_config_as_json_has_it():
    made = RoundOrigin.of_config(
        1, dict(type=GridMasks, grid=(2, 3), inner=[dict(type=dict)]), 2, 3)
    assert made.source == dict(
        type='GridMasks', grid=[2, 3], inner=[dict(type='dict')])
    assert (made.round, made.epoch, made.iter) == (1, 2, 3)


def test_a_network_that_does_not_fit():
    """As of a checkpoint whose config was altered."""
    model = torch.nn.Module()
    model.backbone = network()
    content = origin(type='NetworkMasks', layer='layer2.1') | dict(
        round=4, network={'conv1.weight': torch.zeros(1, 2, 3, 4)})
    held = RoundOrigin.of_checkpoint(content, 'x')
    with pytest.raises(ValueError, match='round 4 .*take the config of its'):
        held.prepare(held.build('x'), model)


def test_changed_images(photo_root, tmp_path):
    before = images_of(photo_root)
    bank = make_round(GridMasks(), before, str(tmp_path / 'm'), 0, 0)
    sizes = file_sizes(bank, before)
    assert sizes.dtype == torch.int64 and len(sizes) == len(bank) == 12
    assert changed_images(bank, before, sizes) == []
    folder = photo_root / 'train2017'
    (folder / '03.png').unlink()
    write_photo(folder / '05.png', (90, 20), seed=7)
    write_photo(folder / 'more.png')
    now = images_of(photo_root)
    gone, new = ("1 gone, such as ['train2017/03.png']",
                 "1 new, such as ['train2017/more.png']")
    replaced = "1 replaced, such as ['train2017/05.png']"
    assert changed_images(bank, now, sizes) == [gone, new, replaced]
    # Of a checkpoint of commit f15b0f3 the keys alone are known.
    assert changed_images(bank, now, None) == [gone, new]
    with pytest.raises(ValueError, match='file_sizes .* 11 values.*12 images'):
        changed_images(bank, now, sizes[1:])
    # What is not on a local disk is not told.
    remote = [(key, f's3://x/{key}') for key, _ in now]
    assert changed_images(bank, remote, sizes) == [gone, new]
    assert (file_sizes(bank, [(key, f's3://x/{key}') for key, _ in before])
            == -1).all()


def test_file_sizes_are_in_the_order_of_the_bank(tmp_path):
    """Which is that of bytes, not that of the data set."""
    images = []
    for number, name in enumerate(('ä.png', 'b.png', 'a.png', 'Z.png')):
        path = tmp_path / name
        path.write_bytes(b'x' * number)
        images.append((name, str(path)))
    bank = make_round(GridMasks(), images, str(tmp_path / 'm'), 0, 0,
                      max_broken=1)
    assert bank.keys() == ['Z.png', 'a.png', 'b.png', 'ä.png']
    np.testing.assert_array_equal(file_sizes(bank, images), [3, 2, 1, 0])
    assert MaskBank.open(bank.path).hash == bank.hash


@pytest.mark.parametrize('at', [5, 10_000, -5])
def test_a_replaced_file_of_the_same_size(tmp_path, at):
    """As all of a camera are that writes BMP."""
    images = []
    for name in ('b', 'a', 'c'):
        (tmp_path / name).write_bytes(bytes(20_000))
        images.append((name, str(tmp_path / name)))
    bank = make_round(GridMasks(), images, str(tmp_path / 'm'), 0, 0,
                      max_broken=1)
    noted = file_sizes(bank, images), file_marks(bank, images)
    assert noted[1].dtype == torch.int64 and (noted[1] >= 0).all()
    content = bytearray(20_000)
    content[at] = 1
    (tmp_path / 'b').write_bytes(content)
    (tmp_path / 'c').write_bytes(bytes(20_000))  # the same once more
    assert changed_images(bank, images, *noted) == [
        "1 replaced, such as ['b']"]
    # Of an older checkpoint, or not on a local disk.
    assert changed_images(bank, images, noted[0]) == []
    remote = [(key, f's3://x/{key}') for key, _ in images]
    assert changed_images(bank, remote, *noted) == []
    assert (file_marks(bank, remote) == -1).all()


def test_paths_are_read_one_at_a_time(photo_root, tmp_path):
    """Those of a million images are not held at once."""

    class Path(str):
        """Unlike str it can be watched."""

    images, live, most = images_of(photo_root), weakref.WeakSet(), [0]
    bank = make_round(GridMasks(), images, str(tmp_path / 'm'), 0, 0)

    def read():
        for key, path in images:
            path = Path(path)
            live.add(path)
            most[0] = max(most[0], len(live))
            yield key, path

    assert changed_images(bank, read(), file_sizes(bank, read())) == []
    assert 1 <= most[0] <= 3


def test_a_network_of_a_file_is_read_once(tmp_path, monkeypatch):
    """And the network in training stays as it is."""
    model, other = torch.nn.Module(), network(1)
    model.backbone, model.data_preprocessor = network(0), IMAGENET
    path = tmp_path / 'other.pth'
    torch.save(other.state_dict(), path)
    source = TASK_UTILS.build(dict(
        type='NetworkMasks', layer='layer2.1', checkpoint=str(path)))
    read, load = [], network_masks.load_start
    monkeypatch.setattr(network_masks, 'load_start',
                        lambda net, name: read.append(name) or load(net, name))
    held = RoundOrigin.of_checkpoint(origin(type='NetworkMasks'), 'x')
    held.prepare(source, model)
    assert read == [str(path)] and source.checkpoint == str(path)
    for name, value in held.network.items():
        assert torch.equal(value, other.state_dict()[name])
    images = [np.random.default_rng(0).integers(0, 256, (48, 64, 3), 'uint8')]
    wanted = NetworkMasks('layer2.1')
    wanted.prepare(other, IMAGENET)
    assert torch.equal(source.features(images)[0], wanted.features(images)[0])
    for name, value in network(0).state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[name])


class _Elsewhere(torch.Tensor):
    """On another device, as a resumed run loads it there."""

    def numpy(self, *args, **kwargs):
        raise TypeError('copy the tensor to host memory first')

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_checkpoint_that_lies_on_a_gpu():
    notes = torch.arange(3).as_subclass(_Elsewhere)
    weight = torch.ones(2, 3).as_subclass(_Elsewhere)
    held = RoundOrigin.of_checkpoint(
        origin() | dict(file_sizes=notes, file_marks=notes,
                        network=dict(weight=weight)), 'x.pth')
    assert held.file_sizes.numpy().tolist() == [0, 1, 2]
    assert held.file_marks.numpy().tolist() == [0, 1, 2]
    assert held._meta(None)['network'] == RoundOrigin.of_checkpoint(
        origin() | dict(network=dict(weight=torch.ones(2, 3))),
        'x.pth')._meta(None)['network']
