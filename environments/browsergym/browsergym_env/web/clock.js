// Runs before the scripts of every document. The page's time stands still until advance() moves
// it, so that an episode depends on its seed and actions alone, however slow the agent is.
// Math.random is seeded as well: MiniWoB's core draws from it while it loads.
(() => {
  const START = 1577836800000; // 2020-01-01T00:00:00Z
  const FRAME = 16;
  const MOST_CALLBACKS = 20000;
  const RealDate = Date;
  const realFrame = window.requestAnimationFrame.bind(window);
  const timers = new Map();
  let now = START;
  let lastId = 0;

  function add(callback, delay, every, rest) {
    const wait = Math.max(1, Number(delay) || 0);
    const id = ++lastId;
    const run = typeof callback === 'function' ? callback : new Function(String(callback));
    timers.set(id, { at: now + wait, order: id, run, every: every ? wait : null, rest });
    return id;
  }

  window.setTimeout = (callback, delay, ...rest) => add(callback, delay, false, rest);
  window.setInterval = (callback, delay, ...rest) => add(callback, delay, true, rest);
  window.clearTimeout = window.clearInterval = (id) => void timers.delete(id);
  window.requestAnimationFrame = (callback) => {
    const untilFrame = FRAME - ((now - START) % FRAME);
    return add(() => callback(now - START), untilFrame, false, []);
  };
  window.cancelAnimationFrame = (id) => void timers.delete(id);
  performance.now = () => now - START;
  window.Date = new Proxy(RealDate, {
    construct: (target, args, asked) =>
      Reflect.construct(target, args.length ? args : [now], asked === window.Date ? target : asked),
    apply: () => new RealDate(now).toString(),
    get: (target, key) => (key === 'now' ? () => now : Reflect.get(target, key)),
  });

  let state = 0x9e3779b9; // mulberry32
  Math.random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };

  function firstDue(until) {
    let first = null;
    for (const [id, timer] of timers) {
      if (timer.at > until) continue;
      if (first === null || timer.at < first.timer.at ||
          (timer.at === first.timer.at && timer.order < first.timer.order)) {
        first = { id, timer };
      }
    }
    return first;
  }

  window.__openenv = {
    // Have random numbers begin elsewhere.
    seed: (number) => {
      state = number | 0;
    },

    // Move the page's time on, running what falls due in order.
    advance: async (milliseconds) => {
      const until = now + milliseconds;
      for (let count = 0; count < MOST_CALLBACKS; count++) {
        const due = firstDue(until);
        if (due === null) break;
        const { id, timer } = due;
        now = Math.max(now, timer.at);
        if (timer.every === null) {
          timers.delete(id);
        } else {
          timer.at = now + timer.every;
          timer.order = ++lastId;
        }
        try {
          timer.run(...timer.rest);
        } catch (error) {
          console.error(error);
        }
        await null; // promises that the callback settled go first
      }
      now = until;
    },

    // Wait for two frames of the browser itself: it sends scroll events with them.
    settle: () => new Promise((done) => realFrame(() => realFrame(() => done()))),
  };
})();
