"""The page of a run, as a parser sees it."""
import base64
from xml.etree import ElementTree

import pytest

from .pages import EVIL, Parsed, write_run_report


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp('report') / 'report.html'
    write_run_report(path)
    return Parsed(path.read_text())


def test_it_says_what_it_was_given(page):
    assert page.all('title') == [({}, f'Run {EVIL}')]
    texts = [text for _, text in page.all('p')]
    for said in ('Better until epoch 2 & no longer', 'No scores',
                 'Epoch 2: <b>collapse</b>', 'Lower the rate',
                 'Publish <it>:'):
        assert said in texts
    assert page.all('pre') == [({}, "publish 'a & b.pth'")]
    cells = [text for _, text in page.all('td')]
    assert cells == ['photographs', f'3 in {EVIL}', 'seed', '0',
                     '0', '0', '0.25', '', '1', '500', '0.5', EVIL]
    assert [text for _, text in page.all('th')] == [
        'round', 'iteration', 'mBO', 'note']
    assert [text for _, text in page.all('h2')] == [
        'Plan', 'Health', 'Loss', 'Over time', 'Mask rounds', 'Masks',
        'Not shown', 'What next']


def test_its_plots_are_pictures_in_the_page(page):
    images = [attrs for attrs, _ in page.all('img')]
    assert all({*attrs} == {'alt', 'src'} for attrs in images)
    assert [attrs['alt'] for attrs in images] == [
        'loss: from 3 to 2.001', '$lr: from 0.1 to 0.3', 'rank: from 5 to 7',
        'Photographs and their masks']
    kinds = [attrs['src'].partition(';base64,') for attrs in images]
    assert [kind for kind, _, _ in kinds] == 3 * ['data:image/svg+xml'] + [
        'data:image/jpeg']
    for _, _, text in kinds[:3]:
        svg = ElementTree.fromstring(base64.b64decode(text))
        assert svg.tag.endswith('}svg')
    assert not page.all('script') and not page.all('b')


def test_the_rounds_are_marked_in_the_loss(page):
    svg = [base64.b64decode(attrs['src'].partition(';base64,')[2]).decode()
           for attrs, _ in page.all('img')[:3]]
    dashed = [text.count('stroke-dasharray') for text in svg]
    assert dashed[0] == dashed[1] == 2 and dashed[2] == 0
