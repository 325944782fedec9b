"""Make run.zip beside this file with the code of commit f15b0f3.

Run: python tests/data/f15b0f3/make.py

It holds 12 small pictures and the work dir of a pretraining on them: the
config, the last checkpoint and the mask round that this continues with. Needs
the history of the repository and the packages that commit was tried with.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
# A narrow network on 3 batches of 4 pictures. The masks are renewed before
# epoch 3 of 3, so that the last checkpoint is not that of the round's start.
# Of V1d publish_backbone.py does not expect the widths of a whole ResNet-18.
OPTIONS = [
    'data_root=data/', 'train_dataloader.batch_size=4',
    'train_dataloader.num_workers=0', 'train_cfg.max_epochs=3',
    'model.backbone.type=ResNetV1d', 'model.backbone.base_channels=2',
    'model.backbone.stem_channels=2',
    'model.neck.projector.in_channels=28',
    'model.neck.projector.hid_channels=4',
    'model.neck.projector.out_channels=4',
    'model.head.predictor.in_channels=4',
    'model.head.predictor.hid_channels=4',
    'model.head.predictor.out_channels=4',
    'default_hooks.mask_update.interval=2',
    'default_hooks.mask_update.max_keep_rounds=1',
    'default_hooks.mask_update.source.num_clusters=4',
    'default_hooks.mask_update.source.long_side=None',
    'default_hooks.mask_update.source.smooth=8',
    'default_hooks.checkpoint.max_keep_ckpts=1', 'custom_hooks=[]',
    'train_dataloader.dataset.pipeline.1.transforms.0.0.scale=32',
    'train_dataloader.dataset.pipeline.1.transforms.1.0.scale=32'
]


def write_pictures(folder):
    """Blocks of random colours in two sizes."""
    folder.mkdir(parents=True)
    for number in range(12):
        size = (6, 8, 3) if number % 3 else (8, 6, 3)
        blocks = np.random.default_rng(number).integers(
            0, 256, size, dtype=np.uint8)
        image = blocks.repeat(8, axis=0).repeat(8, axis=1)
        assert cv2.imwrite(str(folder / f'{number:02d}.png'), image)


def main():
    """Train with the old code, and keep what a user would keep."""
    with tempfile.TemporaryDirectory() as folder:
        code, root = Path(folder, 'code'), Path(folder, 'root')
        archive = Path(folder, 'code.tar')
        subprocess.run(
            ['git', 'archive', '-o', str(archive), 'f15b0f3'],
            cwd=HERE.parents[2], check=True)
        shutil.unpack_archive(archive, code)
        write_pictures(root / 'data' / 'train2017')
        subprocess.run(
            [sys.executable, str(code / 'tools' / 'train.py'),
             str(code / 'configs' / 'cyborgs_toy.py'), '--work-dir', 'run',
             '--cfg-options', *OPTIONS],
            cwd=root, check=True,
            env=dict(os.environ, PYTHONPATH=str(code), OMP_NUM_THREADS='1'))
        for log in (root / 'run').glob('2*'):
            shutil.rmtree(log)
        (root / 'run' / 'last_checkpoint').unlink()  # a path of this machine
        shutil.make_archive(str(HERE / 'run'), 'zip', root)


if __name__ == '__main__':
    main()
