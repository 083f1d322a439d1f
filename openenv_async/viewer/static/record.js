// One episode: as a conversation, as frames, as steps, its tokens, and its agents as a tree.

import { PARTS, timingBar } from "./charts.js";
import { add, fill, formatCount, formatNumber, formatSeconds, h } from "./dom.js";

const LONG = 3000;
const MOST_TOKENS = 4000;
const PICTURE = /^data:image\/(png|jpeg|gif|webp);base64,/;

// -- values ------------------------------------------------------------------------------------

function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  const [[key, inside] = [null], ...more] = Object.entries(value);
  if (!more.length) {
    if (key === "__ndarray__" && Array.isArray(inside)) return `array ${inside[0]} [${inside[1]}]`;
    if (key === "__bytes__" && typeof inside === "string") return `${Math.floor(inside.length * 0.75)} bytes`;
    if (key === "__float__") return String(inside);
    if (key === "__escaped__") return plain(inside);
    if (key === "__npscalar__") return `scalar ${inside[0]}`;
  }
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, plain(each)]));
}

export function textOf(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  return JSON.stringify(plain(value), null, 2);
}

// A text, cut where it is long; a button shows the rest.
function longText(text, { code = false } = {}) {
  const place = h(code ? "pre" : "div", { class: code ? "code" : "text" }, text.slice(0, LONG));
  if (text.length <= LONG) return place;
  const button = h("button", { class: "link", type: "button", onclick: () => { place.textContent = text; button.remove(); } }, `… ${formatCount(text.length - LONG)} more characters`);
  return [place, button];
}

function shownValue(value) {
  if (value === null || value === undefined) return h("span", { class: "quiet" }, "nothing");
  const picture = pictureOf(value);
  const parts = [];
  if (picture) parts.push(drawn(picture, 260));
  if (typeof value === "string" && !PICTURE.test(value)) parts.push(longText(value));
  else if (!picture || (typeof value === "object" && !isTagged(value))) parts.push(longText(textOf(value), { code: true }));
  return parts;
}

function isTagged(value) {
  const keys = Object.keys(value);
  return keys.length === 1 && keys[0].startsWith("__");
}

function octetsOf(text) {
  const letters = atob(text);
  const octets = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at += 1) octets[at] = letters.charCodeAt(at);
  return octets;
}

// -- pictures ----------------------------------------------------------------------------------

// Find a picture in a value: a data URL, bytes of a PNG or JPEG, or an array of 8 bits.
export function pictureOf(value, depth = 0) {
  if (typeof value === "string") {
    return PICTURE.test(value) ? { url: value } : null;
  }
  if (value === null || typeof value !== "object" || depth > 4) return null;
  if (Array.isArray(value.__ndarray__)) return ofArray(value.__ndarray__);
  if (typeof value.__bytes__ === "string") return ofBytes(value.__bytes__);
  for (const each of Array.isArray(value) ? value.slice(0, 8) : Object.values(value)) {
    const found = each && (typeof each === "object" || typeof each === "string") ? pictureOf(each, depth + 1) : null;
    if (found) return found;
  }
  return typeof value.image === "string" ? ofBytes(value.image) : null;
}

function ofBytes(text) {
  if (text.startsWith("iVBORw0KGgo")) return { url: `data:image/png;base64,${text}` };
  if (text.startsWith("/9j/")) return { url: `data:image/jpeg;base64,${text}` };
  return null;
}

function ofArray([dtype, shape, elements]) {
  if (dtype !== "|u1" || typeof elements !== "string" || !Array.isArray(shape)) return null;
  let [height, width, channels] = shape;
  let isPlanar = false;
  if (shape.length === 2) channels = 1;
  else if (shape.length === 3 && ![1, 3, 4].includes(channels)) {
    [channels, height, width] = shape; // planes, or frames that are stacked: the last of these
    isPlanar = true;
  }
  if (shape.length < 2 || shape.length > 3 || width < 8 || height < 8) return null;
  if (!(width <= 8192 && height <= 8192 && channels <= 64)) return null;
  return { width, height, channels, isPlanar, elements };
}

function drawn(picture, width) {
  if (picture.url) return h("img", { src: picture.url, alt: "what the agent saw", class: "frame" });
  const canvas = h("canvas", { width: picture.width, height: picture.height, class: "frame", role: "img", "aria-label": "what the agent saw" });
  canvas.style.width = `${Math.min(width, Math.max(picture.width, Math.min(width, picture.width * 4)))}px`;
  const image = new ImageData(picture.width, picture.height);
  const octets = octetsOf(picture.elements);
  const size = picture.width * picture.height;
  const isColour = picture.channels === 3 || picture.channels === 4;
  for (let at = 0; at < size; at += 1) {
    for (let part = 0; part < 3; part += 1) {
      const plane = isColour ? part : picture.channels - 1;
      image.data[4 * at + part] = picture.isPlanar ? octets[plane * size + at] : octets[at * picture.channels + (isColour ? part : 0)];
    }
    image.data[4 * at + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// -- conversation ------------------------------------------------------------------------------

function bubble(role, title, ...content) {
  return h("article", { class: `bubble role-${role}` }, h("header", {}, title), content);
}

function contentOf(content) {
  if (content === null || content === undefined || content === "") return [];
  if (!Array.isArray(content)) return [shownValue(content)];
  return content.map((block) => {
    if (block && block.type === "text") return longText(String(block.text ?? ""));
    const url = block && block.image_url && (block.image_url.url ?? block.image_url);
    if (typeof url === "string") {
      return PICTURE.test(url) ? h("img", { src: url, alt: "a picture in a message", class: "frame" }) : longText(`picture: ${url}`);
    }
    return shownValue(block);
  });
}

function toolCalls(message) {
  if (!Array.isArray(message.tool_calls)) return [];
  return message.tool_calls.map((call) => {
    const called = (call && call.function) || call || {};
    let given = called.arguments;
    try {
      given = JSON.stringify(JSON.parse(given), null, 2);
    } catch {
      given = textOf(given);
    }
    return h("div", { class: "tool" }, h("b", {}, textOf(called.name) || "tool"), longText(given, { code: true }));
  });
}

const ROLES = new Set(["system", "user", "assistant", "tool"]);

function message(each) {
  if (each === null || typeof each !== "object") return bubble("user", "message", shownValue(each));
  const role = String(each.role ?? "message");
  const reasoning = each.reasoning_content ?? each.reasoning;
  return bubble(
    ROLES.has(role) ? role : "user",
    role === "tool" && each.tool_call_id ? `tool result ${each.tool_call_id}` : role,
    reasoning ? h("details", { class: "reasoning" }, h("summary", {}, "reasoning"), longText(textOf(reasoning))) : null,
    contentOf(each.content),
    toolCalls(each),
  );
}

function lengthOf(value) {
  return Array.isArray(value) ? value.length : 0;
}

function callFacts(call) {
  const extra = call.extra || {};
  return [
    extra.relation && extra.relation !== "main" ? extra.relation : null,
    call.model,
    lengthOf(call.prompt_ids) ? `${formatCount(lengthOf(call.prompt_ids))} prompt tokens` : null,
    lengthOf(call.completion_ids) ? `${formatCount(lengthOf(call.completion_ids))} sampled` : null,
    typeof call.seconds === "number" ? formatSeconds(call.seconds) : null,
    call.finish_reason,
    call.weight_version !== null && call.weight_version !== undefined ? `weights ${textOf(call.weight_version)}` : null,
  ].filter(Boolean).map(textOf);
}

function modelCall(call, number) {
  const parts = [];
  const facts = callFacts(call);
  parts.push(h("p", { class: "call", "data-call": number }, h("b", {}, `Call ${number}`), facts.map((fact) => h("span", {}, fact))));
  const messages = Array.isArray(call.messages) ? call.messages : [];
  if (call.continues === false && number > 0 && messages.length > 2) {
    parts.push(h("details", { class: "prompt" }, h("summary", {}, `a prompt of ${messages.length} messages`), messages.map(message)));
  } else {
    parts.push(messages.map(message));
  }
  if (call.reply) parts.push(message({ role: "assistant", ...call.reply }));
  if (call.error) parts.push(bubble("error", "failed", longText(textOf(call.error))));
  return parts;
}

function stepChips(step) {
  return [
    step.reward !== null && step.reward !== undefined ? h("span", { class: `chip ${step.reward > 0 ? "good" : step.reward < 0 ? "bad" : ""}` }, `reward ${formatNumber(Number(plain(step.reward)))}`) : null,
    step.terminated ? h("span", { class: "chip" }, "terminated") : null,
    step.truncated ? h("span", { class: "chip" }, "truncated") : null,
  ];
}

function stepTitle(step) {
  return [`Step ${formatCount(Number(step.t ?? 0))}`, stepChips(step)];
}

function isEmpty(value) {
  return value === null || value === undefined || (typeof value === "object" && !Object.keys(value).length);
}

function conversation(state) {
  const made = [];
  let number = 0;
  for (const step of state.steps) {
    const calls = Array.isArray(step.model_calls) ? step.model_calls : [];
    for (const call of calls) made.push(...modelCall(call || {}, number++));
    if (!calls.length && !isEmpty(step.observation)) made.push(bubble("user", "environment", shownValue(step.observation)));
    if (step.mistake) {
      made.push(bubble("error", `mistake: ${textOf(step.mistake.kind)}`, longText(textOf(step.mistake.message)), calls.length ? null : shownValue(step.action)));
    } else if (!isEmpty(step.action) || step.reward !== null) {
      const action = isEmpty(step.action) ? null : shownValue(step.action);
      made.push(calls.length
        ? h("details", { class: "step" }, h("summary", {}, stepTitle(step)), h("h5", {}, "action"), action, h("h5", {}, "observation before"), shownValue(step.observation), isEmpty(step.info) ? null : [h("h5", {}, "info"), shownValue(step.info)])
        : bubble("assistant", stepTitle(step), action));
    }
  }
  const final = state.episode.final_observation;
  if (state.isWhole && !isEmpty(final)) made.push(bubble("user", "finally observed", shownValue(final)));
  if (state.episode.error_message) made.push(bubble("error", `ended: ${textOf(state.episode.error_code) || "error"}`, longText(textOf(state.episode.error_message)), traceback(state.episode.error_detail)));
  if (!made.length) made.push(h("p", { class: "quiet" }, "No steps were recorded."));
  return h("div", { class: "conversation" }, made);
}

function traceback(detail) {
  if (isEmpty(detail)) return null;
  return Object.entries(detail).filter(([, value]) => typeof value === "string" || typeof value === "number").map(([name, value]) => h("details", {}, h("summary", {}, name), longText(textOf(value), { code: true })));
}

// -- frames ------------------------------------------------------------------------------------

function frames(state) {
  const place = h("div", { class: "stage" });
  const beside = h("div", { class: "beside" });
  const slider = h("input", { type: "range", min: 0, max: Math.max(0, state.steps.length - 1), value: 0, "aria-label": "step" });
  const told = h("output", {});
  let timer = 0;
  const show = () => {
    const at = Number(slider.value);
    const step = state.steps[at];
    told.textContent = `step ${at} of ${state.total - 1}`;
    const picture = pictureOf(step.observation) || pictureOf(step.info);
    fill(place, picture ? drawn(picture, 480) : step.render ? longText(textOf(step.render), { code: true }) : shownValue(step.observation));
    const calls = Array.isArray(step.model_calls) ? step.model_calls : [];
    fill(beside, h("h4", {}, stepTitle(step)), step.mistake ? bubble("error", "mistake", longText(textOf(step.mistake.message))) : null, h("h5", {}, "action"), shownValue(step.action), isEmpty(step.info) ? null : [h("h5", {}, "info"), shownValue(step.info)], calls.length ? [h("h5", {}, "calls of the model"), calls.map((call, number) => modelCall(call, number))] : null);
    if (at >= state.steps.length - 2 && !state.isWhole) state.more().then(() => { slider.max = state.steps.length - 1; });
  };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
  const play = h("button", { type: "button", onclick: () => {
    if (timer) return stop();
    if (Number(slider.value) >= Number(slider.max)) slider.value = 0;
    play.textContent = "Pause";
    timer = setInterval(() => {
      if (!place.isConnected || Number(slider.value) >= Number(slider.max)) return stop();
      slider.value = Number(slider.value) + 1;
      show();
    }, 125);
  } }, "Play");
  const move = (by) => () => { stop(); slider.value = Number(slider.value) + by; show(); };
  slider.addEventListener("input", () => { stop(); show(); });
  show();
  return h("div", {}, h("div", { class: "player" }, play, h("button", { type: "button", "aria-label": "step before", onclick: move(-1) }, "‹"), h("button", { type: "button", "aria-label": "next step", onclick: move(1) }, "›"), slider, told), h("div", { class: "frames" }, place, beside));
}

// -- steps -------------------------------------------------------------------------------------

function stepTable(state) {
  const rows = state.steps.map((step, at) => {
    const seconds = step.timings || {};
    const short = (value) => { const text = textOf(value).replace(/\s+/g, " "); return text.length > 160 ? `${text.slice(0, 160)}…` : text; };
    return h("tr", {}, h("td", { class: "number" }, at), h("td", { class: "number" }, step.reward === null || step.reward === undefined ? "–" : formatNumber(Number(plain(step.reward)))), h("td", {}, step.mistake ? h("span", { class: "chip bad" }, "mistake") : null, " ", short(step.action)), h("td", {}, short(step.observation)), PARTS.map(([name]) => h("td", { class: "number" }, seconds[name] === undefined ? "" : formatSeconds(seconds[name]))));
  });
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "steps" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["step", "reward", "action", "observation before", ...PARTS.map(([, text]) => text)].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)));
}

// -- tokens ------------------------------------------------------------------------------------

// The tone of a token by its log probability: from sure (calm) to a surprise (warm).
function toneOf(logprob) {
  if (typeof logprob !== "number") return "";
  const places = [-0.05, -0.3, -1, -2, -4];
  const at = places.findIndex((least) => logprob >= least);
  return `tone-${at < 0 ? places.length : at}`;
}

function tokens(state) {
  const made = [h("p", { class: "tones" }, "probability", [["1", 0], ["0.9", 1], ["0.6", 2], ["0.25", 3], ["0.08", 4], ["less", 5]].map(([text, at]) => h("span", { class: `token tone-${at}` }, text)), h("span", { class: "token masked" }, "not trained on"))];
  let left = MOST_TOKENS;
  callsOf(state).forEach((call, number) => {
    const ids = call.completion_ids;
    if (!lengthOf(ids) || left <= 0) return;
    const texts = Array.isArray(call.token_texts) ? call.token_texts : null;
    const shown = ids.slice(0, left);
    left -= shown.length;
    const line = h("p", { class: texts ? "tokens worded" : "tokens" });
    shown.forEach((id, at) => {
      const logprob = call.logprobs ? call.logprobs[at] : null;
      const masked = Array.isArray(call.mask) && !call.mask[at];
      const chance = typeof logprob === "number" ? `, log probability ${formatNumber(logprob)} (${formatNumber(100 * Math.exp(logprob))} %)` : "";
      line.append(h("span", { class: `token ${masked ? "masked" : toneOf(logprob)}`, title: `token ${at}: id ${id}${chance}${masked ? ", not trained on" : ""}` }, texts ? texts[at] : id));
    });
    const known = (call.logprobs || []).filter((each) => typeof each === "number");
    const mean = known.length ? known.reduce((total, each) => total + each, 0) / known.length : null;
    made.push(h("section", {}, h("p", { class: "call" }, h("b", {}, `Call ${number}`), callFacts(call).map((fact) => h("span", {}, fact)), mean === null ? null : h("span", {}, `mean log probability ${formatNumber(mean)}`)), line, shown.length < ids.length ? h("p", { class: "quiet" }, `${formatCount(ids.length - shown.length)} more tokens are not shown`) : null));
  });
  return h("div", {}, made);
}

function callsOf(state) {
  return state.steps.flatMap((step) => (Array.isArray(step.model_calls) ? step.model_calls : [])).map((call) => call || {});
}

// -- sub-agents --------------------------------------------------------------------------------

// The chains of calls as a tree: each stands under the chain that has the call it came from.
function agents(state, openCall) {
  const chains = new Map();
  const chainOf = new Map();
  callsOf(state).forEach((call, number) => {
    const extra = call.extra || {};
    const id = String(extra.chain ?? "main");
    if (!chains.has(id)) chains.set(id, { id, relation: textOf(extra.relation) || "main", parent: extra.parent, calls: [], below: [] });
    const chain = chains.get(id);
    chain.calls.push({ call, number });
    const own = String(extra.call ?? number);
    chainOf.set(own.slice(own.lastIndexOf("-") + 1), chain);
  });
  const roots = [];
  for (const chain of chains.values()) {
    const above = chain.parent === null || chain.parent === undefined ? null : chainOf.get(String(chain.parent)) ?? chains.get(String(chain.parent));
    if (above && above !== chain && !isAbove(chain, above)) { above.below.push(chain); chain.above = above; }
    else roots.push(chain);
  }
  const item = (chain) => {
    const seconds = chain.calls.reduce((total, each) => total + (each.call.seconds || 0), 0);
    const sampled = chain.calls.reduce((total, each) => total + lengthOf(each.call.completion_ids), 0);
    return h("li", {}, h("details", { open: true }, h("summary", {}, h("b", {}, chain.relation), h("span", { class: "quiet" }, ` ${chain.calls.length} ${chain.calls.length === 1 ? "call" : "calls"}, ${formatSeconds(seconds)}${sampled ? `, ${formatCount(sampled)} tokens` : ""}`)), h("div", { class: "calls" }, chain.calls.map(({ call, number }) => h("button", { type: "button", title: callFacts(call).join(", "), onclick: () => openCall(number) }, number))), chain.below.length ? h("ul", { class: "tree" }, chain.below.map(item)) : null));
  };
  return h("ul", { class: "tree" }, roots.map(item));
}

function isAbove(chain, other) {
  for (let each = other; each; each = each.above) if (each === chain) return true;
  return false;
}

// -- the whole ---------------------------------------------------------------------------------

function sumOfTimings(steps) {
  const seconds = {};
  for (const step of steps) {
    for (const [name, value] of Object.entries(step.timings || {})) {
      if (typeof value === "number") seconds[name] = (seconds[name] || 0) + value;
    }
  }
  return seconds;
}

// Read an episode and show it. Returns an element; `close` adds a button, `tab` is shown first.
export function episodeView(data, source, row, facts, { close = null, compact = false, tab = null, onTab = null } = {}) {
  const root = h("section", { class: `episode ${compact ? "compact" : ""}`, "aria-label": `episode ${facts.index}` });
  const title = h("h2", {}, `Episode ${facts.index}`, facts.task ? h("span", { class: "quiet" }, ` ${facts.task}${facts.member === null ? "" : `/${facts.member}`}`) : null);
  add(root, [h("header", { class: "top" }, title, close ? h("button", { type: "button", class: "close", "aria-label": "close the episode", onclick: close }, "✕") : null)]);
  add(root, [h("dl", { class: "numbers" }, [
    ["outcome", h("span", { class: `status status-${facts.status}` }, facts.status ?? "unknown")],
    ["return", formatNumber(facts.return)],
    ["length", formatCount(facts.steps)],
    ["duration", formatSeconds(facts.duration)],
    facts.mistakes ? ["mistakes", formatCount(facts.mistakes)] : null,
    facts.calls ? ["calls", formatCount(facts.calls)] : null,
    facts.tokens ? ["tokens", formatCount(facts.tokens)] : null,
    facts.attempts > 1 ? ["attempts", formatCount(facts.attempts)] : null,
  ].filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))))]);
  const body = h("div", { class: "body" }, h("p", { class: "quiet" }, "reading …"));
  root.append(body);
  const state = { episode: {}, steps: [], total: 0, isWhole: false };
  state.more = async () => {
    const part = await data.record(source, row, state.steps.length);
    state.episode = part.episode;
    state.steps = state.steps.concat(part.transitions.filter((step) => step !== null && typeof step === "object"));
    state.total = part.total;
    state.isWhole = part.transitions.length === 0 || part.first + part.transitions.length >= part.total;
  };
  const show = () => {
    const calls = callsOf(state);
    const hasFrames = state.steps.some((step) => pictureOf(step.observation) || pictureOf(step.info) || step.render);
    const tabs = [
      ["Conversation", () => conversation(state)],
      hasFrames ? ["Frames", () => frames(state)] : null,
      ["Steps", () => stepTable(state)],
      calls.some((call) => lengthOf(call.completion_ids)) ? ["Tokens", () => tokens(state)] : null,
      calls.some((call) => call.extra && call.extra.relation) ? ["Agents", () => agents(state, openCall)] : null,
      ["Record", () => longText(JSON.stringify({ ...state.episode, transitions: `${state.total} steps` }, null, 2), { code: true })],
    ].filter(Boolean);
    const content = h("div", { class: "content" });
    const buttons = tabs.map(([name, make]) => h("button", { type: "button", "aria-pressed": "false", onclick: () => { choose(name, make); if (onTab) onTab(name); } }, name));
    const choose = (name, make) => {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === name)));
      fill(content, make(), state.isWhole || name === "Frames" ? null : h("button", { type: "button", onclick: () => state.more().then(show) }, `read more steps (${formatCount(state.steps.length)} of ${formatCount(state.total)} are shown)`));
    };
    const openCall = (number) => {
      choose(...tabs[0]);
      content.querySelector(`[data-call="${number}"]`)?.scrollIntoView({ block: "start" });
    };
    const facts2 = [["seed", state.episode.seed], ["episode id", state.episode.episode_id], ["environment", state.episode.environment && (state.episode.environment.name ?? null)]].filter(([, value]) => value !== null && value !== undefined);
    fill(body, timingBar(sumOfTimings(state.steps), compact ? 0 : facts.duration, "time"), compact ? null : h("p", { class: "quiet facts" }, facts2.map(([name, value]) => h("span", {}, `${name} `, h("b", {}, textOf(value))))), compact ? null : h("div", { class: "tabs" }, buttons), content);
    const first = tabs.find(([name]) => name === tab) || (hasFrames && !calls.length ? tabs[1] : tabs[0]);
    choose(...(compact ? tabs[0] : first));
  };
  state.more().then(show).catch((error) => fill(body, h("p", { class: "notice" }, error.message)));
  return root;
}
