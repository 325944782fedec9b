"""What is marked gpu runs on a CUDA GPU, and elsewhere says why not."""
import pytest
import torch


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker('gpu'):
            item.add_marker(pytest.mark.skip(
                reason='no CUDA GPU here; make gpu-check runs it on one'))
