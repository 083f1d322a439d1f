// The script of a server's page: playing by hand, live sessions, plots. It is a module without
// dependencies. Whatever comes from the server is put in as text: no markup is ever made of it.

const SVG = 'http://www.w3.org/2000/svg';
const CSRF = document.querySelector('meta[name="openenv-csrf"]').content;
const HISTORY_ROWS = 200;
const MOST_BUTTONS = 24;

// -- elements and requests ----------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error?.code ?? String(status);
  }
}

async function ask(path, { body, session, method = body === undefined ? 'GET' : 'POST', keepalive } = {}) {
  const headers = { Accept: 'application/openenv+json' };
  if (method !== 'GET') headers['X-OpenEnv-CSRF'] = CSRF;
  if (session) headers['X-OpenEnv-Session'] = session;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const reply = await fetch(`./${path}`, {
    method, headers, keepalive, body: body === undefined ? undefined : JSON.stringify(body),
  });
  const said = await reply.json().catch(() => null);
  if (!reply.ok) {
    if (reply.status === 401) location.reload(); // which shows the form
    throw new Refused(reply.status, said?.error);
  }
  return said;
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return '';
  if (Number.isInteger(value)) return value.toLocaleString('en');
  return Number(value.toPrecision(digits)).toString();
}

function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function short(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds < 1e-3) return `${number(seconds * 1e6, 3)} µs`;
  return seconds < 1 ? `${number(seconds * 1e3, 3)} ms` : `${number(seconds, 3)} s`;
}

function facts(pairs) {
  return make('dl', { class: 'facts' }, pairs.map(([name, value]) =>
    make('div', {}, make('dt', {}, name), make('dd', {}, value))));
}

function table(heads, label) {
  const body = make('tbody');
  const whole = make('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label },
    make('table', {},
      make('thead', {}, make('tr', {}, heads.map((head) => make('th', { scope: 'col' }, head)))), body));
  return { whole, body, row: (cells) => make('tr', {}, cells.map((cell, at) =>
    make('td', { 'data-label': heads[at] }, cell))) };
}

// -- values -------------------------------------------------------------------------------------

function isArray(value) {
  return value !== null && typeof value === 'object' && Array.isArray(value.__ndarray__);
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// The size of a picture that an array is, as height, width, channels and where it begins.
function pictureOf([dtype, shape, data]) {
  if (!/^[|<>=]?u1$/.test(dtype)) return null;
  let sizes = shape;
  let frames = 1;
  if (sizes.length === 4 || (sizes.length === 3 && ![1, 3, 4].includes(sizes[2]) && sizes[0] <= 8)) {
    frames = sizes[0]; // of a stack the newest is shown
    sizes = sizes.slice(1);
  }
  const [height, width, channels = 1] = sizes;
  if (sizes.length < 2 || sizes.length > 3 || ![1, 3, 4].includes(channels)) return null;
  if (Math.min(height, width) < 8 || height * width > 16e6) return null;
  return { height, width, channels, offset: (frames - 1) * height * width * channels, data };
}

function picture({ height, width, channels, offset, data }) {
  const source = bytesOf(data);
  const pixels = new Uint8ClampedArray(height * width * 4);
  for (let at = 0; at < height * width; at += 1) {
    const from = offset + at * channels;
    pixels[at * 4] = source[from];
    pixels[at * 4 + 1] = source[channels === 1 ? from : from + 1];
    pixels[at * 4 + 2] = source[channels === 1 ? from : from + 2];
    pixels[at * 4 + 3] = channels === 4 ? source[from + 3] : 255;
  }
  const canvas = make('canvas', { width, height });
  canvas.getContext('2d').putImageData(new ImageData(pixels, width, height), 0, 0);
  return make('img', {
    class: width < 200 ? 'picture large' : 'picture',
    src: canvas.toDataURL('image/png'), width, height, alt: `Picture, ${width} by ${height} pixels`,
  });
}

function numbersOf([dtype, , data]) {
  const kinds = {
    f4: Float32Array, f8: Float64Array, i1: Int8Array, i2: Int16Array, i4: Int32Array,
    i8: BigInt64Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, u8: BigUint64Array, b1: Uint8Array,
  };
  const kind = kinds[dtype.replace(/^[|<=]/, '')];
  return kind ? Array.from(new kind(bytesOf(data).buffer), Number) : null;
}

function arrayWords(tagged) {
  const [dtype, shape] = tagged;
  const numbers = numbersOf(tagged);
  const name = `${dtype.replace(/^[|<=]/, '')} [${shape.join('×')}]`;
  if (numbers === null) return name;
  if (numbers.length <= 64) return `[${numbers.map((one) => number(one, 4)).join(', ')}]`;
  let [low, high, sum] = [Infinity, -Infinity, 0];
  for (const one of numbers) { low = Math.min(low, one); high = Math.max(high, one); sum += one; }
  return `${name}, ${number(low)} to ${number(high)}, mean ${number(sum / numbers.length)}`;
}

// A text as it would be in a terminal: colours become marks.
function terminal(text) {
  const node = make('pre', { class: 'wrap', tabindex: '0' });
  let marked = false;
  text.split(/\x1b\[([0-9;]*)m/).forEach((part, at) => {
    if (at % 2) marked = !['', '0'].includes(part);
    else if (part) node.append(marked ? make('mark', {}, part) : part);
  });
  return node;
}

function imageText(text) {
  const kind = text.startsWith('iVBORw0KGgo') ? 'png' : text.startsWith('/9j/') ? 'jpeg' : null;
  if (kind === null || text.length < 64 || !/^[A-Za-z0-9+/=]+$/.test(text.slice(0, 256))) return null;
  return make('img', { class: 'picture', src: `data:image/${kind};base64,${text}`, alt: 'Picture' });
}

function plain(value) {
  if (isArray(value)) return arrayWords(value.__ndarray__);
  return JSON.stringify(value, (key, each) => (isArray(each) ? arrayWords(each.__ndarray__) : each));
}

function brief(value, most = 90) {
  const text = value === undefined || value === null ? '' : typeof value === 'string' ? value : plain(value);
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function shown(value, depth = 0) {
  if (value === null || value === undefined) return make('span', { class: 'quiet' }, 'none');
  if (typeof value === 'string') {
    const image = imageText(value);
    if (image) return image;
    return /\n|\x1b|[\u2500-\u259f]/.test(value) ? terminal(value) : make('span', {}, value || '(empty)');
  }
  if (typeof value !== 'object') return make('span', { class: 'number' }, String(value));
  if (isArray(value)) {
    const found = pictureOf(value.__ndarray__);
    return found ? picture(found) : make('code', { class: 'number' }, arrayWords(value.__ndarray__));
  }
  if (typeof value.__bytes__ === 'string') {
    return imageText(value.__bytes__) ?? make('code', {}, `${value.__bytes__.length} bytes as base64`);
  }
  const entries = Object.entries(value);
  if (Array.isArray(value) || depth > 2 || entries.length > 40) {
    const text = plain(value);
    return text.length < 160 ? make('code', {}, text) : make('pre', { class: 'wrap', tabindex: '0' }, text.slice(0, 20000));
  }
  if (!entries.length) return make('span', { class: 'quiet' }, '(empty)');
  return make('dl', { class: 'value' }, entries.map(([name, each]) =>
    make('div', {}, make('dt', {}, name), make('dd', {}, shown(each, depth + 1)))));
}

// -- schemas and controls -----------------------------------------------------------------------

function resolved(schema, root) {
  let found = schema;
  for (let depth = 0; depth < 32 && found && typeof found.$ref === 'string'; depth += 1) {
    let target = root;
    for (const part of found.$ref.split('/').slice(1)) {
      target = target?.[decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~')];
    }
    const { $ref, ...beside } = found;
    found = { ...target, ...beside };
  }
  const members = found?.anyOf ?? found?.oneOf;
  if (Array.isArray(members)) {
    const rest = members.map((each) => resolved(each, root)).filter((each) => each?.type !== 'null');
    if (rest.length === 1) {
      const { anyOf, oneOf, ...beside } = found;
      return { ...rest[0], ...beside, nullable: rest.length < members.length };
    }
  }
  return found ?? {};
}

// The values of a schema that has few, in order; null for all others.
function choicesOf(schema) {
  if ('const' in schema) return [schema.const];
  if (Array.isArray(schema.enum)) return schema.enum;
  if (schema.type === 'boolean') return [true, false];
  if (schema.type === 'integer' && Number.isInteger(schema.minimum) && Number.isInteger(schema.maximum)) {
    const count = schema.maximum - schema.minimum + 1;
    if (count <= 256) return Array.from({ length: count }, (_, at) => schema.minimum + at);
  }
  return null;
}

// Names of choices where the description says them: "0: LEFT, 1: RIGHT".
function labelsOf(schema) {
  const labels = {};
  for (const [, key, word] of String(schema.description ?? '').matchAll(/(-?\d+): ([^,;.\n]{1,40})/g)) {
    labels[key] = word.trim();
  }
  return labels;
}

class BadInput extends Error {}

let numbered = 0;

function control(schema, root, name, required) {
  const about = resolved(schema, root);
  const id = `field-${numbered += 1}`;
  const label = make('label', { for: id }, name || 'Action');
  const hint = about.description ? make('span', { class: 'quiet hint' }, about.description.split('\n')[0]) : null;
  const wrap = (node) => make('div', { class: 'field' }, label, node, hint);
  const choices = choicesOf(about);
  if (choices && choices.length > 0) {
    const labels = labelsOf(about);
    const select = make('select', { id }, required ? null : make('option', { value: '' }, '—'),
      choices.map((value, at) => make('option', { value: at }, labels[value] ? `${value} ${labels[value]}` : String(value))));
    return { node: wrap(select), get: () => (select.value === '' ? undefined : choices[Number(select.value)]) };
  }
  if (about.type === 'integer' || about.type === 'number') {
    const input = make('input', {
      id, type: 'number', step: about.type === 'integer' ? 1 : 'any', min: about.minimum, max: about.maximum,
      placeholder: about.default ?? '',
    });
    return { node: wrap(input), get: () => {
      if (input.value === '') {
        if (required) throw new BadInput(`${name || 'the action'} is missing`);
        return undefined;
      }
      return Number(input.value);
    } };
  }
  if (about.type === 'string') {
    const area = make('textarea', { id, rows: 2, placeholder: about.default ?? '', spellcheck: 'false' });
    return { node: wrap(area), get: () => (area.value === '' && !required ? undefined : area.value) };
  }
  if (about.type === 'object' && about.properties && Object.keys(about.properties).length) {
    const needed = about.required ?? [];
    const fields = Object.entries(about.properties).map(([key, each]) =>
      [key, control(each, root, key, needed.includes(key) && !('default' in resolved(each, root)))]);
    const node = make('div', { class: 'fields' }, fields.map(([, field]) => field.node));
    return { node: name ? make('fieldset', {}, make('legend', {}, name), node) : node, get: () => {
      const entries = fields.map(([key, field]) => [key, field.get()]).filter(([, value]) => value !== undefined);
      return entries.length || required ? Object.fromEntries(entries) : undefined;
    } };
  }
  const area = make('textarea', { id, rows: 3, spellcheck: 'false', placeholder: 'JSON' });
  if (required) area.value = JSON.stringify(example(about));
  return { node: wrap(area), get: () => {
    if (area.value.trim() === '') {
      if (required) throw new BadInput(`${name || 'the action'} is missing`);
      return undefined;
    }
    try { return JSON.parse(area.value); } catch (error) { throw new BadInput(`${name || 'the action'} is not JSON: ${error.message}`); }
  } };
}

function example(about) {
  const shape = about['x-ndarray']?.shape;
  if (Array.isArray(shape) && shape.every(Number.isInteger)) {
    if (shape.reduce((one, other) => one * other, 1) > 4096) return [];
    return shape.reduceRight((inner, size) => Array.from({ length: size }, () => inner), 0);
  }
  return about.type === 'array' ? [] : {};
}

// The one field whose choices make the action, or the action itself where it is a choice.
function singleChoice(schema) {
  const about = resolved(schema, schema);
  const own = choicesOf(about);
  if (own) return { choices: own, labels: labelsOf(about), wrap: (value) => value, field: null };
  const fields = Object.entries(about.properties ?? {});
  const needed = fields.filter(([key]) => (about.required ?? []).includes(key));
  const [key, each] = needed.length === 1 && fields.length === 1 ? needed[0] : [null, null];
  const field = key === null ? null : resolved(each, schema);
  const choices = field && choicesOf(field);
  return choices ? { choices, labels: labelsOf(field), wrap: (value) => ({ [key]: value }), field: key } : null;
}

// -- playing by hand ----------------------------------------------------------------------------

function hex(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (one) => one.toString(16).padStart(2, '0')).join('');
}

class Player {
  constructor(host, schema) {
    this.schema = schema;
    this.session = null;
    this.busy = false;
    const { modes = [] } = resolved(schema.state, schema.state)['x-render'] ?? {};
    this.modes = ['rgb_array', 'ansi'].filter((each) => modes.includes(each));
    this.seed = make('input', { id: 'play-seed', type: 'number', min: 0, step: 1, placeholder: 'random' });
    const { seed, episode_id, ...rest } = resolved(schema.reset, schema.reset).properties ?? {};
    this.options = Object.keys(rest).length
      ? control({ type: 'object', properties: rest }, schema.reset, '', false) : null;
    this.resetButton = make('button', { type: 'submit' }, 'Reset');
    this.closeButton = make('button', { type: 'button', class: 'plain', disabled: true, onclick: () => this.close() }, 'Close session');
    this.status = make('div', { id: 'play-status', role: 'status', 'aria-live': 'polite' });
    this.error = make('div', { id: 'play-error', role: 'alert' });
    this.view = make('div', { id: 'play-view' }, make('p', { class: 'quiet' }, 'Reset begins an episode in a session of your own.'));
    this.moves = make('div', { id: 'play-moves' });
    this.history = table(['Step', 'Action', 'Reward', 'Observation', 'End'], 'Steps of this episode');
    const form = make('form', { class: 'reset', onsubmit: (event) => { event.preventDefault(); this.reset(); } },
      make('div', { class: 'field narrow' }, make('label', { for: 'play-seed' }, 'Seed'), this.seed),
      this.resetButton, this.closeButton,
      this.options && make('details', {}, make('summary', {}, 'Task and options of reset'), this.options.node));
    this.past = make('details', { hidden: true, open: true }, make('summary', {}, 'Steps'), this.history.whole);
    host.append(form, this.error, make('div', { class: 'board' },
      make('div', {}, this.view), make('div', {}, this.status, this.moves)), this.past);
    addEventListener('pagehide', () => {
      if (this.session) ask('close', { body: {}, session: this.session, keepalive: true }).catch(() => {});
    });
  }

  async run(call) {
    if (this.busy) return;
    this.busy = true;
    this.error.replaceChildren();
    this.resetButton.disabled = true;
    try {
      await call();
    } catch (error) {
      const what = error instanceof Refused ? `${error.code}: ${error.message}` : error.message;
      this.error.append(make('p', { class: 'error' }, what));
      if (['session_not_found', 'session_closed', 'session_lost'].includes(error.code)) this.forget();
    } finally {
      this.busy = false;
      this.resetButton.disabled = false;
      this.closeButton.disabled = this.session === null;
    }
  }

  async open() {
    const [mode] = this.modes;
    const name = `${hex(16)}.${hex(16)}`;
    await ask('open', { body: mode ? { options: { render_mode: mode } } : {}, session: name });
    this.session = name;
  }

  reset() {
    return this.run(async () => {
      const body = { ...(this.options?.get() ?? {}) };
      if (this.seed.value !== '') body.seed = Number(this.seed.value);
      if (this.session === null) await this.open();
      let result = await ask('reset', { body, session: this.session });
      while (this.modes.length && !(await this.frame())) {
        this.modes.shift(); // a mode that lacks a library: the next one, in a session of its own
        await ask('close', { body: {}, session: this.session });
        await this.open();
        result = await ask('reset', { body, session: this.session });
      }
      this.steps = 0;
      this.total = result.reward;  // null until a reward is given
      this.history.body.replaceChildren();
      this.past.hidden = true;
      await this.show(result);
    });
  }

  step(action) {
    return this.run(async () => {
      const result = await ask('step', { body: { action }, session: this.session });
      this.steps += 1;
      if (result.reward !== null) this.total = (this.total ?? 0) + result.reward;
      const end = result.terminated ? 'terminated' : result.truncated ? 'truncated' : '';
      const row = this.history.row([
        String(this.steps), make('code', {}, brief(action)), number(result.reward), brief(result.observation), end]);
      this.history.body.prepend(row);
      while (this.history.body.rows.length > HISTORY_ROWS) this.history.body.lastChild.remove();
      this.past.hidden = false;
      await this.show(result);
    });
  }

  // What the environment renders, if it does.
  async frame() {
    const state = await ask('state', { session: this.session }).catch(() => null);
    return state?.frame ?? null;
  }

  async show(result) {
    const over = result.terminated || result.truncated;
    this.status.replaceChildren(facts([
      ['Step', number(this.steps)], ['Reward', result.reward === null ? 'none' : number(result.reward)],
      ['Return', this.total === null ? 'none' : number(this.total)],
      ['Episode', result.terminated ? 'terminated' : result.truncated ? 'truncated' : 'running']]));
    const parts = [];
    const frame = this.modes.length ? await this.frame() : null;
    if (frame) parts.push(shown(frame));
    parts.push(shown(result.observation));
    const { legal_actions: listed, action_mask: mask, ...info } = result.info ?? {};
    if (Object.keys(info).length) {
      parts.push(make('details', {}, make('summary', {}, 'Info'), shown(info)));
    }
    this.view.replaceChildren(...parts);
    if (over) this.moves.replaceChildren(make('p', {}, 'The episode is over. Reset begins another.'));
    else this.offer(listed ?? result.observation?.legal_actions ?? null, mask);
  }

  offer(listed, mask) {
    const single = singleChoice(this.schema.action);
    const allowed = this.allowed(single, listed, mask);
    if (single && single.choices.length <= MOST_BUTTONS) {
      this.moves.replaceChildren(this.buttons(single.choices.map((value) => [
        single.labels[value] ? `${value} ${single.labels[value]}` : String(value), single.wrap(value),
        allowed === null || allowed.has(JSON.stringify(value))])));
      return;
    }
    const parts = [];
    if (allowed !== null && allowed.size <= 256) {
      const moves = [...allowed].map((text) => JSON.parse(text));
      parts.push(make('h3', {}, 'Legal moves'), this.buttons(moves.map((value) => {
        const action = single && (typeof value !== 'object') ? single.wrap(value) : value;
        return [single?.labels[value] ? `${value} ${single.labels[value]}` : brief(value, 40), action, true];
      })));
    }
    this.field ??= this.form();
    parts.push(this.field);
    if (this.moves.firstChild !== this.field || parts.length > 1) this.moves.replaceChildren(...parts);
  }

  // Legal values of the choice, or whole actions, as JSON; null where the environment says nothing.
  allowed(single, listed, mask) {
    const entries = isArray(listed) ? numbersOf(listed.__ndarray__) : listed;
    if (Array.isArray(entries)) {
      return new Set(entries.map((each) => JSON.stringify(
        single?.field && each !== null && typeof each === 'object' ? each[single.field] : each)));
    }
    const bits = isArray(mask) ? numbersOf(mask.__ndarray__) : mask;
    if (single && Array.isArray(bits) && bits.length === single.choices.length) {
      return new Set(single.choices.filter((_, at) => bits[at]).map((value) => JSON.stringify(value)));
    }
    return null;
  }

  buttons(moves) {
    return make('div', { class: 'moves', role: 'group', 'aria-label': 'Actions' }, moves.map(([label, action, legal]) =>
      make('button', { type: 'button', class: 'plain', disabled: !legal, onclick: () => this.step(action) }, label)));
  }

  form() {
    const about = resolved(this.schema.action, this.schema.action);
    const own = control(this.schema.action, this.schema.action, '', true);
    const json = make('textarea', { 'aria-label': 'Action as JSON', rows: 4, spellcheck: 'false', hidden: true });
    const toggle = make('button', { type: 'button', class: 'plain', 'aria-pressed': 'false' }, 'As JSON');
    toggle.addEventListener('click', () => {
      json.hidden = !json.hidden;
      own.node.hidden = !json.hidden;
      toggle.setAttribute('aria-pressed', String(!json.hidden));
      if (!json.hidden) { try { json.value = JSON.stringify(own.get(), null, 1); } catch { json.value = '{}'; } }
    });
    const isFree = about.type !== 'object' || !about.properties;
    return make('form', { class: 'action', onsubmit: (event) => {
      event.preventDefault();
      let action;
      try {
        action = json.hidden ? own.get() : JSON.parse(json.value);
      } catch (error) {
        this.error.replaceChildren(make('p', { class: 'error' }, `this is not an action: ${error.message}`));
        return;
      }
      this.step(action);
    } }, own.node, json, make('div', { class: 'row' }, make('button', { type: 'submit' }, 'Step'), isFree ? null : toggle));
  }

  forget() {
    this.session = null;
    this.moves.replaceChildren();
  }

  close() {
    return this.run(async () => {
      const session = this.session;
      this.forget();
      await ask('close', { body: {}, session });
      this.status.replaceChildren(make('p', { class: 'quiet' }, 'The session is closed.'));
    });
  }
}

// What a step gave, in a line; large observations are kept for the newest step alone.
function observed(event) {
  const isGone = event.size > 0 && event.observation === null;
  return event.message ? brief(event.message) : isGone ? `${number(event.size)} bytes` : brief(event.observation);
}

// -- live sessions ------------------------------------------------------------------------------

class Sessions {
  constructor(host) {
    this.host = host;
    this.rows = new Map();
    this.list = null;
    this.panel = make('div', { id: 'follow' });
    host.after(this.panel);
  }

  async refresh() {
    const told = await ask('sessions');
    const waits = told.waiting ? `, the first for ${number(told.longest_wait, 3)} s` : '';
    const about = facts([
      ['Live', `${number(told.count)} of ${number(told.max_sessions)}`],
      ['Waiting for capacity', `${number(told.waiting)}${waits}`],
      ['Going away', told.draining ?? 'no']]);
    if (this.list === null) {
      this.list = table(['Session', 'State', 'Age', 'Steps', 'Reward', 'Return', 'Last error', 'Actions'], 'Live sessions');
      this.about = make('div');
      this.none = make('p', { class: 'quiet' }, 'No session is open.');
      this.more = make('p', { class: 'quiet' });
      this.host.replaceChildren(this.about, this.list.whole, this.none, this.more);
    }
    this.about.replaceChildren(about);
    this.none.hidden = told.sessions.length > 0;
    this.list.whole.hidden = told.sessions.length === 0;
    this.more.textContent = told.count > told.sessions.length ? `The first ${told.sessions.length} of ${number(told.count)}.` : '';
    const alive = new Set(told.sessions.map((row) => row.id));
    for (const [id, row] of this.rows) if (!alive.has(id)) { row.remove(); this.rows.delete(id); }
    for (const row of told.sessions) this.update(row);
  }

  update(row) {
    let node = this.rows.get(row.id);
    if (!node) {
      const cells = Array.from({ length: 7 }, () => make('span', { class: 'number' }));
      node = this.list.row([...cells, make('div', { class: 'row' },
        make('button', { class: 'plain small', type: 'button', 'aria-label': `Follow ${row.id.slice(0, 8)}`, onclick: () => this.follow(row.id) }, 'Follow'),
        make('button', { class: 'plain small', type: 'button', 'aria-label': `Cancel ${row.id.slice(0, 8)}`, onclick: () => this.act(row.id, 'cancel') }, 'Cancel'),
        this.sure(row.id))]);
      node.cellsOf = cells;
      this.rows.set(row.id, node);
      this.list.body.append(node);
    }
    const texts = [row.id.slice(0, 8), row.running ? `${row.state}, ${row.running}` : row.state, duration(row.age),
      number(row.steps), number(row.reward), number(row.total), row.error ? row.error[0] : ''];
    texts.forEach((text, at) => { if (node.cellsOf[at].textContent !== text) node.cellsOf[at].textContent = text; });
    node.cellsOf[6].title = row.error ? row.error[1] : '';
  }

  // A button that closes a session when it is pressed twice.
  sure(id) {
    const button = make('button', { class: 'plain small', type: 'button', 'aria-label': `Close ${id.slice(0, 8)}` }, 'Close');
    button.addEventListener('click', () => {
      if (button.dataset.sure) { this.act(id, 'close'); return; }
      button.dataset.sure = 'yes';
      button.textContent = 'Really close';
      button.setAttribute('aria-label', `Really close ${id.slice(0, 8)}`);
      setTimeout(() => {
        delete button.dataset.sure;
        button.textContent = 'Close';
        button.setAttribute('aria-label', `Close ${id.slice(0, 8)}`);
      }, 4000);
    });
    return button;
  }

  async act(id, verb) {
    try {
      await ask(`sessions/${id}/${verb}`, { body: {} });
      await this.refresh();
    } catch (error) {
      this.panel.prepend(make('p', { class: 'error', role: 'alert' }, error.message));
    }
  }

  follow(id) {
    this.source?.close();
    const about = make('div');
    const view = make('div', { class: 'latest' });
    const steps = table(['Step', 'Call', 'Action', 'Reward', 'Return', 'Observation', 'End'], 'Steps of the session');
    const state = make('span', { class: 'quiet', role: 'status' }, 'following');
    const stop = () => { this.source?.close(); this.panel.replaceChildren(); };
    this.panel.replaceChildren(make('div', { class: 'row' }, make('h3', {}, `Session ${id.slice(0, 8)}`), state,
      make('button', { class: 'plain small', type: 'button', onclick: stop }, 'Stop following')),
    about, make('div', { class: 'board' }, view, make('div', {}, steps.whole)));
    this.source = new EventSource(`./sessions/${id}/follow`);
    this.source.addEventListener('steps', (message) => {
      const told = JSON.parse(message.data);
      const row = told.session;
      about.replaceChildren(facts([['State', row.running ? `${row.state}, ${row.running}` : row.state],
        ['Episode', row.episode_id ?? '–'], ['Seed', row.seed === null ? '–' : String(row.seed)], ['Requests', number(row.requests)],
        ['Last error', row.error ? brief(`${row.error[0]}: ${row.error[1]}`) : 'none']]));
      if (told.skipped) steps.body.prepend(steps.row(['', `${number(told.skipped)} left out`, '', '', '', '', '']));
      for (const event of told.events) {
        const end = event.code ?? (event.terminated ? 'terminated' : event.truncated ? 'truncated' : '');
        steps.body.prepend(steps.row([number(event.step), event.operation, make('code', {}, brief(event.action, 60)),
          number(event.reward), number(event.total), observed(event), end]));
      }
      while (steps.body.rows.length > HISTORY_ROWS) steps.body.lastChild.remove();
      const last = told.events.findLast((event) => event.observation !== null && event.observation !== undefined);
      if (last) view.replaceChildren(shown(last.observation));
    });
    this.source.addEventListener('end', (message) => {
      const told = JSON.parse(message.data);
      state.textContent = `ended, ${told.code}: ${told.message}`;
      this.source.close();
    });
    this.source.onerror = () => { if (this.source.readyState === EventSource.CLOSED) state.textContent = 'the server does not answer'; };
  }
}

// -- plots --------------------------------------------------------------------------------------

const WIDTH = 260;
const HEIGHT = 64;

function plot(title, lines, say) {
  const values = lines.flatMap(([, each]) => each.filter((one) => one !== null));
  const most = Math.max(...values, 0);
  const scale = most > 0 ? (HEIGHT - 6) / most : 0;
  const place = (at, count) => (count < 2 ? 0 : (at * WIDTH) / (count - 1));
  const shapes = lines.map(([name, each], index) => {
    let path = '';
    let open = false;
    each.forEach((one, at) => {
      if (one === null) { open = false; return; }
      path += `${open ? 'L' : 'M'}${place(at, each.length).toFixed(1)} ${(HEIGHT - 3 - one * scale).toFixed(1)}`;
      open = true;
    });
    return draw('path', { d: path || 'M0 0', class: `line line-${index}` }, draw('title', {}, name));
  });
  const now = lines.map(([name, each]) => {
    const last = each.findLast((one) => one !== null);
    return `${lines.length > 1 ? `${name} ` : ''}${last === undefined ? '–' : say(last)}`;
  }).join(' · ');
  const svg = draw('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', preserveAspectRatio: 'none',
    'aria-label': `${title}: now ${now}, at most ${say(most)}` },
  draw('line', { x1: 0, x2: WIDTH, y1: HEIGHT - 2.5, y2: HEIGHT - 2.5, class: 'axis' }), ...shapes);
  return make('figure', { class: 'plot' }, make('figcaption', {}, make('span', {}, title), make('b', { class: 'number' }, now)),
    svg, make('div', { class: 'ends' }, make('span', {}, 'max ', make('span', { class: 'number' }, say(most))), make('span', {}, 'last 5 min')));
}

// The parts of a step beside each other, as wide as they take.
function split(p50) {
  const names = { queue: 'Queue', env: 'Environment', serialize: 'Codec' };
  const parts = Object.keys(names).map((phase) => [phase, p50[phase].findLast((one) => one !== null) ?? 0]);
  const sum = parts.reduce((total, [, one]) => total + one, 0);
  if (!sum) return null;
  let at = 0;
  const bars = parts.map(([, one], index) => {
    const width = (one / sum) * WIDTH;
    at += width;
    return draw('rect', { x: at - width, y: 0, width, height: 14, class: `part-${index}` });
  });
  const label = parts.map(([phase, one]) => `${names[phase]} ${short(one)}`).join(', ');
  return make('figure', { class: 'split' }, make('figcaption', {}, make('span', {}, 'A step now, median of each part')),
    draw('svg', { viewBox: `0 0 ${WIDTH} 14`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label }, ...bars),
    make('div', { class: 'legend' }, parts.map(([phase, one], index) =>
      make('span', {}, make('i', { class: `key-${index}` }), `${names[phase]} `, make('b', { class: 'number' }, short(one))))));
}

async function plots(host) {
  const told = await ask('history');
  const whole = (one) => number(one, 3);
  host.replaceChildren(make('div', { class: 'plots' },
    plot('Steps per second', [['steps', told.steps]], whole),
    plot('Sessions', [['live', told.sessions], ['waiting', told.waiting]], whole),
    plot('Errors per second', [['errors', told.errors]], whole),
    plot('Environment', [['median', told.p50.env], ['99th', told.p99.env]], short),
    plot('Queue', [['median', told.p50.queue], ['99th', told.p99.queue]], short),
    plot('Event loop late by', [['lag', told.lag]], short)), ...[split(told.p50)].filter(Boolean));
}

// -- the page -----------------------------------------------------------------------------------

// Look again and again while the page is seen; after a failure less often.
function repeatedly(look, seconds) {
  let failures = 0;
  const next = async () => {
    if (document.visibilityState === 'visible') {
      try { await look(); failures = 0; } catch { failures = Math.min(failures + 1, 5); }
    }
    setTimeout(next, seconds * 1000 * 2 ** failures);
  };
  next();
}

const base = new URL('./', location.href).href.replace(/\/$/, '');
for (const node of document.querySelectorAll('[data-address]')) {
  const code = node.querySelector('code');
  code.textContent = code.textContent.replaceAll(node.dataset.address, base);
}
const player = document.getElementById('player');
if (player) {
  ask('schema').then((schema) => new Player(player, schema)).catch((error) =>
    player.append(make('p', { class: 'error' }, error.message)));
}
const live = document.getElementById('live');
if (live) {
  const sessions = new Sessions(live);
  repeatedly(() => sessions.refresh(), 2);
}
const plotted = document.getElementById('plots');
if (plotted) repeatedly(() => plots(plotted), 2);
