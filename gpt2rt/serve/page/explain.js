/** The page that shows what a model saw in a text. */

import { post } from "./api.js";
import { byId, h, replace } from "./dom.js";
import { Lesson } from "./lesson.js";
import { models } from "./models.js";

const EXAMPLE = "She put the key in the lock and opened the";

class ExplainPage {
  constructor() {
    this.text = h("textarea", { rows: 2, maxlength: 2000, required: true, spellcheck: "false" });
    this.text.value = EXAMPLE;
    this.maxTokens = h("input", { type: "number", min: 0, max: 32, value: 8 });
    this.seed = h("input", { type: "number", min: 0, value: 1 });
    this.model = h("select");
    this.modelLabel = h("label", { hidden: true }, "Model", this.model);
    this.button = h("button", { class: "main" }, "Explain");
    this.status = h("p", { class: "status hint", role: "status" });
    const form = byId("ask");
    replace(
      form,
      h("label", { class: "long" }, "Text", this.text),
      h("label", {}, "Tokens to sample", this.maxTokens),
      h("label", {}, "Seed", this.seed),
      this.modelLabel,
      this.button,
      this.status,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.explain();
    });
    void this.list();
  }

  async list() {
    const found = await models().catch(() => []);
    replace(this.model, ...found.map((one) => h("option", {}, one.id)));
    this.modelLabel.hidden = found.length < 2;
  }

  async explain() {
    this.button.disabled = true;
    this.status.classList.remove("error");
    this.status.textContent = "Tracing…";
    try {
      const data = await post("explain/lesson", {
        text: this.text.value,
        max_tokens: Number(this.maxTokens.value),
        seed: Number(this.seed.value),
        ...(this.model.value ? { model: this.model.value } : {}),
      });
      new Lesson(data, byId("lesson"));
      this.status.textContent = "";
    } catch (error) {
      this.status.classList.add("error");
      this.status.textContent = error instanceof Error ? error.message : String(error);
    } finally {
      this.button.disabled = false;
    }
  }
}

new ExplainPage();
