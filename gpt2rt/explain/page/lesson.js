/**
 * The lesson: pictures of what a model saw in a text. It needs nothing but the data, which gpt2rt.explain.lesson makes,
 * so that one file can hold all of it; it has these many lines because it is that one script. Text is always a text
 * node: nothing that a model writes can become markup.
 */

/**
 * @typedef {[number, number][]} Likely ids and probabilities, descending
 * @typedef {object} Step
 * @property {number} position
 * @property {Likely} after
 * @property {number} n_candidates
 * @property {number | null} number
 * @property {number} low
 * @property {number} high
 * @typedef {object} Data
 * @property {{name: string, parameters: string, weights: string, n_layer: number, n_head: number}} model
 * @property {Record<string, string>} texts of tokens, by id
 * @property {{id: number, bytes: string, p: number | null, rank: number | null, vocabulary: number}[]} tokens
 * @property {number} n_prompt
 * @property {number | null} seed
 * @property {Likely[]} next after each token
 * @property {Step[]} steps
 * @property {[number, number, number][][]} lens [layer][position]: the most likely id, its probability, the target's rank
 * @property {string} attention a character for each weight, see weights()
 * @property {number[][]} sinks
 * @property {{token: number, against: number, heads: number[][], mlps: number[], rest: number}[]} contributions
 * @property {{name: string, change: number}[]} ablations
 * @property {Record<string, Record<string, number[]>>} branches [position][id]: what follows
 * @property {{name: string, meaning: string, parameters: number, n_bytes: number, operations: number}[]} sizes
 */

const LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/**
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes] functions are listeners; names that begin with -- are CSS variables
 * @param {...(Node | string | number | null | undefined | false)} children
 * @returns {any}
 */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else if (name.startsWith("--")) element.style.setProperty(name, String(value));
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(child instanceof Node ? child : String(child));
    }
  }
  return element;
}

/**
 * Return an item that must be there.
 *
 * @template T
 * @param {readonly T[]} list
 * @param {number} i negative from the end
 * @returns {T}
 */
function at(list, i) {
  const found = list.at(i);
  if (found === undefined) throw new RangeError(`no item ${i}`);
  return found;
}

/** @param {number} p */
const percent = (p) => (p >= 0.0995 ? `${(100 * p).toFixed(0)}%` : p >= 0.001 ? `${(100 * p).toFixed(1)}%` : "<0.1%");
/** @param {number} p */
const bits = (p) => -Math.log2(p);
/** @param {number} n */
const short = (n) =>
  n >= 1e9 ? `${(n / 1e9).toFixed(1)} G` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} M` : n >= 1e3 ? `${(n / 1e3).toFixed(0)} k` : `${n}`;
/** @param {number | null} p how strong the color of a token is */
const strength = (p) => (p === null ? 0 : Math.min(42, 4 * bits(Math.max(p, 1e-9))).toFixed(0));

export class Lesson {
  /**
   * @param {Data} data
   * @param {HTMLElement} root
   */
  constructor(data, root) {
    this.data = data;
    this.position = data.steps.length ? data.n_prompt - 1 : data.tokens.length - 1;
    /** @type {number | null} */
    this.branch = null;
    const [layer, head] = this.strongest();
    this.layer = layer;
    this.head = head;
    this.hidesSink = true;
    /** @type {(() => void)[]} what to draw again */
    this.parts = [];
    this.pinned = this.position; // where the pointer leaves it
    /** @type {{key: string, element: any} | null} */
    this.drawn = null;
    /** @type {Map<number, Float32Array>} */
    this.known = new Map();
    root.replaceChildren(...this.sections());
    this.update();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.update()); // canvases
  }

  /** @param {number} id */
  text(id) {
    return this.data.texts[id] ?? "";
  }

  /** @param {number} id */
  name(id) {
    return `“${this.text(id).replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣")}”`;
  }

  update() {
    for (const part of this.parts) part();
  }

  /** @param {Partial<Lesson>} changes */
  set(changes) {
    Object.assign(this, changes);
    this.update();
  }

  /** @returns {[number, number]} the head that spoke most for the prediction at the position */
  strongest() {
    let best = /** @type {[number, number]} */ ([0, 0]);
    let most = -Infinity;
    at(this.data.contributions, this.position).heads.forEach((row, i) =>
      row.forEach((value, j) => {
        const own = value * (1 - at(at(this.data.sinks, i), j)); // what comes from the first token counts little
        if (own > most) [best, most] = [[i, j], own];
      }),
    );
    return best;
  }

  /**
   * @param {string} title
   * @param {(() => Node[])} draw
   * @param {...string} explanation
   */
  section(title, draw, ...explanation) {
    const picture = h("div");
    this.parts.push(() => {
      // What had the focus gets it back.
      const held = picture.contains(document.activeElement) ? document.activeElement?.getAttribute("data-key") : null;
      const scrolled = picture.querySelector(".wide")?.scrollLeft;
      picture.replaceChildren(...draw());
      const wide = picture.querySelector(".wide");
      if (wide && scrolled !== undefined) wide.scrollLeft = scrolled;
      const at = picture.querySelector("th.at");
      if (wide && at && scrolled === undefined) wide.scrollLeft = at.offsetLeft - wide.clientWidth / 2;
      if (held) picture.querySelector(`[data-key="${held}"]`)?.focus();
    });
    const caption = h("figcaption", {}, ...explanation.map((one) => h("p", {}, one)));
    return h("section", {}, h("h2", {}, title), h("figure", {}, picture, caption));
  }

  sections() {
    const { model, n_prompt, tokens, seed } = this.data;
    const sampled = tokens.length - n_prompt;
    return [
      h("h1", {}, "What the model saw"),
      h(
        "p",
        { class: "soft" },
        `${model.name}: ${model.parameters} parameters, ${model.n_layer} layers with ${model.n_head} heads each; ${model.weights}. `,
        sampled
          ? `The last ${sampled} tokens (underlined) were sampled with the seed ${seed}.`
          : "",
        " Point at a token of the text, click it, or step with the arrow keys: all pictures follow.",
      ),
      this.strip(),
      this.legend(),
      this.section(
        "1. A token",
        () => [this.token()],
        "The model reads numbers, not letters. A text is cut into tokens: pieces of words that were frequent in the text that the vocabulary was made from. Most begin with a space. A rare word becomes several tokens, which is why models count letters badly.",
        "The color says how surprising a token was to the model, given only what stands before it. A bit is one halving of the probability: 1 bit is a coin toss, 10 bits are one in a thousand.",
      ),
      this.section(
        "2. What comes next",
        () => this.next(),
        "This is all that the model computes: a probability for every token of the vocabulary. A text is made by choosing one, appending it, and starting again.",
        "The settings (temperature, top-k, top-p) change the probabilities before a random number chooses. With the same seed the numbers are the same, and so is the text. Click a token to see how the text continues after it.",
      ),
      this.section(
        "3. Layer by layer",
        () => [this.lens()],
        "Each token is a vector that passes through the layers, and each layer adds something to it. Here every layer's vector is read as if it were the last one (this is called the logit lens). The first rows mostly say the token itself; the next token takes shape in the later ones.",
        "Bold cells agree with what the last layer says.",
      ),
      this.section(
        "4. Attention",
        () => this.attention(),
        "In each layer, every head lets a token look back at earlier ones and fetch something from them: a row is a token, a column what it looks at, and a stronger color is more. There is nothing above the diagonal, since a token cannot see those after it.",
        "Most heads look at the first token when they find nothing to do; it serves as a resting place (an attention sink), and its column is left out if you wish. Attention shows where a head looks, not why the model answers as it does.",
      ),
      this.section(
        "5. Who spoke for it",
        () => this.contributions(),
        "The last vector is a sum of what all heads and all other parts have added, so the lead of the most likely token over the second one is a sum, too. Green parts speak for the first, rust ones against it.",
        "That counts only what a part says directly. To see all of its effect, switch it off: the table shows how the probability of the most likely token after the whole text changes if a part is left out.",
      ),
      this.section(
        "6. How big it is",
        () => [this.sizes()],
        "Most of the work is multiplying vectors by matrices, and most of the bytes are those matrices. For each new token all of them are read once, which is why the speed of memory limits the speed of a model.",
      ),
    ];
  }

  strip() {
    const strip = h("div", {
      class: "text",
      role: "group",
      "aria-label": "The text. The left and right arrow keys step through its tokens.",
      onpointerleave: () => this.select(this.pinned),
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        this.pin(Math.max(0, Math.min(this.position + step, this.data.tokens.length - 1)));
        strip.children[this.position].focus();
      },
    });
    this.data.tokens.forEach((token, i) => {
      strip.append(
        h(
          "button",
          {
            class: `token${i >= this.data.n_prompt ? " new" : ""}`,
            "--surprise": strength(token.p),
            onclick: () => this.pin(i),
            onpointerenter: (/** @type {PointerEvent} */ event) => event.pointerType === "mouse" && this.select(i),
          },
          this.text(token.id).replaceAll("\n", "⏎\n"),
        ),
      );
    });
    this.parts.push(() => {
      [...strip.children].forEach((one, i) => {
        one.classList.toggle("at", i === this.position);
        one.setAttribute("tabindex", i === this.position ? "0" : "-1");
        one.setAttribute("aria-current", String(i === this.position));
      });
    });
    return strip;
  }

  legend() {
    const sample = (/** @type {number} */ p, /** @type {string} */ text) => h("span", { "--surprise": strength(p) }, text);
    return h(
      "div",
      { class: "legend" },
      "Surprise:",
      sample(1, "none"),
      sample(0.25, "2 bits"),
      sample(0.03, "5 bits"),
      sample(0.001, "10 bits"),
    );
  }

  /** @param {number} position */
  pin(position) {
    this.pinned = position;
    this.select(position);
  }

  /** @param {number} position */
  select(position) {
    if (position !== this.position) this.set({ position, branch: null });
  }

  token() {
    const token = at(this.data.tokens, this.position);
    const rows = [
      ["Token", h("code", {}, this.name(token.id))],
      ["Number in the vocabulary", `${token.id} of ${token.vocabulary.toLocaleString("en")}`],
      ["Bytes", h("code", {}, token.bytes)],
      ["Position", `${this.position + 1} of ${this.data.tokens.length}`],
      token.p === null
        ? ["Probability", "none: nothing stands before it"]
        : ["Probability", `${percent(token.p)}, a surprise of ${bits(token.p).toFixed(1)} bits`],
      token.rank !== null && ["Place among all tokens", `${(token.rank + 1).toLocaleString("en")}`],
    ];
    return h("dl", {}, ...rows.flatMap((row) => (row ? [h("dt", {}, row[0]), h("dd", {}, row[1])] : [])));
  }

  next() {
    const { next, steps, tokens, branches } = this.data;
    const found = at(next, this.position);
    const step = steps.find((one) => one.position === this.position + 1);
    const after = new Map(step?.after ?? []);
    const follows = tokens[this.position + 1]?.id;
    const most = at(found, 0)[1];
    const mostAfter = Math.max(...after.values(), 1e-9);
    const own = branches[this.position] ?? {};
    const rows = found.map(([id, p]) =>
      h(
        "button",
        {
          "data-key": id,
          "aria-pressed": String(this.branch === id),
          title: id in own ? "Show how the text continues after this token" : "No continuation was made for this token",
          disabled: !(id in own),
          onclick: () => this.set({ branch: this.branch === id ? null : id }),
        },
        h("code", {}, `${this.name(id)}${id === follows ? " ◂" : ""}`),
        h("span", { class: "bar", "--share": p / most }),
        h("span", { class: "n" }, percent(p)),
        step && h("span", { class: "bar after", "--share": (after.get(id) ?? 0) / mostAfter }),
        step && h("span", { class: "n" }, after.has(id) ? percent(after.get(id) ?? 0) : "out"),
      ),
    );
    const nodes = [
      h(
        "div",
        { class: "heads" },
        h("span", {}, `After ${this.name(at(tokens, this.position).id)}${follows === undefined ? "" : " (◂ follows in this text)"}`),
        step && h("span", {}, "green: the model, rust: after the settings"),
      ),
      h("div", { class: step ? "bars both" : "bars" }, ...rows),
    ];
    if (step) nodes.push(...this.die(step));
    if (this.branch !== null) nodes.push(this.branched(own[this.branch] ?? []));
    return nodes;
  }

  /** @param {Step} step */
  die(step) {
    if (step.number === null) return [h("p", {}, "Only one token was left, so there was nothing to choose.")];
    return [
      h("div", { class: "die", "aria-hidden": "true", "--low": step.low, "--high": step.high, "--number": step.number }, h("i"), h("b")),
      h(
        "p",
        {},
        `The ${step.n_candidates} tokens that were left lie one after the other on a line from 0 to 1, each as long as its probability. The random number ${step.number.toFixed(4)} fell on ${this.name(this.data.tokens[step.position]?.id ?? -1)}, which lies from ${step.low.toFixed(4)} to ${step.high.toFixed(4)}.`,
      ),
    ];
  }

  /** @param {number[]} rest */
  branched(rest) {
    const before = this.data.tokens.slice(0, this.position + 1).map((one) => this.text(one.id)).join("");
    const mark = h("mark", {}, this.text(/** @type {number} */ (this.branch)));
    return h("div", { class: "branch" }, before, mark, rest.map((id) => this.text(id)).join(""), " …");
  }

  lens() {
    const { lens, tokens } = this.data;
    const last = /** @type {any} */ (lens.at(-1));
    const head = tokens.map((token, i) =>
      h("th", { scope: "col", class: i === this.position ? "name at" : "name" }, this.name(token.id)),
    );
    const rows = lens.map((row, layer) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, layer ? `layer ${layer - 1}` : "embedding"),
        ...row.map(([id, p, rank], i) =>
          h(
            "td",
            { class: `${i === this.position ? "at" : ""} ${id === last[i][0] ? "same" : ""}` },
            h(
              "button",
              {
                "data-key": `${layer}-${i}`,
                tabindex: "-1",
                "--p": p.toFixed(3),
                title: `${percent(p)}; what ${i + 1 < tokens.length ? "follows" : "wins in the end"} is in place ${rank + 1}`,
                onclick: () => this.pin(i),
              },
              this.text(id).replaceAll("\n", "⏎") || " ",
            ),
          ),
        ),
      ),
    );
    return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Logit lens" }, h("table", { class: "lens" }, h("thead", {}, h("tr", {}, h("td", { class: "corner" }), ...head)), h("tbody", {}, ...rows)));
  }

  /**
   * @param {number} layer
   * @param {number} head
   * @returns {Float32Array} (n, n): the square root of each weight
   */
  weights(layer, head) {
    const n = this.data.tokens.length;
    const index = layer * this.data.model.n_head + head;
    let found = this.known.get(index);
    if (!found) {
      found = new Float32Array(n * n);
      let at = index * ((n * (n + 1)) / 2);
      for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) found[i * n + j] = LEVELS.indexOf(this.data.attention[at++] ?? "A") / 63;
      this.known.set(index, found);
    }
    return found;
  }

  /**
   * Return a head's attention as a canvas with a pixel for each pair of tokens.
   *
   * @param {number} layer
   * @param {number} head
   */
  painted(layer, head) {
    const n = this.data.tokens.length;
    const weights = this.weights(layer, head);
    const ink = (getComputedStyle(document.documentElement).color.match(/[\d.]+/g) ?? []).map(Number);
    const canvas = h("canvas", { width: n, height: n });
    const image = new ImageData(n, n);
    for (let i = 0; i < n; i++)
      for (let j = this.hidesSink ? 1 : 0; j <= i; j++) {
        const strength = Math.round(255 * (weights[i * n + j] ?? 0));
        image.data.set([ink[0] ?? 0, ink[1] ?? 0, ink[2] ?? 0, strength], 4 * (i * n + j));
      }
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  /** A canvas for each head; they change only with the first token and the colors. */
  multiples() {
    const { model, sinks } = this.data;
    const key = `${this.hidesSink} ${getComputedStyle(document.documentElement).color}`;
    if (this.drawn?.key !== key) {
      const rows = [];
      for (let layer = 0; layer < model.n_layer; layer++) {
        const row = h("span", {}, h("span", {}, `layer ${layer}`));
        for (let head = 0; head < model.n_head; head++) {
          const label = `layer ${layer}, head ${head}`;
          row.append(
            h(
              "button",
              {
                "data-key": `${layer}.${head}`,
                "aria-label": label,
                title: `${label}: ${percent(at(at(sinks, layer), head))} on the first token`,
                onclick: () => this.set({ layer, head }),
              },
              this.painted(layer, head),
            ),
          );
        }
        rows.push(row);
      }
      const side = model.n_head > 16 ? 26 : model.n_head > 12 ? 36 : 46;
      this.drawn = { key, element: h("p", { class: "wide" }, h("span", { class: "layers", "--side": `${side}px` }, ...rows)) };
    }
    for (const button of this.drawn.element.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.key === `${this.layer}.${this.head}`));
    }
    return this.drawn.element;
  }

  /** The chosen head, with the row of the position marked. */
  big() {
    const n = this.data.tokens.length;
    const size = Math.max(1, Math.floor(700 / n));
    const canvas = h("canvas", {
      role: "img",
      "aria-label": `Attention of layer ${this.layer}, head ${this.head}`,
      width: size * n,
      height: size * n,
    });
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(this.painted(this.layer, this.head), 0, 0, size * n, size * n);
    context.lineWidth = Math.max(2, size / 8);
    context.strokeStyle = getComputedStyle(document.documentElement).color;
    context.strokeRect(1, this.position * size, size * n - 2, size);
    return canvas;
  }

  attention() {
    const { tokens, sinks } = this.data;
    const n = tokens.length;
    const weights = this.weights(this.layer, this.head);
    const looks = Array.from({ length: this.position + 1 }, (_, i) => ({ i, weight: (weights[this.position * n + i] ?? 0) ** 2 }))
      .filter(({ i }) => i || !this.hidesSink)
      .sort((a, b) => b.weight - a.weight)
      .slice(0, 6);
    const checkbox = h("input", { type: "checkbox", "data-key": "sink", onchange: () => this.set({ hidesSink: !this.hidesSink }) });
    checkbox.checked = this.hidesSink;
    return [
      h("label", {}, checkbox, "Leave out the first token"),
      this.multiples(),
      h(
        "div",
        { class: "side" },
        h("div", { class: "big" }, this.big()),
        h(
          "div",
          {},
          h("p", {}, `Layer ${this.layer}, head ${this.head}: `, h("code", {}, this.name(at(tokens, this.position).id)), " looks at"),
          h(
            "div",
            { class: "bars" },
            ...looks.map(({ i, weight }) =>
              h("div", {}, h("code", {}, this.name(at(tokens, i).id)), h("span", { class: "bar", "--share": weight }), h("span", { class: "n" }, percent(weight))),
            ),
          ),
          h("p", { class: "soft" }, `On average, ${percent(at(at(sinks, this.layer), this.head))} of this head's attention goes to the first token.`),
        ),
      ),
    ];
  }

  contributions() {
    const found = at(this.data.contributions, this.position);
    const all = [...found.heads.flat(), ...found.mlps];
    const most = Math.max(...all.map(Math.abs), 1e-9);
    const total = all.reduce((sum, one) => sum + one, found.rest);
    const cell = (/** @type {number} */ value, /** @type {string} */ label, /** @type {any} */ more = {}) =>
      h(
        "button",
        {
          class: "cell",
          "--tone": value < 0 ? "var(--b)" : "var(--a)",
          "--share": (Math.abs(value) / most).toFixed(3),
          title: `${label}: ${value.toFixed(1)}`,
          "aria-label": `${label}: ${value.toFixed(1)}`,
          ...more,
        },
        Math.abs(value) >= most / 4 ? value.toFixed(1) : "",
      );
    const { n_head } = this.data.model;
    const columns = Array.from({ length: n_head }, (_, i) => h("b", {}, i));
    const rows = found.heads.map((row, layer) =>
      h(
        "div",
        {},
        h("span", {}, `layer ${layer}`),
        ...row.map((value, head) =>
          cell(value, `layer ${layer}, head ${head}`, {
            "data-key": `c${layer}.${head}`,
            "aria-pressed": String(layer === this.layer && head === this.head),
            onclick: () => this.set({ layer, head }),
          }),
        ),
        cell(at(found.mlps, layer), `layer ${layer}, MLP`, { tabindex: "-1" }),
      ),
    );
    const nodes = [
      h(
        "p",
        {},
        "For ",
        h("code", {}, this.name(found.token)),
        " against ",
        h("code", {}, this.name(found.against)),
        ` after ${this.name(at(this.data.tokens, this.position).id)}: a lead of ${total.toFixed(2)}, of which ${found.rest.toFixed(2)} come from the embedding and the biases.`,
      ),
      h("p", { class: "wide" }, h("span", { class: "layers" }, h("div", { class: "columns" }, h("span", {}, "head"), ...columns, h("b", {}, "MLP")), ...rows)),
    ];
    if (this.data.ablations.length) {
      const [token, probability] = at(at(this.data.next, -1), 0);
      nodes.push(
        h("p", {}, `Without this part, the probability of ${this.name(token)} after the whole text is`),
        h(
          "div",
          { class: "bars" },
          ...this.data.ablations.map((one) => {
            const p = probability * Math.exp(one.change);
            return h("div", {}, h("code", {}, one.name), h("span", { class: "bar", "--share": p }), h("span", { class: "n" }, percent(p)));
          }),
        ),
      );
    }
    return nodes;
  }

  sizes() {
    const { sizes } = this.data;
    const most = Math.max(...sizes.map((one) => one.operations));
    const head = ["Stage", "What it does", "Parameters", "Bytes", "Operations per token"];
    const rows = sizes.map((one) =>
      h(
        "tr",
        {},
        h("td", { class: "name" }, one.name),
        h("td", {}, one.meaning),
        h("td", { class: "n" }, one.parameters ? short(one.parameters) : "–"),
        h("td", { class: "n" }, one.n_bytes ? `${short(one.n_bytes)}B` : "–"),
        h("td", { class: "n" }, short(one.operations)),
        h("td", {}, h("div", { class: "bar", "--share": one.operations / most })),
      ),
    );
    return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Sizes" }, h("table", { class: "sizes" }, h("thead", {}, h("tr", {}, ...head.map((one) => h("th", { scope: "col" }, one)), h("td"))), h("tbody", {}, ...rows)));
  }
}
