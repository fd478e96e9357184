"""Whatever is wrong with a model, a machine or a peer: said at once, by name, with a non-zero exit."""

import json
import pathlib
import shutil
import struct
import tempfile
import time
import unittest

import grpc

import harness
from harness import DEMO_MODEL, Process, Server

QUICK_SECONDS = 20


class ModelCopyTest(unittest.TestCase):
    """A copy of the demo model to break."""

    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="tessera-model-")) / "broken"
        shutil.copytree(DEMO_MODEL, self.directory)
        self.addCleanup(shutil.rmtree, self.directory.parent)

    def refused(self, *words, flags=("--tp", "2")):
        begun = time.monotonic()
        with Process("tessera", "serve", "--model", self.directory, "--http-port", "0", "--grpc-port",
                     "0", "--health-port", "0", *flags) as serve:
            self.assertNotEqual(serve.wait(QUICK_SECONDS), 0)
            output = serve.output()
        self.assertLess(time.monotonic() - begun, QUICK_SECONDS)
        for word in words:
            self.assertIn(word, output)
        self.assertNotIn("check failed", output)


class BadModelTest(ModelCopyTest):
    def edit_config(self, **changes):
        path = self.directory / "config.json"
        config = json.loads(path.read_text())
        config.update(changes)
        path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    def rewrite_header(self, change):
        """Lets `change` edit the safetensors header; the data stays where it is."""
        path = self.directory / "model.safetensors"
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length:])

    def test_truncated_safetensors(self):
        path = self.directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:100_000])
        self.refused("model.safetensors")

    def test_overlapping_tensors(self):
        def overlap(header):
            names = [name for name in header if name != "__metadata__"]
            header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
            header[names[1]]["shape"] = header[names[0]]["shape"]
        self.rewrite_header(overlap)
        self.refused("model.safetensors")

    def test_a_missing_and_an_extra_tensor(self):
        def rename(header):
            header["model.layers.0.mlp.up_proj.wrong"] = header.pop("model.layers.0.mlp.up_proj.weight")
        self.rewrite_header(rename)
        self.refused("model.layers.0.mlp.up_proj")

    def test_a_wrong_shape(self):
        def transpose(header):
            header["model.layers.0.mlp.up_proj.weight"]["shape"].reverse()
        self.rewrite_header(transpose)
        self.refused("model.layers.0.mlp.up_proj.weight")

    def test_unknown_architecture(self):
        self.edit_config(architectures=["MambaForCausalLM"])
        self.refused("MambaForCausalLM", "LlamaForCausalLM")

    def test_missing_tokenizer(self):
        (self.directory / "tokenizer.json").unlink()
        self.refused("tokenizer.json")

    def test_damaged_tokenizer(self):
        (self.directory / "tokenizer.json").write_text('{"model": 5}')
        self.refused("tokenizer.json")

    def test_impossible_numbers(self):
        for key, value in (("hidden_size", -4), ("num_hidden_layers", 10**9), ("vocab_size", "many"),
                           ("num_attention_heads", 0), ("rms_norm_eps", None)):
            shutil.copy(DEMO_MODEL / "config.json", self.directory / "config.json")
            with self.subTest(key=key):
                if value is None:
                    continue
                self.edit_config(**{key: value})
                self.refused(key)

    def test_config_that_is_no_json(self):
        (self.directory / "config.json").write_text("hello")
        self.refused("config.json")

    def test_tp_that_does_not_divide(self):
        self.edit_config(intermediate_size=6 * 117)
        self.refused("tp", flags=("--tp", "4"))

    def test_not_enough_memory_says_what_would_fit(self):
        self.refused("does not fit", "what would fit", flags=("--tp", "2", "--memory", "4MiB"))

    def test_no_such_directory(self):
        shutil.rmtree(self.directory)
        self.directory.mkdir()
        self.refused("config.json")

    def test_cuda_in_a_cpu_build(self):
        self.refused("CUDA", flags=("--tp", "1", "--device", "cuda"))


class NotANumberTest(ModelCopyTest):
    """Small tensors that decide are looked at while loading. NaN in a large one is met later: each request must then
    end alone, and its group go on."""

    def fill_with_nan(self, name):
        path = self.directory / "model.safetensors"
        data = bytearray(path.read_bytes())
        length = struct.unpack("<Q", data[:8])[0]
        begin, end = json.loads(data[8:8 + length])[name]["data_offsets"]
        data[8 + length + begin:8 + length + end] = struct.pack("<H", 0x7FC0) * ((end - begin) // 2)
        path.write_bytes(data)

    def test_a_norm_that_is_no_number_is_refused(self):
        self.fill_with_nan("model.norm.weight")
        self.refused("model.norm.weight", "finite")

    def test_logits_that_are_no_numbers_end_the_request_and_not_the_group(self):
        self.fill_with_nan("model.layers.0.mlp.down_proj.weight")
        with Server("--tp", "2", model=self.directory) as server:
            ranks = server.worker_pids()
            for temperature in (0, 1):
                status, reply = server.post("/v1/completions", {
                    "prompt": "a", "max_tokens": 4, "temperature": temperature})
                self.assertEqual(status, 500, reply)
                self.assertIn("error", reply)
            self.assertEqual(server.worker_pids(), ranks)
            self.assertNotIn("lost its group", server.output())


class BadPeerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stubs = harness.Stubs()
        cls.addClassCleanup(cls.stubs.__exit__, None, None, None)
        cls.coordinator = Server("--listen", "127.0.0.1:0", "--tp", "1",
                                 program=("tessera-coordinator",), wait=False)
        cls.addClassCleanup(cls.coordinator.__exit__, None, None, None)
        harness.wait_until(lambda: "workers 127.0.0.1:" in cls.coordinator.output(), 20, "the log line")
        cls.address = cls.coordinator.output().split("workers ")[1].split()[0]

    def test_another_protocol_version_is_refused_by_name(self):
        messages = self.stubs.cluster
        hello = messages.WorkerMessage(hello=messages.Hello(
            protocol_version=99, worker_name="future",
            hardware=messages.Hardware(device="cpu", host_id="x", memory_free_bytes=1 << 30)))
        with grpc.insecure_channel(self.address) as channel:
            stub = self.stubs.cluster_grpc.ClusterStub(channel)
            with self.assertRaises(grpc.RpcError) as refused:
                list(stub.Join(iter([hello]), timeout=10))
        self.assertEqual(refused.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertIn("99", refused.exception.details())

    def test_a_worker_with_another_model_says_so_and_so_does_the_coordinator(self):
        with tempfile.TemporaryDirectory() as root:
            other = pathlib.Path(root) / "demo-model"
            shutil.copytree(DEMO_MODEL, other)
            config = json.loads((other / "config.json").read_text())
            config["rope_theta"] = 12345.0
            (other / "config.json").write_text(json.dumps(config))
            with Process("tessera-worker", "--coordinator", self.address, "--model-root", root) as worker:
                self.assertNotEqual(worker.wait(QUICK_SECONDS), 0)
                self.assertIn("digest", worker.output())
            harness.wait_until(lambda: "digest" in self.coordinator.output(), 10,
                               "the coordinator's word on it")

    def test_a_worker_without_the_model(self):
        with tempfile.TemporaryDirectory() as root:
            with Process("tessera-worker", "--coordinator", self.address, "--model-root", root) as worker:
                self.assertNotEqual(worker.wait(QUICK_SECONDS), 0)
                self.assertIn("demo-model", worker.output())

    def test_no_coordinator(self):
        with Process("tessera-worker", "--coordinator", "127.0.0.1:1", "--reconnect-seconds", "1") as worker:
            self.assertNotEqual(worker.wait(QUICK_SECONDS), 0)
            self.assertIn("127.0.0.1:1", worker.output())


if __name__ == "__main__":
    harness.run_tests()
