"""The file of a run's health, whatever happens to the run."""
import json
import math
import os.path as osp
from typing import Any

from ..files import written_aside

SCHEMA = 1
_LISTS = ('epochs', 'rounds', 'alarms')


class HealthRecord:
    """What was measured of a run, in ``health.json``.

    docs/health.md has the format.

    Args:
        path (str): The file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.epochs: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.alarms: list[dict[str, Any]] = []
        self.verdict = ''
        self.size: tuple[int, int] | None = None
        """Height and width at which pictures are measured."""

    @classmethod
    def resumed(cls, path: str, epoch: int,
                mask_round: int = -1) -> 'HealthRecord':
        """Read what a run has measured before it was resumed.

        Args:
            path (str): The file.
            epoch (int): Finished epochs of the checkpoint: what came later is
                left out, since it comes again.
            mask_round (int): The mask round of the checkpoint, likewise.
                Defaults to -1, no rounds.

        Raises:
            ValueError: If the file is none of these, or cannot be read.
        """
        record = cls(path)
        if not osp.isfile(path):
            return record
        try:
            with open(path, encoding='utf-8') as file:
                content = json.load(file)
            if content['schema'] != SCHEMA:
                raise ValueError(f'schema {content["schema"]}')
            for name, key, last in (('epochs', 'epoch', epoch),
                                    ('rounds', 'round', mask_round),
                                    ('alarms', 'epoch', epoch)):
                kept = [entry for entry in content[name]
                        if entry[key] <= last]
                setattr(record, name, kept)
            size = content.get('size')
            record.size = (size[0], size[1]) if size else None
        except (OSError, ValueError, KeyError, TypeError,
                IndexError) as error:
            raise ValueError(
                f'{path} is no record of health ({error})') from error
        return record

    def write(self) -> None:
        """Replace the file as a whole."""
        content = dict(
            schema=SCHEMA,
            size=self.size,
            **{name: [_plain(entry) for entry in getattr(self, name)]
               for name in _LISTS},
            verdict=self.verdict)
        with written_aside(self.path) as aside, open(
                aside, 'w', encoding='utf-8') as file:
            json.dump(content, file, indent=1, allow_nan=False)
            file.write('\n')


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as JSON takes it: no NaN, and no more digits than matter."""
    return {
        key: round(value, 6) if isinstance(value, float) else value
        for key, value in entry.items()
        if not isinstance(value, float) or math.isfinite(value)
    }
