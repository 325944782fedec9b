"""health_correlation.py: the table of a run's health and probes."""
import json
import os.path as osp
import sys

import pytest
from scipy.stats import rankdata

from ..helpers import ROOT

sys.path.insert(0, osp.join(ROOT, 'tools', 'benchmarks'))
import health_correlation  # noqa: E402

REGIONS = [0.1, 0.3, 0.2, 0.5]


@pytest.fixture
def run(tmp_path):
    """Four epochs with probes, of five; epoch 0 has none."""
    health = [dict(epoch=epoch, image_rank=10. * epoch, image_cosine=1.,
                   **({'loss': 9. - epoch} if epoch else {}))
              for epoch in range(6)]
    points = {
        str(epoch): dict(
            regions=dict(accuracy=accuracy), segments=dict(mIoU=accuracy),
            images=dict(mAP=-accuracy), masks={'8': dict(mBO=0.2, ARI=0.1)})
        for epoch, accuracy in enumerate(REGIONS, 1)
    }
    points['5'] = dict(masks={'8': dict(mBO=0.2, ARI=0.1)})
    for name, content in (('health', dict(epochs=health)),
                          ('scores', dict(points=points))):
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    return tmp_path


def test_table(run, call):
    said = call(health_correlation, run)
    # Spearman's: 1 - 6 sum d^2 / (n (n^2 - 1))
    ranks = rankdata(REGIONS)
    rho = 1 - 6 * sum((i - r)**2 for i, r in enumerate(ranks, 1)) / (4 * 15)
    assert 'over epochs 1, 2, 3, 4' in said
    assert (f'| image_rank | 10 -> 40 | {rho:+.2f} | {rho:+.2f} | {-rho:+.2f} '
            '| none |') in said
    assert f'| loss | 8 -> 5 | {-rho:+.2f} |' in said
    assert '| image_cosine | 1 -> 1 | none |' in said
    assert '| first -> last | | 0.1 -> 0.5 | 0.1 -> 0.5 |' in said


def test_what_is_missing_is_named(run, call, tmp_path):
    with pytest.raises(SystemExit, match='health.json is missing'):
        call(health_correlation, tmp_path / 'none')
    health = json.loads((run / 'health.json').read_text())
    health['epochs'] = health['epochs'][:3]
    (run / 'health.json').write_text(json.dumps(health))
    with pytest.raises(SystemExit, match='2 epochs.*--probe-each-phase'):
        call(health_correlation, run)
