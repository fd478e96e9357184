"""The console in a headless Chromium against a live cluster: it loads from this server alone, shows what the server
counts, chats, asks for a key where one is needed, and can be read and used on a phone, in the dark and by keyboard.

TESSERA_SCREENSHOTS=DIR keeps the pictures.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # noqa: E402
from browser import ENTER, SHIFT, TAB, Browser, find_programs  # noqa: E402

QUESTION, ANSWER = harness.demo_questions()[0]
PRICES = 'currency: XTS\ndevices:\n  - {name: "*", hour: 7.2}\n'  # XTS: the code for tests
CONTRAST_MIN = 4.5  # WCAG 2, AA
VIEWS = [("desktop", 1280, 800, False), ("phone", 390, 844, True)]

# Of all text that is seen, the pairs of colours whose contrast is below arguments[0].
FAINT_TEXT = """
const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const colour = rgba(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const faint = [];
let seen = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const parent = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !parent.checkVisibility()) continue;
  if (["SCRIPT", "NOSCRIPT", "OPTION"].includes(parent.tagName)) continue;
  const style = getComputedStyle(parent);
  const inSvg = parent instanceof SVGElement;
  const [a, b] = [luminance(rgba(inSvg ? style.fill : style.color)), luminance(ground(parent))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  seen += 1;
  if (contrast < arguments[0]) {
    faint.push(`${walker.currentNode.data.trim().slice(0, 30)}: ${contrast.toFixed(2)}`);
  }
}
return [seen, faint];
"""

# What sticks out on the right, as text.
WIDE_THINGS = """
const wide = [...document.querySelectorAll("body *")].filter((node) =>
  node.checkVisibility() && !node.closest(".skip, .hidden") &&
  node.getBoundingClientRect().right > innerWidth + 0.5);
const page = document.documentElement.scrollWidth > innerWidth ? ["the page"] : [];
return page.concat(wide.map((node) => `${node.tagName}.${node.className} ${node.textContent.slice(0, 40)}`));
"""

# A number for each thing that can be used by pointer and can be seen.
USABLE = """
return [...document.querySelectorAll("a[href], button, input, select, textarea, [tabindex='0']")]
  .filter((node) => node.checkVisibility() && !node.disabled)
  .map((node, i) => { node.dataset.usable = i; return node.outerHTML.slice(0, 80); });
"""


class Load:
    """Two clients that ask without a pause, as long as the `with` block."""

    def __init__(self, server):
        self.server, self.stop, self.failures, self.answers = server, threading.Event(), [], 0
        self.threads = [threading.Thread(target=self.repeat) for _ in range(2)]

    def repeat(self):
        while not self.stop.is_set():
            try:
                self.server.chat(QUESTION, ignore_eos=True, max_tokens=200)
                self.answers += 1
            except Exception as failure:  # told when the block ends
                self.failures.append(failure)
                return

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self.stop.set()
        for thread in self.threads:
            thread.join(timeout=60)
        if exception[0] is None and self.failures:
            raise self.failures[0]


class ConsoleCase(unittest.TestCase):
    """One server and one browser for all tests of a class; every test opens the page anew."""

    arguments = ()
    ready = "Ready"

    @classmethod
    def setUpClass(cls):
        find_programs()
        cls.directory = pathlib.Path(tempfile.mkdtemp(prefix="tessera-console-"))
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.server = cls.enterClass(harness.Server(*cls.make_arguments()))
        cls.browser = cls.enterClass(Browser())
        cls.url = f"http://{cls.server.addresses['http']}/"

    @classmethod
    def enterClass(cls, context):  # there from Python 3.11 on
        entered = context.__enter__()
        cls.addClassCleanup(context.__exit__, None, None, None)
        return entered

    def setUp(self):
        self.browser.complaints()
        self.browser.requests()
        self.browser.prefer(color_scheme="light")
        self.show(*VIEWS[0][1:])
        self.browser.open(self.url)
        self.browser.run("localStorage.clear(); sessionStorage.clear();")
        self.browser.open(self.url)
        self.await_status(self.ready)

    def show(self, width, height, phone):
        self.browser.resize(width, height, phone)

    def await_status(self, text, seconds=20):
        self.browser.wait("return document.querySelector('#status').textContent.startsWith(arguments[0])",
                          f"the status {text}", seconds, text)

    def figure(self, tile):
        return self.browser.run(
            "return document.querySelector(`[data-tile=${arguments[0]}] dd`).firstChild.data", tile)

    def ask(self, question):
        self.browser.run("const box = document.querySelector('#chat-input'); box.focus(); box.value = '';")
        self.browser.type(question)
        self.browser.press(ENTER)

    def await_answer(self, count=1):
        """The last answer, once there are so many and it has a line about itself below."""
        return self.browser.wait("""
            const answers = document.querySelectorAll("#chat .message.assistant");
            const last = answers[answers.length - 1];
            return answers.length === arguments[0] && !last.ariaBusy && last.querySelector("small").textContent
              ? [last.querySelector(".text").textContent, last.querySelector("small").textContent] : null;""",
            f"{count} answers", 30, count)


class OpenConsoleTest(ConsoleCase):
    @classmethod
    def make_arguments(cls):
        prices = cls.directory / "prices.yaml"
        prices.write_text(PRICES)
        return ["--tp", "2", "--price-file", prices]

    def test_it_loads_quietly_and_from_this_server_alone(self):
        self.browser.wait("return document.querySelector('[data-tile=tokens] dd').firstChild.data !== '–'",
                          "a second poll")
        asked = [url for url in self.browser.requests() if not url.startswith("data:")]
        for wanted in ("", "console/files/console.js", "console/files/console.css", "console/state", "metrics"):
            self.assertIn(self.url + wanted, asked)
        self.assertEqual([url for url in asked if not url.startswith(self.url)], [])
        self.assertEqual(self.browser.complaints(), [])
        # The policy holds: nothing from elsewhere, nothing inline.
        blocked = self.browser.run("""
            return Promise.all([fetch("http://192.0.2.1/").then(() => "asked", () => "blocked"),
              new Promise((resolve) => { const inline = document.createElement("script");
                inline.textContent = "window.inlineRan = true"; document.head.append(inline);
                resolve(window.inlineRan ? "ran" : "blocked"); })]);""")
        self.assertEqual(blocked, ["blocked", "blocked"])
        self.assertEqual([url for url in self.browser.requests() if "192.0.2.1" in url], [])

    def test_it_shows_what_the_server_counts(self):
        with Load(self.server) as load:
            self.browser.wait("return Number(document.querySelector('[data-tile=running] dd').firstChild.data) > 0",
                              "running sequences")
            self.browser.wait("return document.querySelectorAll('.kv-map .kv-held').length > 0", "held blocks")
            self.browser.wait("""
                return [...document.querySelectorAll(".line.series-0")]
                  .every((line) => /L/.test(line.getAttribute("d")));""", "a line in every chart", 30)
            label = self.browser.run("return document.querySelector('#chart-next .plot').ariaLabel")
            self.assertRegex(label, r"now: p50 [\d.]+ (ms|s|µs), p95 [\d.]+ (ms|s|µs), p99")
            self.assertRegex(self.figure("first"), r"^[\d.]+ (ms|s|µs)$")
            shown = float(self.figure("tokens").replace(",", ""))
            counted = self.server.scrape()
            self.assertGreater(shown, 0)
            self.assertLess(shown, 10 * counted.sum("tessera_generation_tokens_total"))
        self.assertGreater(load.answers, 0)
        scrape = self.server.scrape()
        ended = int(scrape.sum("tessera_requests_total", finish_reason="length"))
        self.browser.wait("return document.querySelector('#queue-body').innerText.includes(arguments[0])",
                          "the requests that ended", 10, f"length {ended}")
        self.browser.wait("return document.querySelector('[data-tile=running] dd').firstChild.data === '0'",
                          "nothing running")
        groups = self.browser.text("#groups-body")
        self.assertIn("Group 0 · demo-model · ready", groups)
        self.assertEqual(self.browser.run("return document.querySelectorAll('[data-rank]').length"), 2)
        harness.wait_until(self.cost_is_right, 10, "the tenant's cost as its GPU-seconds say")
        kinds = set(self.browser.run("return [...document.querySelectorAll('[data-kind]')].map((k) => k.dataset.kind)"))
        self.assertLessEqual({"prefill", "decode", "load", "idle_none"}, kinds)
        self.assertIn("per device-hour of demo-model", self.browser.text("#cost-body"))
        self.assertEqual(self.browser.complaints(), [])

    def cost_is_right(self):
        row = self.browser.text("[data-tenant=default]").split("\t")
        shown = float(row[-1].removeprefix("XTS ").replace(",", ""))
        cost = self.server.metric("tessera_gpu_seconds_total", tenant="default") * 7.2 / 3600
        return row[0] == "default" and abs(shown - cost) < 0.006 * cost  # three digits are shown

    def test_the_chat_streams_an_answer(self):
        self.browser.run("""
            document.querySelector("[data-chat=temperature]").value = "0";
            window.lengths = new Set();
            new MutationObserver(() => {
              const text = document.querySelector(".message.assistant .text")?.textContent ?? "";
              window.lengths.add(text.length);
            }).observe(document.querySelector(".log"), { subtree: true, childList: true, characterData: true });""")
        self.ask(QUESTION)
        text, said = self.await_answer()
        self.assertEqual(text, ANSWER)
        self.assertRegex(said, r"^\d+ tokens · first after .* of GPU time · XTS [\d.]+$")
        self.assertGreater(self.browser.run("return window.lengths.size"), 3, "it came in one piece")
        self.ask(harness.demo_questions()[1][0])
        self.assertGreater(len(self.await_answer(2)[0]), 0)
        self.browser.run("document.querySelector('[data-chat=fresh]').click()")
        self.assertEqual(self.browser.run("return document.querySelectorAll('.message').length"), 0)
        self.assertEqual(self.browser.complaints(), [])

    def test_an_answer_can_be_stopped(self):
        before = self.server.metric("tessera_requests_total", finish_reason="cancelled")
        self.browser.run("""
            const fetched = window.fetch;
            window.fetch = (path, options) => {
              if (options?.body) options.body = JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true });
              return fetched(path, options);
            };""")
        self.ask(QUESTION)
        self.browser.wait("return document.querySelector('.message.assistant .text')?.textContent.length > 0",
                          "the beginning of an answer")
        self.browser.run("document.querySelector('[data-chat=send]').click()")
        self.assertEqual(self.await_answer()[1], "stopped")
        harness.wait_until(
            lambda: self.server.metric("tessera_requests_total", finish_reason="cancelled") > before, 10,
            "the server's end of it")
        self.assertEqual(self.browser.text("[data-chat=send]"), "Send")

    def test_text_from_outside_is_text(self):
        evil = "<img src=x onerror=\"window.evil=1\"><script>window.evil=1</script><b>&amp;"
        self.browser.run("""
            const event = (object) => `data: ${JSON.stringify(object)}\\n\\n`;
            const fetched = window.fetch;
            window.fetch = (path, options) => path !== "v1/chat/completions" ? fetched(path, options)
              : Promise.resolve(new Response(
                  event({ choices: [{ delta: { content: arguments[0] } }] }) + "data: [DONE]\\n\\n"));""", evil)
        self.ask(evil)
        self.browser.wait("return document.querySelector('.message.assistant .text')?.textContent === arguments[0]",
                          "the answer as it is", 10, evil)
        self.assertEqual(self.browser.run("return document.querySelectorAll('.log img, .log script, .text b').length"), 0)
        self.assertIsNone(self.browser.run("return window.evil ?? null"))

    def test_a_refusal_is_told(self):
        self.browser.run("document.querySelector('[data-chat=limit]').value = '100000000'")
        self.ask(QUESTION)
        text, said = self.await_answer()
        self.assertEqual(text, "")
        self.assertIn("max_tokens", said)

    def test_it_can_be_read_everywhere(self):
        self.ask(QUESTION)
        self.await_answer()
        with Load(self.server):
            for name, width, height, phone in VIEWS:
                for scheme in ("light", "dark"):
                    with self.subTest(view=name, scheme=scheme):
                        self.show(width, height, phone)
                        self.browser.prefer(color_scheme=scheme)
                        self.browser.run("return new Promise((done) => setTimeout(done, 2500))")
                        self.assertEqual(self.browser.run(WIDE_THINGS), [])
                        seen, faint = self.browser.run(FAINT_TEXT, CONTRAST_MIN)
                        self.assertGreater(seen, 80)
                        self.assertEqual(faint, [])
                        dark = self.browser.run("return getComputedStyle(document.body).backgroundColor")
                        self.assertEqual(dark == "rgb(18, 21, 26)", scheme == "dark", dark)
                        self.keep_picture(f"{name}-{scheme}")

    def test_what_cannot_be_read_is_seen(self):
        self.browser.run("""
            const faint = document.createElement("p"), wide = document.createElement("p");
            faint.textContent = "a faint line";
            faint.style.color = "#999";
            wide.textContent = "a wide line";
            wide.style.width = "2000px";
            document.querySelector("#queue").append(faint, wide);""")
        self.assertRegex(" ".join(self.browser.run(FAINT_TEXT, CONTRAST_MIN)[1]), "^a faint line: 2.8")
        self.assertIn("a wide line", " ".join(self.browser.run(WIDE_THINGS)))

    def keep_picture(self, name):
        folder = os.environ.get("TESSERA_SCREENSHOTS")
        if not folder:
            return
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        self.browser.screenshot(pathlib.Path(folder) / f"{name}.png")
        self.browser.screenshot(pathlib.Path(folder) / f"{name}-whole.png", full=True)

    def test_everything_is_reached_by_keyboard(self):
        for name, width, height, phone in VIEWS:
            with self.subTest(view=name):
                self.show(width, height, phone)
                usable = self.browser.run(USABLE)
                self.assertGreater(len(usable), 14)
                self.browser.run("document.activeElement.blur(); window.scrollTo(0, 0);")
                reached, unseen = set(), []
                for _ in range(len(usable) + 3):
                    self.browser.press(TAB)
                    number, outline, html = self.browser.run("""
                        const node = document.activeElement, style = getComputedStyle(node);
                        return [node.dataset.usable ?? "", style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
                                node.outerHTML.slice(0, 80)];""")
                    if number:
                        reached.add(int(number))
                        if outline < 2:
                            unseen.append(html)
                self.assertEqual([html for i, html in enumerate(usable) if i not in reached], [])
                self.assertEqual(unseen, [])

    def test_the_charts_tell_their_values_by_keyboard(self):
        self.browser.wait("return document.querySelectorAll('#chart-load .line.series-0[d*=L]').length > 0", "two points")
        self.browser.run("document.querySelector('#chart-load .plot').focus()")
        self.browser.press("\ue012")  # left
        self.assertRegex(self.browser.run("return document.querySelector('#chart-load .plot').ariaLabel"),
                         r"\d+ s ago: running \d+, waiting \d+")
        self.browser.press("\ue00c")  # Escape
        self.assertIn("now: running", self.browser.run("return document.querySelector('#chart-load .plot').ariaLabel"))

    def test_the_theme_is_chosen_and_kept(self):
        ground = "return getComputedStyle(document.body).backgroundColor"
        light = self.browser.run(ground)
        self.browser.run("document.querySelector('#theme').click(); document.querySelector('#theme').click();")
        self.assertEqual(self.browser.text("#theme"), "Theme: dark")
        self.assertNotEqual(self.browser.run(ground), light)
        self.browser.open(self.url)
        self.assertEqual(self.browser.text("#theme"), "Theme: dark")
        self.assertNotEqual(self.browser.run(ground), light)

    def test_who_wants_no_motion_gets_none(self):
        moving = """
            const message = document.createElement("div");
            message.className = "message";
            message.setAttribute("aria-busy", "true");
            message.innerHTML = "<div class=text></div>";
            document.querySelector(".log").append(message);
            return [getComputedStyle(message.firstChild, "::after").animationName,
                    getComputedStyle(document.documentElement).scrollBehavior];"""
        self.assertEqual(self.browser.run(moving), ["blink", "smooth"])
        self.browser.prefer(reduced_motion="reduce")
        self.assertEqual(self.browser.run(moving), ["none", "auto"])

    def test_paused_it_asks_nothing(self):
        self.browser.run("document.querySelector('#pause').click()")
        self.browser.run("return new Promise((done) => setTimeout(done, 1000))")
        self.browser.requests()
        self.browser.run("return new Promise((done) => setTimeout(done, 3000))")
        self.assertEqual(self.browser.requests(), [])
        self.assertEqual(self.browser.text("#status"), "Paused")
        self.browser.run("document.querySelector('#pause').click()")
        self.await_status("Ready")


class KeyConsoleTest(ConsoleCase):
    ready = "API key needed"

    @classmethod
    def make_arguments(cls):
        keys = cls.directory / "keys.json"
        keys.write_text(json.dumps({"tenants": [], "keys": []}))
        made = subprocess.run([harness.BIN / "tessera", "keygen", "--tenant", "acme", "--file", keys],
                              check=True, capture_output=True, text=True, timeout=30)
        cls.key = made.stdout.strip()
        content = json.loads(keys.read_text())
        content["tenants"] = [{"name": "acme"}]
        keys.write_text(json.dumps(content))
        return ["--api-keys", keys]

    def enter(self, key):
        self.browser.run("document.querySelector('#key').focus()")
        self.browser.type(key)
        self.browser.press(ENTER)

    def test_a_key_is_asked_for_and_kept_in_the_tab(self):
        self.assertIn("asks for an API key", self.browser.text("#key-said"))
        self.assertEqual(self.browser.run("return document.querySelectorAll('[data-group]').length"), 0)
        self.enter("wrong")
        self.browser.wait("return document.querySelector('#key-said').textContent.includes('does not know')", "a refusal")
        self.enter(self.key)
        self.await_status("Ready")
        self.ask(QUESTION)
        self.assertGreater(len(self.await_answer()[0]), 0)
        self.browser.wait("return document.querySelector('[data-tenant=acme]')", "the tenant")
        self.assertIn("money is not", self.browser.text("#cost-body"))  # no price was given: none is shown
        self.assertEqual(self.browser.text("[data-tenant=acme]").split("\t")[-1], "–")
        self.assertEqual(self.browser.run("return [Object.values(sessionStorage), Object.values(localStorage)]"),
                         [[self.key], []])
        self.assertEqual([url for url in self.browser.requests() if self.key in url], [])
        # Before the key was known the server said so; nothing else was wrong.
        self.assertEqual([said for said in self.browser.complaints() if "401" not in said], [])
        self.browser.open(self.url)
        self.await_status("Ready")

    def test_a_server_that_is_gone_is_told(self):
        # Last of its class: it stops the server.
        self.enter(self.key)
        self.await_status("Ready")
        self.server.stop()
        self.await_status("No answer from the server")
        self.assertTrue(self.browser.run("return document.body.classList.contains('stale')"))
        self.assertEqual(self.browser.run(FAINT_TEXT, CONTRAST_MIN)[1], [])


class FlagTest(unittest.TestCase):
    def test_it_is_off_by_flag(self):
        with harness.Server("--no-console") as server:
            self.assertNotIn("console", server.addresses)
            for path in ("/", "/console/state", "/console/files/console.js"):
                self.assertEqual(server.request("GET", path)[0], 404)

    def test_off_this_machine_it_comes_only_when_asked_for(self):
        for flags, there in ((), False), (("--console",), True):
            with harness.Server("--host", "0.0.0.0", *flags) as server:
                server.addresses["http"] = server.addresses["http"].replace("0.0.0.0", "127.0.0.1")
                self.assertEqual("console" in server.addresses, there)
                self.assertEqual(server.request("GET", "/")[0], 200 if there else 404)


if __name__ == "__main__":
    harness.run_tests()
