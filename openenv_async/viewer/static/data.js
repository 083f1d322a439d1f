// The index of each source as typed arrays, and records on demand: from the server, or from this file.

const ARRAYS = { f64: Float64Array, f32: Float32Array, i32: Int32Array, u8: Uint8Array };

export class Index {
  constructor() {
    this.epoch = -1;
    this.rows = 0;
    this.columns = {};
    this.tables = {};
  }

  // Take what the server sent: see columns.py for the layout. Returns whether anything is new.
  take(buffer) {
    const size = new DataView(buffer).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
    const isSame = header.epoch === this.epoch && header.first === this.rows;
    if (isSame && header.rows === 0) return false;
    const first = isSame ? this.rows : 0;
    let offset = 4 + size;
    for (const [name, kind] of header.columns) {
      const part = new ARRAYS[kind](buffer, offset, header.rows);
      offset += Math.ceil(part.byteLength / 8) * 8;
      if (first === 0) {
        this.columns[name] = part;
      } else {
        const joined = new ARRAYS[kind](first + header.rows);
        joined.set(this.columns[name]);
        joined.set(part, first);
        this.columns[name] = joined;
      }
    }
    for (const [name, table] of Object.entries(header.tables)) {
      const before = first === 0 ? [] : this.tables[name];
      this.tables[name] = before.slice(0, table.first).concat(table.texts);
    }
    this.epoch = header.epoch;
    this.rows = first + header.rows;
    return true;
  }

  text(name, row) {
    return this.tables[name][this.columns[name][row]] ?? null;
  }

  number(name, row) {
    const value = this.columns[name][row];
    const none = this.columns[name] instanceof Int32Array ? value < 0 : Number.isNaN(value);
    return none ? null : value;
  }

  get known() {
    return Object.entries(this.tables)
      .map(([name, texts]) => `${name}:${texts.length}`)
      .join(",");
  }
}

class ServedData {
  isFile = false;

  async sources() {
    return (await this.#get("sources")).json();
  }

  async index(source, index) {
    const asked = `epoch=${index.epoch}&first=${index.rows}&known=${index.known}`;
    return (await this.#get(`index/${source}?${asked}`)).arrayBuffer();
  }

  async record(source, row, first) {
    return (await this.#get(`record/${source}/${row}?first=${first}`)).json();
  }

  async search(source, text) {
    return (await this.#get(`search/${source}?text=${encodeURIComponent(text)}`)).json();
  }

  async #get(path) {
    const response = await fetch(path, { cache: "no-store" });
    if (!response.ok) throw new Error((await response.text()) || `error ${response.status}`);
    return response;
  }
}

async function inflated(id) {
  const text = atob(document.getElementById(id).textContent);
  const octets = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([octets]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

class FileData {
  isFile = true;
  #blocks = new Map();

  constructor(text) {
    this.described = JSON.parse(text);
  }

  async sources() {
    return this.described.sources;
  }

  async index(source) {
    return inflated(`index-${source}`);
  }

  async record(source, row) {
    const firsts = this.described.blocks[source];
    let block = firsts.length - 1;
    while (block > 0 && firsts[block] > row) block -= 1;
    const line = block < 0 ? undefined : (await this.#lines(source, block))[row - firsts[block]];
    if (!line) throw new Error("this file was written without the steps of this episode");
    const { transitions, ...episode } = JSON.parse(line);
    return { episode, transitions, first: 0, total: transitions.length };
  }

  async search(source, text) {
    const wanted = JSON.stringify(text).slice(1, -1).toLowerCase();
    const rows = [];
    const firsts = this.described.blocks[source];
    for (let block = 0; block < firsts.length; block += 1) {
      const lines = await this.#lines(source, block);
      lines.forEach((line, at) => {
        if (line.toLowerCase().includes(wanted)) rows.push(firsts[block] + at);
      });
    }
    return { rows, whole: true };
  }

  async #lines(source, block) {
    const id = `records-${source}-${block}`;
    if (!this.#blocks.has(id)) {
      const text = new TextDecoder().decode(await inflated(id));
      if (this.#blocks.size > 32) this.#blocks.delete(this.#blocks.keys().next().value);
      this.#blocks.set(id, text.split("\n"));
    }
    return this.#blocks.get(id);
  }
}

export function openData() {
  const described = document.getElementById("viewer-data");
  return described ? new FileData(described.textContent) : new ServedData();
}
