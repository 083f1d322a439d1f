// What the environment asks of a page: marks, texts, places. Extends clock.js.
(() => {
  const own = window.__openenv;
  const HIDDEN = new Set(['reward-display', 'sync-task-cover', 'click-canvas']);
  const SKIPPED = new Set(['SCRIPT', 'STYLE', 'LINK', 'META', 'NOSCRIPT', 'TITLE', 'TEMPLATE']);
  const STYLE = [...HIDDEN].map((id) => `#${id}`).join(',') + '{display:none !important}' +
    '*{scroll-behavior:auto !important}';
  let marks = 0;
  let begun = false;

  const kept = (element) => !HIDDEN.has(element.id) && !SKIPPED.has(element.tagName);

  // Give every element a bid, in document order; one that has a bid keeps it.
  function mark(element) {
    if (!kept(element)) return;
    if (!element.hasAttribute('bid')) element.setAttribute('bid', String(marks++));
    for (const child of element.children) mark(child);
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
      element.scrollIntoView({ block: 'center', inline: 'nearest' });
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
    (target ?? document.scrollingElement).scrollBy(dx, dy);
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
    mark(document.body);
    const lines = [];
    if (html) pruned(document.body, 0, centres, lines);
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
      text: text ? document.body.innerText.trim() : '',
      html: lines.join('\n'),
      places,
      focused: focused === document.body ? null : focused?.getAttribute('bid') ?? null,
      elapsed: own.elapsed(),
    };
  };
})();
