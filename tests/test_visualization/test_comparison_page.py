"""The two pages of a comparison."""
import re

import pytest

from cyborgs_plugin.visualization.comparison_page import (
    ComparisonPage,
    write_comparison,
)


@pytest.fixture
def page():
    step = dict(mean=0.02, error=0.01, low=-0.01, high=0.05, seeds=3,
                verdict='not shown', needed=7)
    return ComparisonPage(
        title='Does it pay? <b>|$x$',
        verdicts=['ours against usual, box AP: not shown.'],
        rows=[
            dict(score='box AP', labels=labels, start=start, mean=0.1 * labels,
                 error=None if labels == 5 else 0.01, seeds=3,
                 difference=step if start == 'ours|$y$' else None)
            for labels in (0.5, 5) for start in ('usual', 'ours|$y$')
        ],
        against='usual',
        times=[('usual', 90.), ('ours|$y$', 60.)],
        settings=[('data', 'my_data<1>.json')],
        notes=['Little is known.'])


def test_both_say_the_same_and_escape(page, tmp_path):
    html, markdown = (open(path, encoding='utf-8').read()
                      for path in write_comparison(page, str(tmp_path)))
    for text in ('not shown', '0.5 %', '5 %', '+0.020', '-0.010 to +0.050',
                 'Little is known.', '1.5'):
        assert text in html and text in markdown, text
    assert '<b>' not in html and '&lt;b&gt;' in html
    assert 'ours\\|$y$' in markdown and 'my\\_data\\<1\\>.json' in markdown
    rows = [line for line in markdown.splitlines() if line.startswith('| 5 %')]
    assert len(rows) == 2
    for row in rows:
        assert len(re.findall(r'(?<!\\)\|', row)) == 10


def test_the_plot_is_a_file_and_in_the_page(page, tmp_path):
    html, markdown = write_comparison(page, str(tmp_path))
    assert '](box_ap.svg)' in open(markdown).read()
    assert (tmp_path / 'box_ap.svg').read_text().count('<path') > 10
    text = open(html).read()
    assert 'data:image/svg+xml;base64,' in text
    assert '://' not in re.sub('base64,[^"]*', '', text)


def test_the_same_bytes_each_time(page, tmp_path):
    found = []
    for _ in range(2):
        paths = write_comparison(page, str(tmp_path))
        found.append([open(path, 'rb').read() for path in paths])
    assert found[0] == found[1]
