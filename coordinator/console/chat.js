// The chat box: one conversation with a served model over POST /v1/chat/completions, streamed. The
// conversation lives in the page only. Answers are shown as text, whatever they contain.

import { element, tellMoney, tellNumber, tellSeconds } from "./dom.js";

// Yields the data of server-sent events.
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (pending + value).split("\n");
    pending = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  }
}

function tellUsage(usage, seconds, first) {
  const told = [`${usage.completion_tokens} tokens`, `first after ${tellSeconds(first)}`];
  if (usage.completion_tokens > 1 && seconds > first) {
    told.push(`${tellNumber((usage.completion_tokens - 1) / (seconds - first))} tokens/s`);
  }
  const cost = usage.cost;
  if (cost) {
    const gpu = Object.values(cost.gpu_seconds).reduce((total, value) => total + value, 0);
    told.push(`${tellSeconds(gpu)} of GPU time`);
    if (cost.currency !== "none") told.push(tellMoney(cost.total, cost.currency));
  }
  return told.join(" · ");
}

export class Chat {
  // `ask(path, options)` is fetch with the API key.
  constructor(root, ask) {
    this.ask = ask;
    this.messages = [];
    this.abort = null;
    for (const name of ["log", "form", "model", "temperature", "limit", "input", "send", "fresh"]) {
      this[name] = root.querySelector(`[data-chat=${name}]`);
    }
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.abort) this.abort.abort();
      else this.submit();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.abort) this.form.requestSubmit();
    });
    this.fresh.addEventListener("click", () => this.clear());
  }

  setModels(names) {
    const shown = [...this.model.options].map((option) => option.value);
    if (shown.join("\n") === names.join("\n")) return;
    const chosen = this.model.value;
    this.model.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (names.includes(chosen)) this.model.value = chosen;
  }

  clear() {
    this.abort?.abort();
    this.messages = [];
    this.log.replaceChildren(element("p", { class: "note" }, "Ask something."));
    this.input.focus();
  }

  say(role, text) {
    if (this.messages.length === 0 && !this.log.querySelector(".message")) this.log.replaceChildren();
    const words = element("div", { class: "text" }, text);
    const foot = element("small", {});
    const message = element("div", { class: `message ${role}` },
      element("b", { class: "who" }, role === "user" ? "You" : this.model.value), words, foot);
    this.log.append(message);
    this.log.scrollTop = this.log.scrollHeight;
    return { message, words, foot };
  }

  async submit() {
    const text = this.input.value.trim();
    if (!text) return;
    this.say("user", text);
    this.messages.push({ role: "user", content: text });
    this.input.value = "";
    const conversation = this.messages;
    const shown = this.say("assistant", "");
    shown.message.setAttribute("aria-busy", "true");
    this.abort = new AbortController();
    this.send.textContent = "Stop";
    try {
      await this.stream(conversation, shown);
    } catch (error) {
      if (error.name === "AbortError") {
        shown.foot.textContent = "stopped";
      } else {
        shown.message.classList.add("failed");
        shown.foot.textContent = error.message;
      }
    }
    const answer = shown.words.textContent;
    if (answer) conversation.push({ role: "assistant", content: answer });
    else conversation.pop(); // a question without an answer is not part of the conversation
    shown.message.removeAttribute("aria-busy");
    this.abort = null;
    this.send.textContent = "Send";
  }

  body(conversation) {
    const body = { model: this.model.value, messages: conversation, stream: true,
                   stream_options: { include_usage: true }, include_cost: true };
    if (this.temperature.value !== "") body.temperature = Number(this.temperature.value);
    if (this.limit.value !== "") body.max_tokens = Number(this.limit.value);
    return JSON.stringify(body);
  }

  async stream(conversation, { words, foot }) {
    const begun = performance.now();
    const seconds = () => (performance.now() - begun) / 1000;
    const response = await this.ask("v1/chat/completions", {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: this.body(conversation), signal: this.abort.signal });
    if (!response.ok) {
      const reply = await response.json().catch(() => null);
      throw new Error(reply?.error?.message ?? `the server answered ${response.status}`);
    }
    let first = null;
    for await (const data of eventsOf(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices?.[0]?.delta?.content;
      if (delta) {
        first ??= seconds();
        const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
        words.append(delta);
        if (atEnd) this.log.scrollTop = this.log.scrollHeight;
      }
      if (event.usage) foot.textContent = tellUsage(event.usage, seconds(), first ?? seconds());
    }
    throw new Error("the answer broke off");
  }
}
