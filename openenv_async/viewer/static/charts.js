// Curves of many episodes in a few hundred points, by uPlot, and bars of parts.

import { formatNumber, formatSeconds, formatShare, h } from "./dom.js";

const MOST_POINTS = 240;
const IN_POINT = 12; // episodes that make a point, where there are enough

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function seriesColour(number) {
  return colour(`--series-${number % 6}`);
}

function quantile(ordered, share) {
  return ordered[Math.min(ordered.length - 1, Math.floor(share * ordered.length))];
}

// Join rows into buckets: x, mean, and the range in which 80 % are.
function bucketed(rows, x, value, from, to) {
  const count = Math.max(24, Math.min(MOST_POINTS, Math.ceil(rows.length / IN_POINT)));
  const width = (to - from) / count || 1;
  const buckets = new Map();
  for (const row of rows) {
    const place = x(row);
    const number = value(row);
    if (place === null || Number.isNaN(place) || number === null || !Number.isFinite(number)) continue;
    const at = Math.min(count - 1, Math.floor((place - from) / width));
    let bucket = buckets.get(at);
    if (!bucket) buckets.set(at, (bucket = { x: 0, values: [] }));
    bucket.x += place;
    bucket.values.push(number);
  }
  return [...buckets.entries()]
    .sort((one, other) => one[0] - other[0])
    .map(([, { x: sum, values }]) => {
      const ordered = Float64Array.from(values).sort();
      return {
        x: sum / values.length,
        mean: values.reduce((total, each) => total + each, 0) / values.length,
        low: quantile(ordered, 0.1),
        high: quantile(ordered, 0.9),
      };
    });
}

function smoothed(points) {
  const reach = Math.max(1, Math.round(points.length / 24));
  return points.map((_, at) => {
    const near = points.slice(Math.max(0, at - reach), at + reach + 1);
    return near.reduce((total, each) => total + each.mean, 0) / near.length;
  });
}

function joinedTables(tables) {
  return tables.length === 1 ? tables[0] : uPlot.join(tables);
}

// One chart: title, a curve for each group of rows.
// curves: [{name, colour, rows, value}], x: row -> number of the curve, isTime: x is Unix time.
export function chart(title, curves, x, { isTime = false, format = formatNumber, band = true } = {}) {
  let from = Infinity;
  let to = -Infinity;
  curves.forEach((curve) => {
    for (const row of curve.rows) {
      const place = x(curve, row);
      if (place === null || Number.isNaN(place)) continue;
      if (place < from) from = place;
      if (place > to) to = place;
    }
  });
  const tables = [];
  const series = [{}];
  const bands = [];
  const said = [];
  for (const curve of curves) {
    const points = bucketed(curve.rows, (row) => x(curve, row), curve.value, from, to);
    if (!points.length) continue;
    const line = smoothed(points);
    tables.push([
      points.map((each) => each.x),
      line,
      points.map((each) => each.mean),
      points.map((each) => (band ? each.high : null)),
      points.map((each) => (band ? each.low : null)),
    ]);
    const first = series.length;
    const tone = curve.colour;
    series.push(
      { label: curve.name, stroke: tone, width: 2, points: { show: false }, spanGaps: true },
      { stroke: "transparent", points: { show: points.length < 80, size: 4, fill: tone, stroke: tone } },
      { stroke: "transparent", points: { show: false }, spanGaps: true },
      { stroke: "transparent", points: { show: false }, spanGaps: true },
    );
    if (band) bands.push({ series: [first + 2, first + 3], fill: `${tone}26` });
    said.push(`${curve.name}: from ${format(line[0])} to ${format(line.at(-1))}`);
  }
  const place = h("div", { class: "plot", role: "img", "aria-label": `${title}. ${said.join("; ")}` });
  const last = said.length === 1 ? h("span", { class: "quiet" }, said[0].replace(/^.*: from/, "from")) : null;
  const card = h("section", { class: "card chart" }, h("h3", {}, title, " ", last), place);
  if (!tables.length) {
    place.append(h("p", { class: "quiet" }, "Nothing is known of it."));
    return { card, draw() {} };
  }
  const data = joinedTables(tables);
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const draw = () => {
    const width = place.clientWidth;
    if (!width) return;
    place.textContent = "";
    new uPlot(
      {
        width,
        height: 176,
        legend: { show: false },
        cursor: { show: false },
        scales: { x: { time: isTime }, y: { range: (_, low, high) => spread(low, high) } },
        axes: [{ ...axis, size: 26, gap: 2 }, { ...axis, gap: 4, size: 48, values: (_, values) => values.map((value) => format(value)) }],
        series,
        bands,
      },
      data,
      place,
    );
  };
  return { card, draw };
}

function spread(low, high) {
  if (low === null || high === null) return [0, 1];
  const gap = (high - low || Math.abs(high) || 1) * 0.06;
  return [low >= 0 && low - gap < 0 ? 0 : low - gap, high + gap];
}

export const PARTS = [
  ["queue", "queue"],
  ["environment", "environment"],
  ["codec", "codec"],
  ["model", "model"],
  ["policy", "policy"],
];

// Seconds by part as one line; what is left of the whole is "other".
export function timingBar(seconds, whole, label) {
  const known = PARTS.map(([name, text]) => [name, text, seconds[name] || 0]);
  // A policy's seconds have those of its queue and model in them.
  const policy = known.find(([name]) => name === "policy");
  policy[2] = Math.max(0, policy[2] - (seconds.model || 0) - (seconds.queue || 0));
  const sum = known.reduce((total, each) => total + each[2], 0);
  if (!(sum > 0)) return h("p", { class: "quiet" }, `${label}: no timings were recorded`);
  const total = Math.max(sum, whole || 0);
  if (total > sum) known.push(["other", "other", total - sum]);
  const bar = h("div", { class: "bar", role: "img", "aria-label": `${label}: ${known.map(([, text, value]) => `${text} ${formatSeconds(value)}`).join(", ")}` });
  const legend = h("ul", { class: "legend" });
  for (const [name, text, value] of known) {
    if (!(value > 0)) continue;
    const part = h("i", { class: `part-${name}`, title: `${text}: ${formatSeconds(value)}` });
    part.style.flexGrow = value / total;
    bar.append(part);
    legend.append(h("li", {}, h("i", { class: `part-${name}` }), text, " ", h("b", {}, formatSeconds(value)), h("span", { class: "quiet" }, ` ${formatShare(value / total)}`)));
  }
  return h("div", { class: "timing" }, bar, legend);
}
