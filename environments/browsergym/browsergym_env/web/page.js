// What the environment asks of a page: marks, texts, places. Extends clock.js.
(() => {
  const own = window.__openenv;
  delete window.RTCPeerConnection; // the one way around the browser's rules for names
  const HIDDEN = new Set(['reward-display', 'sync-task-cover', 'click-canvas']);
  const SKIPPED = new Set(['SCRIPT', 'STYLE', 'LINK', 'META', 'NOSCRIPT', 'TITLE', 'TEMPLATE']);
  const INTERACTIVE = 'input, textarea, select, button, a, iframe, video, li, td, option';
  const BUTTONS = 'button, a, input[type="button"], div[role="button"]';
  const LEAST_AREA = 20; // square pixels of what is marked in a picture
  const STYLE = [...HIDDEN].map((id) => `#${id}`).join(',') + '{display:none !important}' +
    '*{scroll-behavior:auto !important}';
  let marks = 0;
  let begun = false;

  const kept = (element) => !HIDDEN.has(element.id) && !SKIPPED.has(element.tagName);

  // Give every element a bid, in document order; one that has a bid of its own keeps it, and a
  // copy of it gets another.
  function mark(element, seen = new Set()) {
    if (!kept(element)) return;
    if (!element.hasAttribute('bid') || seen.has(element.getAttribute('bid'))) {
      element.setAttribute('bid', String(marks++));
    }
    seen.add(element.getAttribute('bid'));
    for (const child of element.children) mark(child, seen);
  }

  function find(bid) {
    return document.querySelector(`[bid="${CSS.escape(bid)}"]`);
  }

  function centre(element) {
    const rects = [...element.getClientRects()].filter((r) => r.width > 0 && r.height > 0);
    if (rects.length === 0) return null;
    const rect = rects[0];
    return { x: rect.left + rect.width / 2, y: rect.top + rect.height / 2 };
  }

  function blocker(element, point) {
    const hit = document.elementFromPoint(point.x, point.y);
    if (hit === null) return 'outside';
    if (hit === element || element.contains(hit) || hit.contains(element)) return null;
    const label = hit.closest('label');
    return label !== null && label.control === element ? null : hit;
  }

  // Where to point at an element, scrolled to if need be; or why one cannot.
  own.locate = async (bid) => {
    const element = find(bid);
    if (element === null) return { error: `no element has the bid '${bid}'` };
    let point = centre(element);
    if (point === null || getComputedStyle(element).visibility === 'hidden') {
      return { error: `element ${bid} is not visible` };
    }
    let blocked = blocker(element, point);
    if (blocked !== null) {
      element.scrollIntoView({ block: 'center', inline: 'nearest', behavior: 'instant' });
      await own.settle();
      point = centre(element);
      blocked = point === null ? 'outside' : blocker(element, point);
    }
    if (blocked === 'outside') return { error: `element ${bid} is outside of the page` };
    if (blocked !== null) {
      const by = blocked.getAttribute('bid');
      return { error: `element ${bid} is covered by ${by === null ? 'another' : by}` };
    }
    return point;
  };

  // Whether an element can take text or options, and the focus; the reason if not.
  own.prepare = (bid, purpose, wanted) => {
    const element = find(bid);
    if (element === null) return `no element has the bid '${bid}'`;
    if (centre(element) === null) return `element ${bid} is not visible`;
    if (element.disabled) return `element ${bid} is disabled`;
    const tag = element.tagName;
    if (purpose === 'fill') {
      const plain = ['checkbox', 'radio', 'button', 'submit', 'reset', 'file', 'image', 'range'];
      const takesText = tag === 'TEXTAREA' || element.isContentEditable ||
        (tag === 'INPUT' && !plain.includes(element.type));
      if (!takesText) return `element ${bid} (${tag.toLowerCase()}) takes no text`;
      if (element.readOnly) return `element ${bid} is read-only`;
    }
    if (purpose === 'select') {
      if (tag !== 'SELECT') return `element ${bid} (${tag.toLowerCase()}) has no options`;
      const known = [...element.options].flatMap((o) => [o.value, o.label]);
      const missing = wanted.find((name) => !known.includes(name));
      if (missing !== undefined) return `element ${bid} has no option '${missing}'`;
      if (wanted.length !== 1 && !element.multiple) return `element ${bid} takes one option`;
    }
    if (purpose === 'focus') element.focus();
    return null;
  };

  // Whether a checkbox, radio button or switch is checked; the reason if it is none.
  own.checked = (bid, wanted) => {
    const element = find(bid);
    if (element === null) return { error: `no element has the bid '${bid}'` };
    const box = element.tagName === 'LABEL' && element.control !== null ? element.control : element;
    const role = box.getAttribute('role');
    const native = box.tagName === 'INPUT' && (box.type === 'checkbox' || box.type === 'radio');
    const roles = ['checkbox', 'menuitemcheckbox', 'menuitemradio', 'option', 'radio', 'switch'];
    if (!native && !roles.includes(role)) {
      return { error: `element ${bid} (${box.tagName.toLowerCase()}) cannot be checked` };
    }
    if (box.disabled || box.getAttribute('aria-disabled') === 'true') {
      return { error: `element ${bid} is disabled` };
    }
    const checked = native ? box.checked : box.getAttribute('aria-checked') === 'true';
    if (checked && !wanted && (box.type === 'radio' || role?.endsWith('radio'))) {
      return { error: `element ${bid} is a radio button: check another one of its group` };
    }
    return { checked };
  };

  // Scroll what is under a point, else the first thing that scrolls.
  own.scroll = async (x, y, dx, dy) => {
    const fits = (element) => {
      const style = getComputedStyle(element);
      const loose = (value) => value === 'auto' || value === 'scroll';
      return (dy !== 0 && element.scrollHeight > element.clientHeight && loose(style.overflowY)) ||
        (dx !== 0 && element.scrollWidth > element.clientWidth && loose(style.overflowX)) ||
        (dy !== 0 && element.tagName === 'TEXTAREA' && element.scrollHeight > element.clientHeight);
    };
    let target = document.elementFromPoint(x, y);
    while (target !== null && !fits(target)) target = target.parentElement;
    target ??= [...document.querySelectorAll('body *')].find((e) => kept(e) && fits(e)) ?? null;
    (target ?? document.scrollingElement).scrollBy({ left: dx, top: dy, behavior: 'instant' });
    await own.settle();
  };

  function attributes(element, centres) {
    let text = '';
    for (const { name, value } of element.attributes) {
      if (name === 'value' || name.startsWith('on') || name.startsWith('data-wob')) continue;
      if (name === 'data-tampered') continue;
      text += ` ${name}="${value.replaceAll('&', '&amp;').replaceAll('"', '&quot;')}"`;
    }
    if (['INPUT', 'TEXTAREA', 'SELECT', 'OPTION'].includes(element.tagName)) {
      text += ` value="${element.value.replaceAll('&', '&amp;').replaceAll('"', '&quot;')}"`;
    }
    if (element.checked === true) text += ' checked=""';
    if (element.selected === true) text += ' selected=""';
    const point = centres ? centre(element) : null;
    if (point !== null) text += ` center="${Math.round(point.x)},${Math.round(point.y)}"`;
    return text;
  }

  // The visible document without scripts, styles and comments, one element or text a line.
  function pruned(node, depth, centres, lines) {
    const indent = ' '.repeat(depth);
    if (node.nodeType === Node.TEXT_NODE) {
      const text = node.data.replace(/\s+/g, ' ').trim();
      if (text) lines.push(indent + text.replaceAll('&', '&amp;').replaceAll('<', '&lt;'));
      return;
    }
    if (node.nodeType !== Node.ELEMENT_NODE || !kept(node)) return;
    if (node.tagName !== 'OPTION' && getComputedStyle(node).display === 'none') return;
    const tag = node.tagName.toLowerCase();
    const open = `${indent}<${tag}${attributes(node, centres)}`;
    const inside = [];
    if (tag !== 'textarea') {
      for (const child of node.childNodes) pruned(child, depth + 1, centres, inside);
    }
    if (inside.length === 0) {
      lines.push(`${open}/>`);
    } else if (inside.length === 1 && !inside[0].trimStart().startsWith('<')) {
      lines.push(`${open}>${inside[0].trim()}</${tag}>`);
    } else {
      lines.push(`${open}>`, ...inside, `${indent}</${tag}>`);
    }
  }

  // The elements that pictures mark, with their boxes: those that take a click at their middle and
  // are made for it, by tag, handler or pointer; the innermost ones, but nothing within a button.
  own.marks = () => {
    const marked = new Set();
    const buttons = [];
    for (const element of document.querySelectorAll('[bid]')) {
      const box = element.getBoundingClientRect();
      if (box.width * box.height < LEAST_AREA) continue;
      const hit = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
      if (hit === null || !element.contains(hit)) continue;
      const made = element.matches(INTERACTIVE) || (element.onclick ?? null) !== null ||
        getComputedStyle(element).cursor === 'pointer';
      if (!made || buttons.some((button) => button.contains(element))) continue;
      const parent = element.parentElement;
      if (parent?.matches('span[role]') && parent.children.length === 1 && marked.has(parent)) continue;
      marked.add(element);
      if (element.matches(BUTTONS)) buttons.push(element);
      for (let above = parent; above !== null; above = above.parentElement) marked.delete(above);
    }
    return [...marked].map((element) => {
      const { left, top, width, height } = element.getBoundingClientRect();
      return { bid: element.getAttribute('bid'), left, top, width, height };
    });
  };

  // A picture (base64) with a box around each of these marks, and its bid at the box's corner. It
  // is drawn beside the document, which does not change.
  own.paint = async (encoded, type, marks) => {
    const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
    const picture = await createImageBitmap(new Blob([bytes]));
    const canvas = new OffscreenCanvas(picture.width, picture.height);
    const pen = canvas.getContext('2d');
    pen.drawImage(picture, 0, 0);
    pen.font = 'bold 10px sans-serif';
    pen.textBaseline = 'top';
    pen.lineWidth = 1;
    for (const { left, top, width, height } of marks) {
      pen.strokeStyle = 'red';
      pen.strokeRect(Math.round(left) + 0.5, Math.round(top) + 0.5, Math.round(width) - 1, Math.round(height) - 1);
    }
    for (const { bid, left, top } of marks) {
      const wide = Math.ceil(pen.measureText(bid).width) + 4;
      const x = Math.max(0, Math.min(Math.round(left), canvas.width - wide));
      const y = Math.max(0, Math.min(Math.round(top) - 6, canvas.height - 12));
      pen.fillStyle = 'black';
      pen.fillRect(x, y, wide, 12);
      pen.fillStyle = 'white';
      pen.fillText(bid, x + 2, y + 1);
    }
    const blob = await canvas.convertToBlob({ type: `image/${type}` });
    const drawn = new Uint8Array(await blob.arrayBuffer());
    let letters = '';
    for (let at = 0; at < drawn.length; at += 8192) {
      letters += String.fromCharCode(...drawn.subarray(at, at + 8192));
    }
    return btoa(letters);
  };

  // Begin the episode. `core` and the WOB names are MiniWoB's.
  own.begin = async ({ seed, limit, mode }) => {
    if (!document.getElementById('openenv-style')) {
      const style = document.createElement('style');
      style.id = 'openenv-style';
      style.textContent = STYLE;
      document.head.append(style);
    }
    await own.advance(1);
    for (const element of document.querySelectorAll('[bid]')) element.removeAttribute('bid');
    marks = 0;
    core.setDataMode(mode);
    if (limit !== null) core.EPISODE_MAX_TIME = limit;
    Math.seedrandom(seed);
    core.startEpisodeReal();
    begun = true;
    await own.advance(1);
  };

  own.score = () => ({
    begun,
    done: begun && WOB_DONE_GLOBAL,
    reward: begun ? WOB_REWARD_GLOBAL : 0,
    raw: begun ? WOB_RAW_REWARD_GLOBAL : 0,
    reason: begun ? WOB_REWARD_REASON : null,
  });

  own.read = ({ text, html, centres }) => {
    const top = document.body ?? document.documentElement; // a picture or XML has no body
    mark(top);
    const lines = [];
    if (html) pruned(top, 0, centres, lines);
    const places = {};
    if (centres) {
      for (const element of document.querySelectorAll('[bid]')) {
        const point = centre(element);
        if (point !== null) places[element.getAttribute('bid')] = [Math.round(point.x), Math.round(point.y)];
      }
    }
    let goal = begun ? core.getUtterance() : '';
    if (goal !== null && typeof goal === 'object') goal = goal.utterance;
    const focused = document.activeElement;
    return {
      ...own.score(),
      goal: String(goal),
      text: text ? (top.innerText ?? top.textContent).trim() : '',
      html: lines.join('\n'),
      places,
      focused: focused === document.body ? null : focused?.getAttribute('bid') ?? null,
    };
  };
})();
