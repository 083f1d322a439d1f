// Elements and texts. All that a file says becomes text nodes: nothing of it is parsed as HTML.

export function h(name, properties, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

export function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

export function fill(element, ...children) {
  element.textContent = "";
  add(element, children);
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(name, properties, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, String(value));
  add(element, children);
  return element;
}

export function formatCount(value) {
  return value === null || Number.isNaN(value) ? "–" : Math.round(value).toLocaleString("en");
}

export function formatNumber(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumFractionDigits: size >= 100 ? 1 : digits });
}

export function formatShare(value) {
  if (value === null || Number.isNaN(value)) return "–";
  return `${(100 * value).toLocaleString("en", { maximumFractionDigits: 1 })} %`;
}

export function formatSeconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0 s";
  if (value < 1e-3) return `${formatNumber(value * 1e6, 0)} µs`;
  if (value < 1) return `${formatNumber(value * 1e3, 1)} ms`;
  if (value < 120) return `${formatNumber(value, 2)} s`;
  if (value < 7200) return `${formatNumber(value / 60, 1)} min`;
  return `${formatNumber(value / 3600, 1)} h`;
}

export function debounce(call, milliseconds) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...args), milliseconds);
  };
}
