"""What mmengine's runner says at length is in the log file alone."""
from pathlib import Path

import pytest
from mmengine.runner import Runner

from cyborgs_plugin.engine.brief_runner import BriefRunner

from ..helpers import small_config

LONG = ('System environment:', 'Config:\n', 'Hooks will be executed')


@pytest.mark.parametrize('kind', [Runner, BriefRunner])
def test_the_console_is_brief(photo_root, tmp_path, capsys, kind):
    runner = kind.from_cfg(small_config(photo_root, tmp_path / 'w'))
    runner.logger.info('A line')
    said = capsys.readouterr().out
    log, = Path(runner.log_dir).glob('*.log')
    for text in (said, log.read_text()):
        assert 'A line' in text
    assert [text in said for text in LONG] == [kind is Runner] * 3
    assert all(text in log.read_text() for text in LONG)
