'use strict';

const { rounds, images } = JSON.parse(
  document.getElementById('data').textContent);
const at = (id) => document.getElementById(id);
const state = { round: Math.max(0, rounds.length - 1), opacity: 0.55,
  masks: true, query: '', sort: 'name', selected: null };
const visible = new Set();
let order = [];  // the pictures that are shown, from first to last

// What the page holds as text becomes pixels only when it is looked at.
function once(image, name, make) {
  image.made ??= {};
  image.made[name] ??= make();
  return image.made[name];
}

const photoOf = (image) => once(image, 'photo', async () => {
  const photo = new Image();
  photo.src = `data:image/jpeg;base64,${image.photo}`;
  await photo.decode();
  return photo;
});

const mapsOf = (image) => once(image, 'maps', async () => {
  if (!image.maps) return null;
  const packed = Uint8Array.from(atob(image.maps), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(
    new DecompressionStream('deflate'));
  const bytes = await new Response(stream).arrayBuffer();
  return image.wide ? new Uint16Array(bytes) : new Uint8Array(bytes);
});

// Neighbouring ids get hues that are far apart.
function colour(id) {
  const hue = (id * 137.508) % 360, light = [0.55, 0.75, 0.38][(id >> 3) % 3];
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12, reach = 0.85 * Math.min(light, 1 - light);
    return 255 * (light - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1)));
  });
}

function overlay(image, maps, round) {
  return once(image, `overlay ${round}`, () => {
    const [height, width] = image.grid;
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [width, height];
    const pixels = new ImageData(width, height), area = width * height;
    for (let cell = 0; cell < area; cell++) {
      pixels.data.set([...colour(maps[round * area + cell]), 255], 4 * cell);
    }
    canvas.getContext('2d').putImageData(pixels, 0, 0);
    return canvas;
  });
}

async function draw(canvas, image, roundOf) {
  const [photo, maps] = await Promise.all([photoOf(image), mapsOf(image)]);
  const round = roundOf();  // now: it may have changed meanwhile
  const context = canvas.getContext('2d');
  context.globalAlpha = 1;
  context.drawImage(photo, 0, 0, canvas.width, canvas.height);
  if (round !== null && state.masks && maps && image.regions[round] !== null) {
    context.globalAlpha = state.opacity;
    context.imageSmoothingEnabled = false;
    context.drawImage(overlay(image, maps, round), 0, 0, canvas.width,
      canvas.height);
  }
  canvas.dataset.drawn = String(round);
}

function numbers(image, round) {
  const count = image.regions[round], ari = image.agreement[round];
  if (count === null) return 'not in this round';
  return `${count} region${count === 1 ? '' : 's'}`
    + (ari === null ? '' : ` · ARI ${ari.toFixed(2)} with the round before`);
}

function element(name, parent, text = '', className = '') {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  parent.append(made);
  return made;
}

function figure(parent, image, name, caption) {
  const made = element('figure', parent);
  if (image.broken === undefined) {
    const canvas = element('canvas', made);
    [canvas.width, canvas.height] = image.size;
  } else {
    element('p', made, `This picture is broken: ${image.broken}`, 'broken');
  }
  element('div', made, name, 'name');
  element('div', made, caption, 'numbers');
  return made;
}

function card(image) {
  image.card = figure(at('pictures'), image, image.key, '');
  image.card.addEventListener('click', () => {
    select(image);
    view();
  });
}

function redraw() {
  at('round-name').textContent = rounds[state.round] ?? 'no masks';
  for (const image of images) {
    if (image.broken === undefined && rounds.length) {
      image.card.querySelector('.numbers').textContent = numbers(
        image, state.round);
    }
  }
  for (const image of visible) {
    draw(image.card.querySelector('canvas'), image,
      () => (rounds.length ? state.round : null));
  }
}

function arrange() {
  const value = (image) => {
    const values = { many: image.regions, few: image.regions,
      changed: image.agreement, same: image.agreement }[state.sort];
    const found = values?.[state.round] ?? null;
    return found === null ? Infinity
      : found * (state.sort === 'many' || state.sort === 'same' ? -1 : 1);
  };
  const query = state.query.toLowerCase();
  // sort() is stable, and images come by name
  order = [...images];
  if (state.sort !== 'name') {
    order.sort((a, b) => (value(a) === value(b) ? 0 : value(a) - value(b)));
  }
  at('pictures').append(...order.map((image) => image.card));
  for (const image of images) {
    image.card.hidden = !image.key.toLowerCase().includes(query);
  }
  order = order.filter((image) => !image.card.hidden);
  at('status').textContent = order.length === images.length
    ? `${images.length} pictures` : `${order.length} of ${images.length} pictures`;
  if (!order.includes(state.selected)) state.selected = null;
  mark();
}

function mark() {
  for (const image of images) {
    image.card.classList.toggle('selected', image === state.selected);
  }
}

function select(image) {
  state.selected = image;
  mark();
  image.card.scrollIntoView({ block: 'nearest' });
  if (at('viewer').open) view();
}

function step(by) {
  if (!order.length) return;
  const place = order.indexOf(state.selected);
  select(order[place < 0 ? 0
    : Math.min(order.length - 1, Math.max(0, place + by))]);
}

function show(round) {
  state.round = Math.min(rounds.length - 1, Math.max(0, round));
  at('round').value = state.round;
  if (state.sort !== 'name') arrange();
  redraw();
}

// All rounds of the selected picture, side by side.
function view() {
  const image = state.selected, strip = at('strip');
  if (!image) return;
  at('viewer-name').textContent = image.key;
  strip.replaceChildren();
  const shown = image.broken === undefined ? [null, ...rounds.keys()] : [null];
  for (const round of shown) {
    const made = figure(strip, image, round === null ? '' : rounds[round],
      round === null ? 'photograph' : numbers(image, round));
    const canvas = made.querySelector('canvas');
    if (canvas) draw(canvas, image, () => round);
  }
  if (!at('viewer').open) at('viewer').showModal();
}

function pressed(event) {
  const inside = event.target.closest('input, select');
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (inside) {
    if (event.key === 'Escape' || event.key === 'Enter') inside.blur();
    return;
  }
  const actions = {
    ArrowLeft: () => show(state.round - 1),
    ArrowRight: () => show(state.round + 1),
    ArrowUp: () => step(-1),
    ArrowDown: () => step(1),
    Enter: view,
    ' ': () => { state.masks = !state.masks; redraw(); },
    '/': () => { at('viewer').close(); at('search').select(); },
  };
  if (event.key in actions) {
    event.preventDefault();
    actions[event.key]();
  }
}

function start() {
  if (typeof DecompressionStream === 'undefined') {
    element('p', at('pictures'),
      'This browser is too old for the page: one of 2023 or later shows it.');
    return;
  }
  at('round').max = Math.max(0, rounds.length - 1);
  at('round').disabled = rounds.length < 2;
  at('round').value = state.round;
  images.forEach(card);
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) visible.delete(entry.target.image);
      else visible.add(entry.target.image);
    }
    redraw();
  }, { rootMargin: '300px' });
  for (const image of images) {
    image.card.image = image;
    if (image.broken === undefined) watch.observe(image.card);
  }
  at('round').addEventListener('input', (event) => {
    show(Number(event.target.value));
  });
  at('opacity').addEventListener('input', (event) => {
    state.opacity = event.target.value / 100;
    redraw();
  });
  at('search').addEventListener('input', (event) => {
    state.query = event.target.value;
    arrange();
  });
  at('sort').addEventListener('change', (event) => {
    state.sort = event.target.value;
    arrange();
    event.target.blur();
  });
  for (const id of ['round', 'opacity']) {  // the arrows are the page's again
    at(id).addEventListener('pointerup', (event) => event.target.blur());
  }
  document.addEventListener('keydown', pressed);
  arrange();
  redraw();
}

start();
