"""What an examination finds, how bad it is, and how to fix it."""
import json
import os.path as osp
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal['ok', 'note', 'warning', 'error']
_MARKS = dict(ok='ok', note='note', warning='WARNING', error='ERROR')


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    area: str
    """'environment', 'data' or 'config'."""
    severity: Severity
    """'error': a run would fail; 'warning': it would suffer."""
    found: str
    fix: str = ''
    """What to do about it; '' where nothing needs doing."""


def exit_code(findings: Sequence[Finding]) -> int:
    """1 if one of the findings is an error, else 0."""
    return int(any(one.severity == 'error' for one in findings))


def as_json(findings: Sequence[Finding]) -> str:
    """Write findings for scripts.

    Args:
        findings (Sequence[Finding]): In the order in which to list them.

    Returns:
        str: A JSON object: ``ok``, whether none is an error, and
        ``findings``, a list of objects with the fields of :class:`Finding`.
    """
    return json.dumps(
        dict(ok=not exit_code(findings),
             findings=[asdict(one) for one in findings]),
        indent=2, ensure_ascii=False)


def as_text(findings: Sequence[Finding]) -> str:
    """Write findings for people, one area after the other."""
    lines, counts = [], []
    for area in dict.fromkeys(one.area for one in findings):
        lines.append(area[:1].upper() + area[1:])
        for one in findings:
            if one.area != area:
                continue
            lines.append(f'  {_MARKS[one.severity]:8}{one.found}')
            if one.fix:
                lines.append(f'{"":10}-> {one.fix}')
    for kind in ('error', 'warning'):
        number = sum(one.severity == kind for one in findings)
        counts.append(f'{number} {kind}' + 's' * (number != 1))
    return '\n'.join([*lines, ', '.join(counts)])


def end_without_traceback(error: ImportError) -> None:
    """End the ``cyborgs`` program where the package cannot be imported.

    ``cyborgs doctor`` reports it as a finding, as JSON if that is asked for.
    Other programs continue, and raise.

    Args:
        error (ImportError): What is missing or does not fit.
    """
    if osp.splitext(osp.basename(sys.argv[0]))[0] != 'cyborgs':
        return
    if sys.argv[1:2] == ['doctor']:
        found, _, fix = str(error).partition('\n')
        finding = Finding('environment', 'error', found, fix.strip())
        print((as_json if '--json' in sys.argv else as_text)([finding]))
        sys.exit(1)
    sys.exit(str(error))
