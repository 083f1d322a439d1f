// The page: sources, filters, the table of episodes, and which view is shown.

import { openData, Index } from "./data.js";
import { debounce, fill, formatCount, formatNumber, formatSeconds, h } from "./dom.js";
import { episodeView } from "./record.js";
import { compare, groups, overview } from "./views.js";

const REFRESH = 2000;
const ROW_HEIGHT = 32;
const FILTERS = ["text", "source", "status", "error", "task", "leastReturn", "mostReturn", "leastLength", "mostLength"];
const COLUMNS = [
  ["index", "#", "number", (facts) => facts.index],
  ["source", "run", "name", (facts) => facts.source],
  ["task", "task", "task", (facts) => (facts.task === null ? "–" : `${facts.task}${facts.member === null ? "" : `/${facts.member}`}`)],
  ["status", "outcome", "outcome", (facts) => h("span", { class: `status status-${facts.status}` }, facts.status ?? "unknown")],
  ["return", "return", "number", (facts) => formatNumber(facts.return)],
  ["steps", "length", "number", (facts) => formatCount(facts.steps)],
  ["mistakes", "mistakes", "number", (facts) => facts.mistakes || ""],
  ["calls", "calls", "number", (facts) => facts.calls || ""],
  ["tokens", "tokens", "number", (facts) => (facts.tokens ? formatCount(facts.tokens) : "")],
  ["duration", "duration", "number", (facts) => formatSeconds(facts.duration)],
  ["error_code", "error", "error", (facts) => facts.error_code ?? ""],
];

class App {
  constructor(data) {
    this.data = data;
    this.sources = [];
    this.axis = "order";
    this.groupOrder = "spread";
    this.pairNumbers = [0, 1];
    this.filters = Object.fromEntries(FILTERS.map((name) => [name, ""]));
    this.order = { name: "index", falling: false };
    this.selection = []; // [{source number, row}], as two typed arrays
    this.bodies = new Map();
    this.tab = null;
    this.grewAt = 0;
  }

  async start() {
    this.main = document.getElementById("main");
    await this.#read();
    this.#bar();
    this.#themes();
    window.addEventListener("hashchange", () => this.show());
    window.addEventListener("resize", debounce(() => this.show(), 150));
    document.addEventListener("keydown", (event) => this.#key(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
    this.select();
    this.show();
    document.documentElement.dataset.ready = "true";
    if (!this.data.isFile) this.#watch();
  }

  // -- data ------------------------------------------------------------------------------------

  async #read() {
    const described = await this.data.sources();
    let isNew = described.length !== this.sources.length;
    for (const [number, each] of described.entries()) {
      const source = this.sources[number] ?? { index: new Index(), described: each };
      isNew ||= JSON.stringify(source.described) !== JSON.stringify(each);
      source.described = each;
      this.sources[number] = source;
      if (this.data.isFile && source.index.epoch >= 0) continue;
      if (source.index.take(await this.data.index(number, source.index))) {
        isNew = true;
        if (this.hasShown) this.grewAt = Date.now();
      }
    }
    this.#notices();
    return isNew;
  }

  #watch() {
    const again = async () => {
      let wait = REFRESH;
      if (!document.hidden) {
        try {
          const isNew = await this.#read();
          document.body.classList.remove("gone");
          if (this.sources.some((source) => !source.described.is_current)) wait = 300;
          if (isNew) {
            this.#choices();
            this.select();
            this.show({ isRefresh: true });
          }
        } catch {
          document.body.classList.add("gone");
        }
        this.#state();
      }
      setTimeout(again, wait);
    };
    this.#state();
    setTimeout(again, this.sources.every((source) => source.described.is_current) ? REFRESH : 100);
  }

  #state() {
    const place = document.getElementById("state");
    const isReading = this.sources.some((source) => !source.described.is_current);
    const isGone = document.body.classList.contains("gone");
    place.textContent = isGone ? "the viewer was ended" : isReading ? "reading …" : Date.now() - this.grewAt < 10_000 ? "growing" : "watching";
    place.className = `badge ${isGone ? "bad" : isReading ? "busy" : ""}`;
  }

  #notices() {
    const said = this.sources.flatMap((source) => source.described.notices.map((text) => (this.sources.length > 1 ? `${source.described.name}: ${text}` : text)));
    const place = document.getElementById("notices");
    place.hidden = !said.length;
    fill(place, said.slice(0, 20).map((text) => h("p", { class: "notice" }, text)));
  }

  facts(number, row) {
    const { index, described } = this.sources[number];
    const found = { source: described.name };
    for (const name of Object.keys(index.columns)) found[name] = name in index.tables ? index.text(name, row) : index.number(name, row);
    return found;
  }

  // -- filters ---------------------------------------------------------------------------------

  #bar() {
    const controls = {};
    const changed = debounce(() => { this.#take(controls); }, 80);
    const input = (name, label, properties = {}) => (controls[name] = h("input", { id: `filter-${name}`, type: "text", inputmode: "text", placeholder: label, "aria-label": label, autocomplete: "off", oninput: changed, ...properties }));
    const select = (name, label) => (controls[name] = h("select", { id: `filter-${name}`, "aria-label": label, onchange: () => this.#take(controls) }));
    this.controls = controls;
    this.counted = h("output", { class: "counted" });
    fill(document.getElementById("filters"), 
      input("text", "search everything", { type: "search", class: "search" }),
      this.sources.length > 1 ? select("source", "run") : null,
      select("status", "outcome"), select("error", "error"),
      input("task", "task"),
      h("span", { class: "range" }, "return", input("leastReturn", "least return", { inputmode: "decimal", placeholder: "min" }), "–", input("mostReturn", "most return", { inputmode: "decimal", placeholder: "max" })),
      h("span", { class: "range" }, "length", input("leastLength", "least length", { inputmode: "numeric", placeholder: "min" }), "–", input("mostLength", "most length", { inputmode: "numeric", placeholder: "max" })),
      h("button", { type: "button", onclick: () => this.filter({}) }, "Reset"), this.counted);
    this.#choices();
  }

  #choices() {
    const { controls, sources, filters } = this;
    const offer = (name, label, texts) => {
      if (!controls[name]) return;
      fill(controls[name], h("option", { value: "" }, label), texts.map(([value, text]) => h("option", { value, selected: value === filters[name] }, text)));
    };
    const texts = (name) => [...new Set(sources.flatMap((source) => source.index.tables[name] ?? []))].sort().map((text) => [text, text]);
    offer("source", "every run", sources.map((source, number) => [String(number), source.described.name]));
    offer("status", "every outcome", texts("status"));
    offer("error", "every error", texts("error_code"));
  }

  #take(controls) {
    const before = this.filters.text;
    for (const name of FILTERS) if (controls[name]) this.filters[name] = controls[name].value.trim();
    if (this.filters.text !== before) this.#searchRecords(this.filters.text);
    this.select();
    this.show({ isRefresh: true });
  }

  // Set filters, all others are taken away; go to a view if one is named.
  filter(wanted, view = null) {
    for (const name of FILTERS) {
      this.filters[name] = wanted[name] ?? "";
      if (this.controls[name]) this.controls[name].value = this.filters[name];
    }
    this.bodies.clear();
    this.select();
    if (view) this.go(view);
    this.show();
  }

  #searchRecords = debounce(async (text) => {
    this.bodies.clear();
    if (text.length < 2) return;
    this.isSearching = true;
    this.#count();
    const parts = await Promise.all(this.sources.map((_, number) => this.data.search(number, text).catch(() => ({ rows: [], whole: false }))));
    if (text !== this.filters.text) return;
    this.isSearching = false;
    this.isWhole = parts.every((part) => part.whole);
    parts.forEach((part, number) => this.bodies.set(number, new Set(part.rows)));
    this.select();
    this.show({ isRefresh: true });
  }, 300);

  // Find the rows that the filters leave, source by source, and sort them.
  select() {
    const began = performance.now();
    const { filters } = this;
    const number = (text, none) => (text === "" || Number.isNaN(Number(text)) ? none : Number(text));
    const least = number(filters.leastReturn, -Infinity), most = number(filters.mostReturn, Infinity);
    const shortest = number(filters.leastLength, -1), longest = number(filters.mostLength, Infinity);
    const boundsReturn = least !== -Infinity || most !== Infinity;
    const boundsLength = shortest !== -1 || longest !== Infinity;
    const text = filters.text.toLowerCase(), task = filters.task.toLowerCase();
    this.selected = this.sources.map((source, at) => {
      if (filters.source !== "" && Number(filters.source) !== at) return new Uint32Array(0);
      const { columns, tables, rows } = source.index;
      // A text is looked for once in each text of a table, and then in numbers.
      const codes = (name, fits) => { const found = new Uint8Array(tables[name].length); tables[name].forEach((each, code) => { if (fits(each)) found[code] = 1; }); return found; };
      const ofStatus = filters.status && codes("status", (each) => each === filters.status);
      const ofError = filters.error && codes("error_code", (each) => each === filters.error);
      const ofTask = task && codes("task", (each) => each.toLowerCase().includes(task));
      const inText = text && ["task", "error", "error_code", "status"].map((name) => [columns[name], codes(name, (each) => each.toLowerCase().includes(text))]);
      const inBodies = this.bodies.get(at);
      const kept = new Uint32Array(rows);
      let count = 0;
      for (let row = 0; row < rows; row += 1) {
        if (ofStatus && !ofStatus[columns.status[row]]) continue;
        if (ofError && !ofError[columns.error_code[row]]) continue;
        if (ofTask && !ofTask[columns.task[row]]) continue;
        if (boundsReturn && !(columns.return[row] >= least && columns.return[row] <= most)) continue;
        if (boundsLength && !(columns.steps[row] >= shortest && columns.steps[row] <= longest)) continue;
        if (text && !inText.some(([column, found]) => found[column[row]]) && !(inBodies && inBodies.has(row))) continue;
        kept[count] = row;
        count += 1;
      }
      return kept.subarray(0, count);
    });
    this.#sort();
    this.#count();
    this.filterMilliseconds = performance.now() - began;
  }

  #sort() {
    const total = this.selected.reduce((sum, rows) => sum + rows.length, 0);
    const places = new Float64Array(total); // source and row in one number
    const keys = new Float64Array(total);
    const { name, falling } = this.order;
    let at = 0;
    this.selected.forEach((rows, number) => {
      const { columns, tables } = this.sources[number].index;
      const ranks = name in tables ? ranked(tables[name]) : null;
      for (const row of rows) {
        places[at] = number * 4294967296 + row;
        const value = name === "source" ? number : columns[name][row];
        keys[at] = ranks ? ranks[value] ?? -1 : value;
        at += 1;
      }
    });
    let isSorted = !falling;
    for (let each = 1; isSorted && each < total; each += 1) isSorted = keys[each - 1] <= keys[each];
    if (isSorted) { this.ordered = places; return; }
    const order = new Uint32Array(total).map((_, each) => each);
    const sign = falling ? -1 : 1;
    order.sort((one, other) => {
      const left = keys[one], right = keys[other];
      if (left === right) return one - other;
      if (Number.isNaN(left) || Number.isNaN(right)) return Number.isNaN(left) - Number.isNaN(right) || one - other;
      return left < right ? -sign : sign;
    });
    this.ordered = new Float64Array(total).map((_, each) => places[order[each]]);
  }

  #count() {
    const all = this.sources.reduce((sum, source) => sum + source.index.rows, 0);
    this.counted.textContent = `${formatCount(this.ordered.length)} of ${formatCount(all)}${this.isSearching ? ", searching records …" : this.filters.text && this.bodies.size && !this.isWhole ? ", not all records were searched" : ""}`;
  }

  chosen() {
    return this.sources.map((source, number) => ({ source, number, rows: this.selected[number] })).filter((each) => this.filters.source === "" || Number(this.filters.source) === each.number);
  }

  pair() {
    return this.pairNumbers.map((number) => ({ source: this.sources[number], number, rows: this.selected[number] }));
  }

  setPair(at, number) { this.pairNumbers[at] = number; this.show(); }

  setAxis(axis) { this.axis = axis; this.show(); }

  setGroupOrder(name) { this.groupOrder = name; this.show(); }

  // -- views -----------------------------------------------------------------------------------

  go(place) {
    if (location.hash === `#${place}`) this.show();
    else location.hash = place;
  }

  show({ isRefresh = false } = {}) {
    const [name, ...rest] = (location.hash.slice(1) || "overview").split("/");
    const view = ["overview", "episodes", "groups", "compare"].includes(name) ? name : "overview";
    for (const link of document.querySelectorAll("#views a")) {
      if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.querySelector('#views a[href="#compare"]').hidden = this.sources.length < 2;
    this.hasShown = true;
    if (view === "episodes") return this.#episodes(rest, isRefresh);
    this.table = null;
    if (isRefresh && view === "groups" && rest.length) return undefined;
    const opened = rest.length ? decodeURIComponent(rest.join("/")) : null;
    const made = view === "groups" ? groups(this, opened) : view === "compare" && this.sources.length > 1 ? compare(this) : overview(this);
    fill(this.main, made.view);
    made.draw();
    return undefined;
  }

  #episodes([source, row], isRefresh) {
    const isOpen = source !== undefined && row !== undefined && this.sources[source] && Number(row) < this.sources[source].index.rows;
    const place = isOpen ? Number(source) * 4294967296 + Number(row) : null;
    if (!this.table || !this.table.root.isConnected) {
      this.table = new EpisodeTable(this);
      this.detail = h("div", { class: "detail" });
      this.opened = null;
      this.split = h("div", { class: "split" }, this.table.root, this.detail);
      fill(this.main, this.split);
    }
    this.split.classList.toggle("open", isOpen);
    this.table.show(place);
    if (!isOpen) {
      this.opened = null;
      fill(this.detail, h("p", { class: "empty" }, "Choose an episode: click on it, or use the arrow keys and Enter."));
    } else if (this.opened !== place) {
      this.opened = place;
      fill(this.detail, episodeView(this.data, Number(source), Number(row), this.facts(source, Number(row)), { close: () => this.go("episodes"), tab: this.tab, onTab: (name) => { this.tab = name; } }));
      this.detail.scrollTop = 0;
    } else if (!isRefresh) {
      this.table.root.focus();
    }
  }

  open(place) {
    const source = Math.floor(place / 4294967296);
    this.go(`episodes/${source}/${place - source * 4294967296}`);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isTyping = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
    if (event.key === "/" && !isTyping) {
      event.preventDefault();
      this.controls.text.focus();
    } else if (event.key === "Escape" && this.table && this.split.classList.contains("open") && !isTyping) {
      this.go("episodes");
      this.table.root.focus();
    } else if (this.table && !isTyping && ["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End", "Enter"].includes(event.key) && !(event.target instanceof HTMLButtonElement) && !event.target.closest(".detail")) {
      event.preventDefault();
      this.table.move(event.key);
    }
  }

  #themes() {
    document.getElementById("theme").addEventListener("click", () => {
      const root = document.documentElement;
      const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = isDark ? "light" : "dark";
      this.show({ isRefresh: true });
    });
  }
}

// Places of a table's texts in the order of an alphabet, in which numbers are numbers.
function ranked(texts) {
  const collator = new Intl.Collator("en", { numeric: true });
  const order = texts.map((_, code) => code).sort((one, other) => collator.compare(texts[one], texts[other]));
  const ranks = new Float64Array(texts.length);
  order.forEach((code, rank) => { ranks[code] = rank; });
  return ranks;
}

// A table of which only the rows that can be seen are there.
class EpisodeTable {
  constructor(app) {
    this.app = app;
    this.current = 0;
    this.columns = COLUMNS.filter(([name]) => (name !== "source" || app.sources.length > 1) && (!["calls", "tokens", "mistakes", "error_code"].includes(name) || app.sources.some((source) => source.index.columns[name]?.some((value) => value > 0 || (name === "error_code" && value === 0)))));
    this.body = h("tbody", {});
    this.heads = this.columns.map(([name, text, kind]) => h("th", { scope: "col", class: kind, "aria-sort": "none" }, h("button", { type: "button", tabindex: -1, onclick: () => this.sort(name) }, text)));
    this.grid = h("table", { role: "grid", "aria-label": "episodes" }, h("thead", {}, h("tr", {}, this.heads)), this.body);
    this.root = h("div", { class: "list", tabindex: 0, role: "group", "aria-label": "episodes; arrow keys choose, Enter opens" }, this.grid);
    this.root.addEventListener("scroll", () => this.#draw(), { passive: true });
  }

  sort(name) {
    const { order } = this.app;
    this.app.order = { name, falling: order.name === name ? !order.falling : ["return", "mistakes", "duration", "tokens", "calls"].includes(name) };
    this.app.select();
    this.root.scrollTop = 0;
    this.#draw();
  }

  // Draw what can be seen; `opened` is the place of the episode that is open.
  show(opened) {
    if (opened !== null && opened !== this.opened) {
      const at = this.app.ordered.indexOf(opened);
      if (at >= 0) this.current = at;
      this.#reveal();
    }
    this.opened = opened;
    this.#draw();
  }

  move(key) {
    const page = Math.max(1, Math.floor(this.root.clientHeight / ROW_HEIGHT) - 2);
    const last = this.app.ordered.length - 1;
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[key];
    if (last < 0) return;
    if (by !== undefined) this.current = Math.max(0, Math.min(last, this.current + by));
    this.#reveal();
    if (key === "Enter" || this.opened !== null) this.app.open(this.app.ordered[this.current]);
    else this.#draw();
  }

  #reveal() {
    const top = this.current * ROW_HEIGHT;
    const height = this.root.clientHeight - 2 * ROW_HEIGHT;
    if (top < this.root.scrollTop) this.root.scrollTop = top;
    else if (top > this.root.scrollTop + height) this.root.scrollTop = top - height;
  }

  #draw() {
    const { ordered, order } = this.app;
    const total = ordered.length;
    this.current = Math.max(0, Math.min(this.current, total - 1));
    this.heads.forEach((element, at) => element.setAttribute("aria-sort", this.columns[at][0] === order.name ? (order.falling ? "descending" : "ascending") : "none"));
    this.grid.setAttribute("aria-rowcount", total + 1);
    const seen = Math.ceil((this.root.clientHeight || 600) / ROW_HEIGHT) + 10;
    const first = Math.max(0, Math.min(Math.floor(this.root.scrollTop / ROW_HEIGHT) - 5, total - seen));
    const last = Math.min(total, first + seen);
    const rows = [];
    const space = (count) => { const row = h("tr", { "aria-hidden": "true", class: "space" }, h("td", { colspan: this.columns.length })); row.style.height = `${count * ROW_HEIGHT}px`; return row; };
    if (first > 0) rows.push(space(first));
    for (let at = first; at < last; at += 1) {
      const place = ordered[at];
      const number = Math.floor(place / 4294967296);
      const facts = this.app.facts(number, place - number * 4294967296);
      rows.push(h("tr", { "aria-rowindex": at + 2, "aria-selected": place === this.opened ? "true" : "false", class: at === this.current ? "current" : "", onclick: () => { this.current = at; this.app.open(place); } }, this.columns.map(([, , kind, shown]) => h("td", { class: kind }, shown(facts)))));
    }
    if (last < total) rows.push(space(total - last));
    if (!total) rows.push(h("tr", {}, h("td", { colspan: this.columns.length, class: "empty" }, "No episode is left: reset the filters.")));
    fill(this.body, rows);
  }
}

const app = new App(openData());
globalThis.viewer = app; // for whoever looks at it in the browser's console, and for measurements
app.start().catch((error) => fill(document.getElementById("main"), h("p", { class: "notice" }, `The episodes cannot be shown: ${error.message}`)));
