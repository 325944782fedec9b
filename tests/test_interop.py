"""Tools that are no dependency: ``make test-interop`` has an environment."""
import pytest
import torch
from safetensors.torch import load_file

from cyborgs_plugin import factories, pretrain
from cyborgs_plugin.advice import plan

from .helpers import write_photo

pytestmark = pytest.mark.slow


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, 'epochs_for', lambda *given: 1)
    monkeypatch.setattr(factories, '_given', [])
    for number in range(8):
        write_photo(tmp_path / 'images' / f'{number}.jpg', (96, 128), number)
    return tmp_path / 'images'


def labelled(root):
    """The photographs as a data set of Ultralytics, with a box on each."""
    (root / 'labels').mkdir()
    for image in (root / 'images').iterdir():
        (root / 'labels' / f'{image.stem}.txt').write_text('0 .5 .5 .4 .4')
    (root / 'boxes.yaml').write_text(
        f'path: {root}\ntrain: images\nval: images\nnames: {{0: thing}}\n')
    return str(root / 'boxes.yaml')


def test_yolo_of_ultralytics(photos, tmp_path, monkeypatch):
    monkeypatch.setenv('YOLO_OFFLINE', 'true')
    monkeypatch.setenv('YOLO_CONFIG_DIR', str(tmp_path / 'settings'))
    ultralytics = pytest.importorskip('ultralytics')
    torch.manual_seed(0)
    network = ultralytics.YOLO('yolo11n.yaml').model
    before = {k: v.clone() for k, v in network.state_dict().items()}
    # strides 8, 16, 32; YOLO's images are 0 to 1, without a mean
    result = pretrain(str(photos), str(tmp_path / 'run'), network,
                      ['model.4', 'model.6', 'model.9'],
                      mean=[0, 0, 0], std=[255, 255, 255])
    state = load_file(result.weights)
    assert state.keys() == before.keys()
    body = [key for key in state if int(key.split('.')[1]) <= 9
            and 'num_batches' not in key]
    changed = [key for key in body if not torch.equal(state[key],
                                                      before[key])]
    assert len(changed) > 0.9 * len(body)
    assert all(torch.equal(state[key], before[key]) for key in state
               if int(key.split('.')[1]) > 9)  # the head is not run

    tuned = ultralytics.YOLO('yolo11n.yaml')
    tuned.model.load_state_dict(state, strict=False)
    tuned.load(tuned.model)  # else train() begins with random weights
    seen = {}
    tuned.add_callback('on_train_start', lambda trainer: seen.update(
        {k: v.clone() for k, v in trainer.model.state_dict().items()}))
    tuned.train(data=labelled(tmp_path), epochs=1, imgsz=96, batch=4,
                workers=0, device='cpu', plots=False, val=False,
                project=str(tmp_path / 'yolo'))
    assert len(body) > 150
    for key in body:
        assert torch.equal(seen[key], state[key]), key
    print(f'{len(body)} of {len(body)} tensors of layers 0 to 9 are equal '
          f'(ultralytics {ultralytics.__version__})')
