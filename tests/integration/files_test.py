"""Models as people have them: in the Hugging Face cache, with odd defaults, with templates of their own; and what is no
model, refused by name. Everything is offline."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import harness
from harness import DEMO_MODEL, Process, Server

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\nlicense: apache-2.0\n---\n# demo\n"


class FilesTest(unittest.TestCase):
    def setUp(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="tessera-files-"))
        self.addCleanup(shutil.rmtree, self.home, ignore_errors=True)
        self.question, self.answer = harness.demo_questions()[0]
        before = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(before)))
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            os.environ.pop(name, None)
        os.environ["HF_HOME"] = str(self.home)

    def cache(self):
        """The demo model as `hf download org/demo` would leave it: blobs, and links to them."""
        model = self.home / "hub" / "models--org--demo"
        snapshot = model / "snapshots" / COMMIT
        for folder in (model / "refs", model / "blobs", snapshot):
            folder.mkdir(parents=True)
        (model / "refs" / "main").write_text(COMMIT)
        for file in [*DEMO_MODEL.iterdir(), None]:
            name = file.name if file else "README.md"
            blob = model / "blobs" / f"blob-{name}"
            blob.write_bytes(file.read_bytes() if file else CARD.encode())
            if not (snapshot / name).exists():
                (snapshot / name).symlink_to(f"../../blobs/blob-{name}")
        (model / "blobs" / "blob-README.md").write_text(CARD)
        return snapshot

    def copy(self, **files):
        """The demo model in a directory of its own; `files` replace or (None) remove some of it."""
        directory = self.home / "copy"
        shutil.copytree(DEMO_MODEL, directory)
        for name, content in files.items():
            path = directory / name.replace("__", ".")
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_text(content if isinstance(content, str) else json.dumps(content))
        return directory

    def refusal(self, model, *flags):
        """What `tessera serve` and `tessera inspect` say of a model that is none."""
        with Process("tessera", "inspect", model) as process:
            self.assertNotEqual(process.wait(), 0)
            inspected = process.output()
        with Process("tessera", "serve", model, "--http-port", "0", "--grpc-port", "0", "--health-port", "0",
                     *flags) as process:
            self.assertNotEqual(process.wait(), 0)
            return inspected, process.output()

    def test_a_name_of_the_hub_is_served_from_the_cache(self):
        snapshot = self.cache()
        with Server("--tp", "2", model="org/demo") as server:
            self.assertEqual(server.chat(self.question, model="org/demo"), self.answer)
            status, model = server.request("GET", "/v1/models/org/demo")[0::2]
            self.assertEqual((status, json.loads(model)["license"]), (200, "apache-2.0"))
            self.assertIn("licence apache-2.0", server.output())
            self.assertIn(str(snapshot), server.output())

    def test_a_worker_finds_the_snapshot_in_its_own_cache(self):
        self.cache()
        with Server("--listen", "127.0.0.1:0", program=("tessera-coordinator",), model="demo=org/demo@main",
                    wait=False) as server:
            harness.wait_until(lambda: "workers 127.0.0.1:" in server.output(), 20, "the log line")
            address = server.output().split("workers ")[1].split()[0]
            with Process("tessera-worker", "--coordinator", address, "--threads", "1"):
                server.wait_ready()
                self.assertEqual(server.chat(self.question, model="demo"), self.answer)

    def test_inspect_takes_the_same_names(self):
        self.cache()
        output = subprocess.run([harness.BIN / "tessera", "inspect", "org/demo"], check=True, capture_output=True,
                                text=True).stdout
        self.assertIn("apache-2.0", output)
        self.assertIn(COMMIT, output)

    def test_what_is_not_there_is_named_with_the_command_that_fetches_it(self):
        for text in self.refusal("org/none"):
            self.assertIn(str(self.home / "hub"), text)
            self.assertIn("hf download org/none", text)

    def test_odd_defaults_do_not_end_the_start(self):
        directory = self.copy(generation_config__json={"top_k": -1, "temperature": "warm", "eos_token_id": None})
        with Server(model=directory) as server:
            self.assertEqual(server.chat(self.question), self.answer)

    def test_another_chat_template(self):
        template = self.home / "mine.jinja"
        template.write_text("{{ raise_exception('mine says no') }}")
        with Server("--chat-template", template) as server:
            status, reply = server.post("/v1/chat/completions",
                                        {"messages": [{"role": "user", "content": self.question}]})
            self.assertEqual(status, 400)
            self.assertIn("mine says no", json.dumps(reply))

    def test_what_is_no_model_is_refused_by_name(self):
        weights = {"model.safetensors".replace(".", "__"): None}
        for files, words in [
            ({"adapter_config__json": {"base_model_name_or_path": "org/base"}}, ["LoRA", "org/base"]),
            ({**weights, "pytorch_model__bin": "x"}, ["pytorch_model.bin", "pickle"]),
            ({**weights, "consolidated__safetensors": "x"}, ["consolidated.safetensors", "Hugging Face"]),
            ({**weights, "model-q4__gguf": "x"}, ["model-q4.gguf", "GGUF"]),
        ]:
            with self.subTest(words[0]):
                directory = self.copy(**files)
                for text in self.refusal(directory):
                    for word in words:
                        self.assertIn(word, text)
                shutil.rmtree(directory)


if __name__ == "__main__":
    harness.run_tests()
