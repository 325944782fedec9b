"""The page of masks in headless Chromium, where Playwright and one are.

pip install -e '.[browser]', and a Chromium on the PATH: Debian's package
chromium, or what `playwright install chromium` fetches.
"""
import os
import shutil

import pytest

from .pages import ROUNDS, write_page, write_run_report

pytestmark = pytest.mark.slow
CARDS = '#pictures figure:not([hidden])'


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip(
        'playwright.sync_api', reason="needs pip install -e '.[browser]'")
    with playwright.sync_playwright() as running:
        path = next(filter(None, map(shutil.which, (
            'chromium', 'chromium-browser', 'google-chrome'))), None)
        if not path and not os.path.exists(running.chromium.executable_path):
            pytest.skip('no Chromium: apt-get install chromium')
        browser = running.chromium.launch(
            executable_path=path, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def opened(browser, tmp_path_factory):
    """The page; what it says to the console, asks for and pops up."""
    path = tmp_path_factory.mktemp('page') / 'masks.html'
    images = write_page(path)
    page = browser.new_page(viewport=dict(width=1100, height=900))
    page.set_default_timeout(60_000)
    said = []
    page.on('console', lambda message: said.append(message.text))
    page.on('pageerror', lambda error: said.append(str(error)))
    page.on('dialog', lambda dialog: (said.append(dialog.message),
                                      dialog.dismiss()))
    page.on('request', lambda request: said.append(request.url)
            if request.url[:5] not in ('file:', 'data:') else None)
    page.goto(path.as_uri())
    yield page, images, said
    page.close()


@pytest.fixture
def page(opened):
    """The page as it is when it is opened."""
    page, _, said = opened
    page.reload()
    drawn(page, 2)
    yield page
    assert said == []


def drawn(page, round_):
    """Wait until all pictures show a round."""
    page.wait_for_function(
        '''([cards, round]) => [...document.querySelectorAll(
            `${cards} canvas`)].every((c) => c.dataset.drawn === round)''',
        arg=[CARDS, str(round_)])


def names(page):
    return page.locator(f'{CARDS} .name').all_text_contents()


def agreements(page):
    """What the cards say of the round before."""
    found = page.locator(f'{CARDS} .numbers').all_text_contents()
    return [float(text.split('ARI ')[1].split()[0]) for text in found[:9]]


def pixels(page, number=0):
    """The canvas of a card, as text."""
    return page.locator(f'{CARDS} canvas').nth(number).evaluate(
        'canvas => canvas.toDataURL()')


def test_the_slider_changes_the_picture(page):
    seen = {2: pixels(page)}
    for round_ in (1, 0):
        page.locator('#round').fill(str(round_))
        drawn(page, round_)
        seen[round_] = pixels(page)
    # rounds 0 and 1 are the same, and so are their colours
    assert seen[0] == seen[1] != seen[2]
    assert page.locator('#round-name').text_content() == ROUNDS[0]
    assert 'ARI' not in page.locator(f'{CARDS} .numbers').first.text_content()


def test_a_region_is_drawn_where_it_is(page, opened):
    """The cells of an id have one colour, others another one."""
    image = opened[1][0]
    page.locator('#round').fill('0')
    drawn(page, 0)
    page.locator('#opacity').fill('100')
    page.wait_for_timeout(300)
    found = page.locator(f'{CARDS} canvas').nth(
        names(page).index(image.key)).evaluate(
            '''canvas => [...canvas.getContext('2d').getImageData(
                0, 0, canvas.width, canvas.height).data]''')
    colours = {}
    for row in range(6):
        for column in range(8):  # cells of 8x8 pixels
            at = 4 * ((8 * row + 4) * 64 + 8 * column + 4)
            colours.setdefault(image.maps[0][row, column], set()).add(
                tuple(found[at:at + 3]))
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == len(colours) == 2


def test_opacity_and_masks_off(page):
    masked = pixels(page)
    page.locator('#opacity').fill('0')
    bare = page.wait_for_function(
        '''([cards, before]) => {
            const now = document.querySelector(`${cards} canvas`).toDataURL();
            return now === before ? false : now;
        }''', arg=[CARDS, masked]).json_value()
    page.locator('#opacity').fill('55')
    page.locator('#opacity').blur()
    page.keyboard.press(' ')
    page.wait_for_function(
        '''([cards, bare]) => document.querySelector(
            `${cards} canvas`).toDataURL() === bare''', arg=[CARDS, bare])


def test_search_filters(page, opened):
    every = [image.key for image in opened[1]]
    assert names(page) == every
    page.keyboard.press('/')
    page.keyboard.type('0')
    assert names(page) == [key for key in every if '0' in key]
    page.locator('#search').fill('ONERROR=alert(1)')
    assert names(page) == ['train/<img src=x onerror=alert(1)>.png']
    assert page.locator('#status').text_content() == '1 of 10 pictures'
    page.locator('#search').fill('')
    assert names(page) == every


def test_sorting_orders(page, opened):
    every = [image.key for image in opened[1]]
    # built so: more regions and less change from picture to picture
    page.locator('#round').fill('0')
    page.locator('#sort').select_option('many')
    assert names(page) == [*every[8::-1], every[9]]
    page.locator('#sort').select_option('few')
    assert names(page) == every
    page.locator('#round').fill('2')
    page.locator('#sort').select_option('changed')
    changed = agreements(page)
    assert changed == sorted(changed) and len({*changed}) > 3
    assert names(page)[9] == every[9]  # broken, and so without a number
    page.locator('#sort').select_option('same')
    assert agreements(page) == changed[::-1]


def test_keyboard_and_all_rounds_of_a_picture(page, opened):
    keys = [image.key for image in opened[1]]
    page.keyboard.press('ArrowLeft')
    drawn(page, 1)
    for _ in range(3):
        page.keyboard.press('ArrowDown')
    page.keyboard.press('ArrowUp')
    assert page.locator('figure.selected .name').text_content() == keys[1]
    page.keyboard.press('Enter')
    strip = page.locator('#strip figure')
    assert page.locator('#viewer-name').text_content() == keys[1]
    assert strip.locator('.numbers').first.text_content() == 'photograph'
    assert strip.locator('.name').all_text_contents() == ['', *ROUNDS]
    page.wait_for_function(
        '''() => [...document.querySelectorAll('#strip canvas')].every(
            (canvas) => canvas.dataset.drawn !== undefined)''')
    shown = strip.locator('canvas').evaluate_all(
        'all => all.map((canvas) => canvas.toDataURL())')
    assert shown[1] == shown[2] and len({*shown}) == 3
    page.keyboard.press('Escape')
    assert not page.locator('#viewer').evaluate('viewer => viewer.open')


def test_a_broken_picture_is_shown_as_such(page):
    card = page.locator(CARDS).nth(9)
    assert card.locator('.broken').text_content() == (
        'This picture is broken: broken.png: <b>an empty file</b>')
    assert card.locator('canvas').count() == 0
    card.click()
    assert page.locator('#strip .broken').count() == 1


def test_no_name_is_run(page, opened):
    assert page.locator('body img, body b').count() == 0
    assert page.locator('script').count() == 2
    # and if one were written into the page, the browser would refuse it
    refused = page.evaluate('''() => new Promise((done) => {
        document.addEventListener('securitypolicyviolation',
            (event) => done(event.violatedDirective), { once: true });
        document.body.insertAdjacentHTML('beforeend',
            '<p id=evil onclick="window.ran = 1"></p>');
        document.getElementById('evil').click();
        setTimeout(() => done('nothing'), 5000);
    })''')
    assert refused == 'script-src-attr'
    assert page.evaluate('window.ran === undefined')
    assert 'inline event handler' in opened[2].pop()


def test_the_report_of_a_run(browser, tmp_path):
    path = tmp_path / 'report.html'
    write_run_report(path)
    page, said = browser.new_page(), []
    page.on('console', lambda message: said.append(message.text))
    page.goto(path.as_uri())
    assert page.locator('img').evaluate_all(
        'all => all.map((image) => image.complete && image.naturalWidth > 9)'
    ) == [True] * 4
    assert page.locator('body img[onerror]').count() == 0
    assert said == []
    page.close()
