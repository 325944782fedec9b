"""Ranks that wait for one another, and end together."""
import time

import pytest
import torch.distributed as torch_dist

from cyborgs_plugin.segmentation import GridMasks, make_round, ranks

from ..helpers import images_of, in_processes


@pytest.mark.slow
def test_rounds_share_one_group_that_stays(photo_root, tmp_path,
                                           monkeypatch):
    """torch 2.1 deadlocks where a gloo group is destroyed during a run."""
    images, made = images_of(photo_root), []
    new_group, destroy = torch_dist.new_group, torch_dist.destroy_process_group

    def rounds(rank):
        monkeypatch.setattr(
            torch_dist, 'new_group',
            lambda *a, **k: made.append(0) or new_group(*a, **k))
        monkeypatch.setattr(torch_dist, 'destroy_process_group',
                            lambda *a: made.append('destroyed') or destroy(*a))
        for number in range(3):
            make_round(GridMasks(), images, str(tmp_path / 'm'), number, 0)
        assert made == [0], made

    codes, logs = in_processes(2, rounds, tmp_path / 'log')
    assert codes == [0, 0], logs


class FailsOn(GridMasks):
    """Fails on one rank at once; the others would need a minute."""

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def label_maps(self, images, keys, seed):
        if torch_dist.get_rank() == self.rank:
            raise RuntimeError(f'rank {self.rank} cannot')
        time.sleep(10)
        return super().label_maps(images, keys, seed)


@pytest.mark.slow
def test_the_others_do_not_work_on_after_a_failure(photo_root, tmp_path):
    images, start = images_of(photo_root), time.monotonic()
    codes, logs = in_processes(
        2, lambda rank: make_round(FailsOn(1), images, str(tmp_path / 'm'),
                                   0, 0, group_size=1), tmp_path / 'log')
    assert codes == [1, 1] and time.monotonic() - start < 30
    for log in logs:
        assert 'On rank 1:\nTraceback' in log and 'rank 1 cannot' in log


@pytest.mark.parametrize('rank, ran', [(0, [1]), (1, [])])
def test_a_step_of_rank_0_alone(monkeypatch, rank, ran):
    monkeypatch.setattr(ranks, 'get_rank', lambda: rank)
    done = []
    ranks.on_main(lambda: done.append(1))
    assert done == ran
    if rank == 0:
        with pytest.raises(ranks.MaskRoundError, match='division by zero'):
            ranks.on_main(lambda: 1 / 0)
