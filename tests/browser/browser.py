"""A headless Chromium, driven through chromedriver's HTTP interface (W3C WebDriver) with nothing but the standard library.

Every wait has a deadline; browser, driver and profile are gone when the `with` block ends.
"""

import base64
import http.client
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

START_SECONDS = 60
ANSWER_SECONDS = 60
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--hide-scrollbars"]
TAB, SHIFT, ENTER = "\ue004", "\ue008", "\ue007"


def find_programs():
    """(chromium, chromedriver), or the test is skipped."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise unittest.SkipTest("needs chromium and chromedriver on PATH; deploy/install-deps.sh --browser installs them")
    return chromium, driver


class Browser:
    def __init__(self):
        chromium, driver = find_programs()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tessera-browser-"))
        self.log_path = self.directory / "chromedriver.log"
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen([driver, "--port=0"], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.session = None
        try:
            self.port = self.await_port()
            arguments = [*FLAGS, f"--user-data-dir={self.directory / 'profile'}"]
            self.session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": {"binary": chromium, "args": arguments},
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}}})["sessionId"]
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        try:
            if self.session is not None:
                self.call("DELETE", f"/session/{self.session}")
        finally:
            self.process.terminate()
            self.process.wait(timeout=30)
            shutil.rmtree(self.directory, ignore_errors=True)

    def await_port(self):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"started successfully on port (\d+)", self.log_path.read_text())
            if found:
                return int(found.group(1))
            time.sleep(0.05)
        raise AssertionError(f"chromedriver did not start\n{self.log_path.read_text()}")

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, path, None if method != "POST" else json.dumps(body or {}),
                               {"Content-Type": "application/json"})
            reply = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(reply, dict) and "error" in reply and "stacktrace" in reply:
            raise AssertionError(f"{method} {path}: {reply['error']}: {reply['message']}")
        return reply

    def do(self, command, body=None, method="POST"):
        return self.call(method, f"/session/{self.session}/{command}", body)

    def devtools(self, command, **parameters):
        return self.do("goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url):
        self.do("url", {"url": url})

    def run(self, script, *arguments):
        """What the script returns; its arguments are arguments[0], ..."""
        return self.do("execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script, what, seconds=20, *arguments):
        """The first true value that the script returns."""
        end = time.monotonic() + seconds
        while True:
            value = self.run(script, *arguments)
            if value:
                return value
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {seconds} s; the page says\n"
                                     f"{self.run('return document.body.innerText')}")
            time.sleep(0.1)

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def press(self, *keys):
        """Each key down and up; what is pressed together comes as one string."""
        actions = []
        for key in keys:
            actions += [{"type": "keyDown", "value": part} for part in key]
            actions += [{"type": "keyUp", "value": part} for part in reversed(key)]
        self.do("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def type(self, text):
        self.press(*text)

    def resize(self, width, height, phone=False):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height,
                      deviceScaleFactor=2 if phone else 1, mobile=phone)

    def prefer(self, **features):
        """prefer(color_scheme="dark"): the media feature prefers-color-scheme."""
        self.devtools("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-" + name.replace("_", "-"), "value": value} for name, value in features.items()])

    def screenshot(self, path, full=False):
        picture = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        pathlib.Path(path).write_bytes(base64.b64decode(picture["data"]))

    def complaints(self):
        """What the console of the browser has said since the last call."""
        return [entry["message"] for entry in self.do("se/log", {"type": "browser"})
                if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self):
        """Addresses that were asked since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.do("se/log", {"type": "performance"})]
        return [event["params"]["request"]["url"] for event in events
                if event["method"] == "Network.requestWillBeSent"]
