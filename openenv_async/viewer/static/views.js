// The views of many episodes: overview, groups side by side, two sources compared.

import { chart, seriesColour, timingBar, PARTS } from "./charts.js";
import { formatCount, formatNumber, formatSeconds, formatShare, h, svg } from "./dom.js";
import { episodeView } from "./record.js";

const ENDED = new Set(["completed", "truncated"]);
const MOST_LISTED = 200;

function mean(values) {
  return values.length ? values.reduce((total, each) => total + each, 0) / values.length : null;
}

function knownOf(index, name, rows) {
  const values = [];
  for (const row of rows) {
    const value = index.number(name, row);
    if (value !== null && Number.isFinite(value)) values.push(value);
  }
  return values;
}

// Numbers of a selection of one source.
export function numbersOf(source, rows) {
  const { index } = source;
  const returns = knownOf(index, "return", rows);
  const average = mean(returns);
  const deviation = returns.length > 1 ? Math.sqrt(returns.reduce((total, each) => total + (each - average) ** 2, 0) / (returns.length - 1)) : null;
  const statuses = new Map();
  for (const row of rows) {
    const status = index.text("status", row) ?? "unknown";
    statuses.set(status, (statuses.get(status) || 0) + 1);
  }
  const failed = [...statuses].reduce((total, [status, count]) => total + (ENDED.has(status) || status === "unknown" ? 0 : count), 0);
  const sum = (name) => knownOf(index, name, rows).reduce((total, each) => total + each, 0);
  return {
    episodes: rows.length,
    average,
    deviation,
    positive: returns.length ? returns.filter((each) => each > 0).length / returns.length : null,
    length: mean(knownOf(index, "steps", rows)),
    duration: mean(knownOf(index, "duration", rows)),
    mistakes: rows.length ? sum("mistakes") / rows.length : null,
    failed: rows.length ? failed / rows.length : null,
    calls: sum("calls"),
    tokens: sum("tokens"),
    statuses,
  };
}

// -- overview ----------------------------------------------------------------------------------

const ROWS = [
  ["episodes", "episodes", formatCount],
  ["average", "mean return", formatNumber],
  ["deviation", "standard deviation", formatNumber],
  ["positive", "return above 0", formatShare],
  ["length", "mean length", formatNumber],
  ["duration", "mean duration", formatSeconds],
  ["mistakes", "mistakes an episode", formatNumber],
  ["failed", "failed", formatShare],
  ["calls", "calls of models", formatCount],
  ["tokens", "sampled tokens", formatCount],
];

function tiles(app) {
  return app.chosen().map(({ source, rows, number }) => {
    const numbers = numbersOf(source, rows);
    const { described } = source;
    const wanted = described.facts.wanted;
    const shown = ROWS.slice(1).filter(([name]) => numbers[name] !== null && !(["calls", "tokens"].includes(name) && !numbers[name]));
    return h("section", { class: "card source" }, h("h2", {}, dot(number), described.name, h("span", { class: "quiet" }, ` ${described.kind}`)),
      h("div", { class: "tiles" }, h("div", {}, h("b", {}, formatCount(numbers.episodes)), h("span", {}, numbers.episodes === source.index.rows ? (wanted ? `of ${formatCount(wanted)} episodes` : "episodes") : `of ${formatCount(source.index.rows)} episodes`)), shown.map(([name, text, format]) => h("div", {}, h("b", {}, format(numbers[name])), h("span", {}, text)))),
      statusBar(app, source, numbers), timings(source, rows));
  });
}

function dot(number) {
  const mark = h("i", { class: "dot" });
  mark.style.background = seriesColour(number);
  return mark;
}

function statusBar(app, source, numbers) {
  const ordered = [...numbers.statuses].sort((one, other) => other[1] - one[1]);
  const bar = h("div", { class: "bar", role: "img", "aria-label": `outcomes: ${ordered.map(([status, count]) => `${status} ${count}`).join(", ")}` });
  for (const [status, count] of ordered) {
    const part = h("i", { class: `status-${status}`, title: `${status}: ${formatCount(count)}` });
    part.style.flexGrow = count;
    bar.append(part);
  }
  return h("div", { class: "timing" }, h("h3", {}, "Outcomes"), bar, h("div", { class: "legend" }, ordered.map(([status, count]) => h("button", { type: "button", class: "link", onclick: () => app.filter({ status }) }, h("i", { class: `status-${status}` }), status, " ", h("b", {}, formatCount(count))))));
}

function timings(source, rows) {
  const seconds = {};
  for (const [name] of PARTS) seconds[name] = knownOf(source.index, name, rows).reduce((total, each) => total + each, 0);
  const whole = knownOf(source.index, "duration", rows).reduce((total, each) => total + each, 0);
  return h("div", {}, h("h3", {}, "Time of all episodes"), timingBar(seconds, whole, "time"));
}

function failures(app) {
  const found = new Map();
  for (const { source, rows, number } of app.chosen()) {
    for (const row of rows) {
      const status = source.index.text("status", row);
      if (status === null || ENDED.has(status)) continue;
      const code = source.index.text("error_code", row) ?? "";
      const key = `${number} ${status} ${code}`;
      if (!found.has(key)) found.set(key, { number, source, row, status, code, error: source.index.text("error", row), count: 0 });
      found.get(key).count += 1;
    }
  }
  const ordered = [...found.values()].sort((one, other) => other.count - one.count).slice(0, 20);
  if (!ordered.length) return null;
  const rows = ordered.map((each) => h("tr", {},
    h("td", { class: "number" }, formatCount(each.count)),
    h("td", {}, app.sources.length > 1 ? dot(each.number) : null, h("span", { class: `status status-${each.status}` }, each.status)),
    h("td", {}, h("code", {}, each.code || "–")),
    h("td", { class: "wide" }, each.error ?? ""),
    h("td", {}, h("button", { type: "button", onclick: () => app.filter({ status: each.status, error: each.code }, "episodes") }, "show"))));
  const heads = h("tr", {}, ["episodes", "outcome", "error", "the first one said", ""].map(head));
  const table = h("table", { class: "plain" }, h("thead", {}, heads), h("tbody", {}, rows));
  return h("section", { class: "card" }, h("h2", {}, "Failures by reason"), scrolled("failures", table));
}

function head(name) {
  return name ? h("th", { scope: "col" }, name) : h("td", {});
}

function scrolled(label, table) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, table);
}

export function overview(app) {
  const chosen = app.chosen();
  const axis = app.axis;
  const x = (curve, row) => {
    if (axis === "order") return row;
    const { index } = curve.source;
    return index.number("ended_at", row) ?? index.number("started_at", row);
  };
  const options = { isTime: axis === "time" };
  const curvesOf = (value) => chosen.map(({ source, rows, number }) => ({ name: source.described.name, colour: seriesColour(number), rows, source, value: value(source.index) }));
  const failed = (index) => (row) => { const status = index.text("status", row); return status === null ? null : Number(!ENDED.has(status)); };
  const charts = [
    chart("Return", curvesOf((index) => (row) => index.number("return", row)), x, options),
    chart("Length", curvesOf((index) => (row) => index.number("steps", row)), x, options),
    chart("Mistakes", curvesOf((index) => (row) => index.number("mistakes", row)), x, { ...options, band: false }),
    chart("Failures", curvesOf(failed), x, { ...options, band: false, format: formatShare }),
  ];
  const axes = h("label", {}, "over ", h("select", { onchange: (event) => app.setAxis(event.target.value) }, ["order", "time"].map((name) => h("option", { value: name, selected: name === axis }, name === "order" ? "episodes, as they ended" : "time"))));
  const view = h("div", { class: "overview" }, h("div", { class: "columns" }, tiles(app)), h("div", { class: "heading" }, h("h2", {}, "Over the run"), axes, h("span", { class: "quiet" }, "line: mean of neighbours; band: 80 % of episodes")), h("div", { class: "charts" }, charts.map((each) => each.card)), failures(app), facts(app));
  return { view, draw: () => charts.forEach((each) => each.draw()) };
}

function facts(app) {
  return app.chosen().map(({ source, number }) => {
    const { described } = source;
    const rows = [
      ...Object.entries(described.facts).map(([name, value]) => [name, name === "created" ? new Date(value * 1000).toISOString().replace("T", " ").slice(0, 19) : typeof value === "object" ? JSON.stringify(value, null, 1) : String(value)]),
      described.lost ? ["attempts without a result", formatCount(described.lost)] : null,
      described.under_way ? ["attempts that have not ended", formatCount(described.under_way)] : null,
    ].filter(Boolean);
    return rows.length ? h("details", { class: "card" }, h("summary", {}, dot(number), `What ${described.name} is`), h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))) : null;
  });
}

// -- groups ------------------------------------------------------------------------------------

function groupsOf(app) {
  const found = new Map();
  for (const { source, rows, number } of app.chosen()) {
    for (const row of rows) {
      const group = source.index.text("group", row);
      if (group === null) continue;
      const key = `${number}/${group}`;
      if (!found.has(key)) found.set(key, { key, number, source, group, task: source.index.text("task", row), rows: [] });
      found.get(key).rows.push(row);
    }
  }
  return [...found.values()];
}

function strip(group, low, high) {
  const drawing = svg("svg", { viewBox: "0 0 160 20", class: "strip", "aria-hidden": "true" }, svg("line", { x1: 4, x2: 156, y1: 10, y2: 10 }));
  for (const value of group.returns) {
    const circle = svg("circle", { cx: 4 + (152 * (value - low)) / (high - low || 1), cy: 10, r: 4.5 });
    circle.style.fill = seriesColour(group.number);
    drawing.append(circle);
  }
  return drawing;
}

const GROUP_ORDERS = {
  spread: (one, other) => other.spread - one.spread,
  "lowest mean": (one, other) => (one.average ?? Infinity) - (other.average ?? Infinity),
  "highest mean": (one, other) => (other.average ?? -Infinity) - (one.average ?? -Infinity),
  name: (one, other) => one.group.localeCompare(other.group, "en", { numeric: true }),
};

export function groups(app, opened) {
  const all = groupsOf(app);
  const chosen = opened === null ? null : all.find((each) => each.key === opened);
  if (chosen) return { view: sideBySide(app, chosen), draw() {} };
  let low = Infinity;
  let high = -Infinity;
  for (const group of all) {
    group.returns = knownOf(group.source.index, "return", group.rows);
    group.average = mean(group.returns);
    group.spread = 0;
    if (group.returns.length) {
      let least = Infinity, most = -Infinity;
      for (const each of group.returns) { if (each < least) least = each; if (each > most) most = each; }
      group.spread = most - least;
      if (least < low) low = least;
      if (most > high) high = most;
    }
  }
  if (!all.length) return { view: h("p", { class: "empty" }, "No episode of the selection has a task or a group."), draw() {} };
  all.sort(GROUP_ORDERS[app.groupOrder]);
  const rows = all.slice(0, MOST_LISTED).map((group) => h("tr", {},
    h("td", {}, h("button", { type: "button", class: "link", onclick: () => app.go(`groups/${encodeURIComponent(group.key)}`) }, app.sources.length > 1 ? dot(group.number) : null, group.task ?? group.group), group.task !== null && group.task !== group.group ? h("span", { class: "quiet" }, ` group ${group.group}`) : null),
    h("td", { class: "number" }, group.rows.length), h("td", { class: "number" }, formatNumber(group.average)), h("td", { class: "number" }, formatNumber(group.spread)), h("td", {}, strip(group, low, high))));
  const same = all.filter((group) => group.returns.length > 1 && group.spread === 0).length;
  return {
    view: h("div", {}, h("div", { class: "heading" }, h("h2", {}, `${formatCount(all.length)} groups`), h("label", {}, "by ", h("select", { onchange: (event) => app.setGroupOrder(event.target.value) }, Object.keys(GROUP_ORDERS).map((name) => h("option", { value: name, selected: name === app.groupOrder }, name)))), h("span", { class: "quiet" }, `${formatCount(same)} of them have equal returns, and teach nothing to a policy that compares members${all.length > MOST_LISTED ? `; the first ${MOST_LISTED} are listed` : ""}`)), h("section", { class: "card" }, scrolled("groups", h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["task", "episodes", "mean return", "spread", `returns, ${formatNumber(low)} to ${formatNumber(high)}`].map(head))), h("tbody", {}, rows))))),
    draw() {},
  };
}

function sideBySide(app, group) {
  const rows = [...group.rows].sort((one, other) => (group.source.index.number("member", one) ?? one) - (group.source.index.number("member", other) ?? other));
  const most = 8;
  return h("div", {}, h("div", { class: "heading" }, h("button", { type: "button", onclick: () => app.go("groups") }, "‹ all groups"), h("h2", {}, group.task ?? group.group), h("span", { class: "quiet" }, `${rows.length} episodes${rows.length > most ? `, the first ${most} are shown` : ""}`)),
    h("div", { class: "side", tabindex: 0, role: "region", "aria-label": "episodes of the group" }, rows.slice(0, most).map((row) => h("div", { class: "card" }, episodeView(app.data, group.number, row, app.facts(group.number, row), { compact: true }), h("button", { type: "button", onclick: () => app.go(`episodes/${group.number}/${row}`) }, "open")))));
}

// -- compare -----------------------------------------------------------------------------------

function byTask(source, rows) {
  const found = new Map();
  for (const row of rows) {
    const value = source.index.number("return", row);
    if (value === null || !Number.isFinite(value)) continue;
    const task = source.index.text("task", row) ?? `#${source.index.text("group", row) ?? source.index.number("index", row)}`;
    if (!found.has(task)) found.set(task, []);
    found.get(task).push(value);
  }
  return found;
}

function difference(one, other, format) {
  if (one === null || other === null) return "–";
  const gap = other - one;
  return `${gap > 0 ? "+" : gap < 0 ? "−" : "±"}${format(Math.abs(gap))}`;
}

export function compare(app) {
  const [a, b] = app.pair();
  const name = (side) => side.source.described.name;
  const choice = (at) => h("select", { "aria-label": at ? "second run" : "first run", onchange: (event) => app.setPair(at, Number(event.target.value)) }, app.sources.map((source, number) => h("option", { value: number, selected: number === (at ? b : a).number }, source.described.name)));
  const one = numbersOf(a.source, a.rows);
  const two = numbersOf(b.source, b.rows);
  const table = h("table", { class: "plain" }, h("thead", {}, h("tr", {}, h("td", {}), [a, b].map((side) => h("th", { scope: "col" }, dot(side.number), name(side))), head("difference"))), h("tbody", {}, ROWS.filter(([key]) => one[key] || two[key]).map(([key, text, format]) => h("tr", {}, h("th", { scope: "row" }, text), h("td", { class: "number" }, format(one[key])), h("td", { class: "number" }, format(two[key])), h("td", { class: "number" }, difference(one[key], two[key], format))))));
  const first = byTask(a.source, a.rows);
  const second = byTask(b.source, b.rows);
  const pairs = [];
  for (const [task, values] of first) {
    if (second.has(task)) pairs.push({ task, one: mean(values), two: mean(second.get(task)) });
  }
  const wins = { one: 0, same: 0, two: 0 };
  for (const pair of pairs) {
    pair.gap = pair.two - pair.one;
    wins[Math.abs(pair.gap) < 1e-9 ? "same" : pair.gap > 0 ? "two" : "one"] += 1;
  }
  pairs.sort((left, right) => Math.abs(right.gap) - Math.abs(left.gap));
  const bar = h("div", { class: "bar", role: "img", "aria-label": `${name(a)} is better on ${wins.one} tasks, ${name(b)} on ${wins.two}, equal on ${wins.same}` });
  for (const [key, tone] of [["one", seriesColour(a.number)], ["same", "var(--line-strong)"], ["two", seriesColour(b.number)]]) {
    const part = h("i", {});
    part.style.flexGrow = wins[key];
    part.style.background = tone;
    bar.append(part);
  }
  const x = (curve, row) => row;
  const curves = [a, b].map(({ source, rows, number }) => ({ name: source.described.name, colour: seriesColour(number), rows, source, value: (row) => source.index.number("return", row) }));
  const returns = chart("Return", curves, x);
  const lengths = chart("Length", curves.map((curve) => ({ ...curve, value: (row) => curve.source.index.number("steps", row) })), x);
  const onlyOne = first.size - pairs.length;
  const onlyTwo = second.size - pairs.length;
  return {
    view: h("div", {}, h("div", { class: "heading" }, h("h2", {}, "Compare"), choice(0), " with ", choice(1)), h("div", { class: "charts" }, returns.card, lengths.card), h("div", { class: "columns" }, h("section", { class: "card" }, h("h2", {}, "Differences"), scrolled("differences", table)), h("section", { class: "card" }, h("h2", {}, "Tasks of both"), h("div", { class: "timing" }, bar, h("ul", { class: "legend" }, h("li", {}, dot(a.number), `${name(a)} better `, h("b", {}, formatCount(wins.one))), h("li", {}, "equal ", h("b", {}, formatCount(wins.same))), h("li", {}, dot(b.number), `${name(b)} better `, h("b", {}, formatCount(wins.two))))), onlyOne || onlyTwo ? h("p", { class: "quiet" }, `${formatCount(onlyOne)} tasks are of ${name(a)} alone, ${formatCount(onlyTwo)} of ${name(b)}.`) : null, scrolled("tasks", h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["task", name(a), name(b), "difference"].map(head))), h("tbody", {}, pairs.slice(0, MOST_LISTED).map((pair) => h("tr", {}, h("td", {}, h("button", { type: "button", class: "link", onclick: () => app.filter({ task: pair.task }, "episodes") }, pair.task)), h("td", { class: "number" }, formatNumber(pair.one)), h("td", { class: "number" }, formatNumber(pair.two)), h("td", { class: `number ${pair.gap > 0 ? "up" : pair.gap < 0 ? "down" : ""}` }, difference(pair.one, pair.two, formatNumber)))))))))),
    draw: () => { returns.draw(); lengths.draw(); },
  };
}
