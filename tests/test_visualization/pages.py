"""Small pages, and what a parser without a browser sees of them."""
import base64
import json
import zlib
from html.parser import HTMLParser

import numpy as np

from cyborgs_plugin.visualization import (
    Curve,
    PageImage,
    RunReport,
    write_mask_page,
    write_report,
)

EVIL = '<img src=x onerror=alert(1)>.png'
EVIL_END = '</script><script>alert(2)</script>.png'
ROUNDS = ['round 0', 'round 1', 'round 2']


class Parsed(HTMLParser):
    """Elements with their attributes and texts, as a browser has them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.texts = []
        self.elements.append((tag, dict(attrs), self.texts))

    def handle_data(self, data):
        self.texts.append(data)

    def handle_endtag(self, tag):
        self.texts = []

    def all(self, tag):
        return [(attrs, ''.join(texts)) for name, attrs, texts in
                self.elements if name == tag]


def content(page):
    """What the page's script reads."""
    (_, text), = [found for found in Parsed(page).all('script')
                  if found[0].get('type') == 'application/json']
    return json.loads(text)


def cells(image, rounds):
    """The label maps of a picture of the page, (rounds, h, w)."""
    packed = zlib.decompress(base64.b64decode(image['maps']))
    kind = '<u2' if image['wide'] else 'u1'
    return np.frombuffer(packed, kind).reshape(rounds, *image['grid'])


def page_images(count=9):
    """Pictures whose numbers of regions and changes all differ."""
    images = []
    for number in range(count):
        random = np.random.default_rng(number)
        photo = np.full((48, 64, 3), 20 * number, np.uint8)
        first = np.arange(48).reshape(6, 8) % (2 + number)
        second = first.copy()
        changed = random.permutation(48)[:3 * (count - number)]
        second.flat[changed] = random.integers(0, 2, len(changed))
        key = {1: EVIL, 2: EVIL_END}.get(number, f'{number:02d}.png')
        images.append(PageImage(f'train/{key}', photo,
                                [first, first, second]))
    images.append(PageImage('train/broken.png', None,
                            broken='broken.png: <b>an empty file</b>'))
    return images


def write_page(path):
    images = page_images()
    write_mask_page(images, ROUNDS, f'Masks of {EVIL}', str(path))
    return images


def write_run_report(path):
    report = RunReport(
        title=f'Run {EVIL}',
        plan=[('photographs', f'3 in {EVIL}'), ('seed', '0')],
        verdict='Better until epoch 2 & no longer',
        alarms=[('Epoch 2: <b>collapse</b>', 'Lower the rate')],
        loss=Curve('loss', range(999), [2 + 1 / (1 + n) for n in range(999)]),
        curves=[Curve('$lr', [1, 2, 3], [0.1, float('nan'), 0.3]),
                Curve('rank', [1, 2], [5, 7], 'epoch')],
        rounds=[dict(round=0, iteration=0, mBO=0.25, note=''),
                dict(round=1, iteration=500, mBO=0.5, note=EVIL)],
        sheet=np.full((20, 30, 3), 90, np.uint8),
        notes=['No scores'],
        commands=[('Publish <it>:', "publish 'a & b.pth'")])
    write_report(report, str(path))
    return report
