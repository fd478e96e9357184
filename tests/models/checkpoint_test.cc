// Model directories: what is opened, what is refused, and what the digest sees.

#include "models/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <set>

#include "tests/models/model_files.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

std::string Message(const TempDir& dir) {
  return std::string(Checkpoint::Open(dir.path()).status().message());
}

ModelSpec SmallSpec() { return *ParseModelSpec(SmallConfig().dump()); }

void WriteSmallModel(const TempDir& dir, char fill = 1) {
  dir.Write("config.json", SmallConfig().dump());
  dir.Write("model.safetensors", SafetensorsFile(TensorsOf(SmallSpec()), fill));
}

// Two files and an index; `index` may be changed before it is written.
Json WriteShardedModel(const TempDir& dir) {
  dir.Write("config.json", SmallConfig().dump());
  const std::vector<FakeTensor> all = TensorsOf(SmallSpec());
  const std::vector<FakeTensor> first(all.begin(), all.begin() + 5);
  const std::vector<FakeTensor> second(all.begin() + 5, all.end());
  dir.Write("model-00001-of-00002.safetensors", SafetensorsFile(first));
  dir.Write("model-00002-of-00002.safetensors", SafetensorsFile(second));
  Json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", Json::object()}};
  for (const FakeTensor& t : first)
    index["weight_map"][t.name] = "model-00001-of-00002.safetensors";
  for (const FakeTensor& t : second)
    index["weight_map"][t.name] = "model-00002-of-00002.safetensors";
  dir.Write("model.safetensors.index.json", index.dump());
  return index;
}

TEST(Checkpoint, OpensASingleFile) {
  const TempDir dir;
  WriteSmallModel(dir);
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), WeightTable(SmallSpec()).size());
  EXPECT_EQ((*checkpoint)->tensor_bytes(), 4u * ParameterCount(SmallSpec()));
  EXPECT_EQ((*checkpoint)->config_json(), SmallConfig().dump());
  EXPECT_EQ((*checkpoint)->generation_config_json(), "");
  EXPECT_EQ((*checkpoint)->digest().size(), 64u);
  EXPECT_TRUE(CheckTensors(SmallSpec(), **checkpoint).ok());
  const Checkpoint::Located& norm = (*checkpoint)->tensors().at("model.norm.weight");
  EXPECT_EQ(norm.file->data()[norm.entry.begin], 1);
}

TEST(Checkpoint, OpensShards) {
  const TempDir dir;
  WriteShardedModel(dir);
  dir.Write("generation_config.json", "{}");
  const auto checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->generation_config_json(), "{}");
  EXPECT_TRUE(CheckTensors(SmallSpec(), **checkpoint).ok());
}

TEST(Checkpoint, MissingFilesAreNamed) {
  const TempDir dir;
  EXPECT_EQ(Checkpoint::Open(dir.path() + "/none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(dir), HasSubstr("has no config.json"));
  dir.Write("config.json", SmallConfig().dump());
  EXPECT_EQ(Checkpoint::Open(dir.path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(dir),
              HasSubstr("neither model.safetensors nor model.safetensors.index.json"));
  dir.Write("model.safetensors", "");
  EXPECT_THAT(Message(dir), HasSubstr("model.safetensors is empty"));
}

TEST(Checkpoint, PickleIsRefusedWithAWayOut) {
  const TempDir dir;
  dir.Write("config.json", SmallConfig().dump());
  dir.Write("pytorch_model.bin", "\x80\x02}q\x00.");
  EXPECT_EQ(Checkpoint::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(dir),
              AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("safe_serialization=True")));
}

TEST(Checkpoint, OtherFormsOfModelsAreRefusedByName) {
  struct Case {
    const char* file;
    const char* word;
  };
  for (const Case& c :
       {Case{"pytorch_model.bin", "pickle"}, Case{"model.pt", "pickle"},
        Case{"consolidated.00.pth", "own layout"}, Case{"weights.ckpt", "pickle"},
        Case{"model-q4_k_m.gguf", "GGUF is not read"},
        Case{"consolidated.safetensors", "own layout"}, Case{"params.json", "own layout"},
        Case{"tf_model.h5", "save_pretrained"}, Case{"flax_model.msgpack", "save_pretrained"},
        Case{"model-00001-of-00002.safetensors", "not model.safetensors.index.json"}}) {
    for (const bool with_config : {false, true}) {
      const TempDir dir;
      dir.Write("tokenizer.json", "{}");
      dir.Write("optimizer.pt", "x");
      if (with_config) dir.Write("config.json", SmallConfig().dump());
      EXPECT_EQ(Checkpoint::Open(dir.path()).status().code(), absl::StatusCode::kNotFound)
          << "a trainer's files are no weights: " << Message(dir);
      dir.Write(c.file, "x");
      EXPECT_EQ(Checkpoint::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(Message(dir),
                  AllOf(HasSubstr(c.file), HasSubstr(c.word),
                        HasSubstr(with_config ? "neither model.safetensors" : "no config.json")));
    }
  }
}

TEST(Checkpoint, AnAdapterIsNoModel) {
  const TempDir dir;
  dir.Write("adapter_config.json",
            R"({"base_model_name_or_path": "org/base", "peft_type": "LORA"})");
  dir.Write("adapter_model.safetensors", "x");
  EXPECT_EQ(Checkpoint::Open(dir.path()).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(dir), AllOf(HasSubstr("adapter_config.json"), HasSubstr("LoRA"),
                                  HasSubstr("org/base"), HasSubstr("merge_and_unload")));
  WriteSmallModel(dir);
  EXPECT_THAT(Message(dir), HasSubstr("LoRA")) << "also beside a whole model";
  for (const char* damaged : {"", "[]", "{", R"({"base_model_name_or_path": 7})"}) {
    dir.Write("adapter_config.json", damaged);
    EXPECT_THAT(Message(dir), HasSubstr("LoRA")) << damaged;
  }
}

TEST(Checkpoint, LinksAreFollowed) {
  const TempDir blobs;
  WriteSmallModel(blobs);
  const TempDir dir;
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::create_symlink(blobs.path() + "/" + name, dir.path() + "/" + name);
  }
  EXPECT_TRUE(Checkpoint::Open(dir.path()).ok()) << Message(dir);
  std::filesystem::remove(blobs.path() + "/model.safetensors");
  // Not as if there were none.
  EXPECT_EQ(Checkpoint::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(dir), HasSubstr("model.safetensors: No such file"));
  // A link to an index counts as well.
  std::filesystem::remove(dir.path() + "/model.safetensors");
  EXPECT_EQ(Checkpoint::Open(dir.path()).status().code(), absl::StatusCode::kNotFound);
  std::filesystem::create_symlink(blobs.path() + "/none",
                                  dir.path() + "/model.safetensors.index.json");
  EXPECT_EQ(Checkpoint::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(dir), HasSubstr("model.safetensors.index.json: No such file"));
}

TEST(Checkpoint, WeightsUnderOtherNamesAreNamed) {
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json",
                           "weights.safetensors", "model-00001-of-00002.safetensors"}) {
    const TempDir dir;
    dir.Write("config.json", SmallConfig().dump());
    dir.Write(name, "{}");
    EXPECT_EQ(Checkpoint::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(dir), HasSubstr(name));
  }
}

TEST(Checkpoint, ATruncatedFileIsNamed) {
  const TempDir dir;
  WriteSmallModel(dir);
  const std::string file = SafetensorsFile(TensorsOf(SmallSpec()));
  dir.Write("model.safetensors", file.substr(0, file.size() - 10));
  EXPECT_THAT(Message(dir),
              AllOf(HasSubstr("model.safetensors: the file is truncated"), HasSubstr(dir.path())));
}

TEST(Checkpoint, APipeIsNotAFile) {
  const TempDir dir;
  dir.Write("config.json", SmallConfig().dump());
  ASSERT_EQ(mkfifo((dir.path() + "/model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(Message(dir), HasSubstr("is not a file"));
}

TEST(Checkpoint, TheIndexMustStayInsideTheDirectory) {
  for (const char* file : {"../secret.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..",
                           ".hidden.safetensors", "weights.bin", "", "a\\b.safetensors"}) {
    const TempDir dir;
    Json index = WriteShardedModel(dir);
    index["weight_map"]["model.norm.weight"] = file;
    dir.Write("model.safetensors.index.json", index.dump());
    EXPECT_THAT(Message(dir), AllOf(HasSubstr("'model.norm.weight' is said to be in"),
                                    HasSubstr("of the same directory")));
  }
}

TEST(Checkpoint, TheIndexMustAgreeWithTheFiles) {
  const auto message_with = [](const std::function<void(const TempDir&, Json&)>& change) {
    const TempDir dir;
    Json index = WriteShardedModel(dir);
    change(dir, index);
    dir.Write("model.safetensors.index.json", index.dump());
    return Message(dir);
  };
  EXPECT_THAT(message_with([](const TempDir&, Json& index) {
                index["weight_map"]["ghost"] = "model-00001-of-00002.safetensors";
              }),
              AllOf(HasSubstr("'ghost' is in model-00001"), HasSubstr("in no file")));
  EXPECT_THAT(message_with([](const TempDir&, Json& index) {
                index["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors";
              }),
              AllOf(HasSubstr("'model.norm.weight' is in model-00001"), HasSubstr("it is in ")));
  EXPECT_THAT(message_with(
                  [](const TempDir&, Json& index) { index["weight_map"].erase("lm_head.weight"); }),
              AllOf(HasSubstr("holds 'lm_head.weight'"), HasSubstr("does not name")));
  EXPECT_THAT(message_with([](const TempDir& dir, Json&) {
                dir.Write("model-00003-of-00003.safetensors", SafetensorsFile({{"x", {1}}}));
              }),
              HasSubstr("holds model-00003-of-00003.safetensors"));
  EXPECT_THAT(message_with([](const TempDir& dir, Json&) {
                std::filesystem::remove(dir.path() + "/model-00002-of-00002.safetensors");
              }),
              HasSubstr("model-00002-of-00002.safetensors: No such file"));
  EXPECT_THAT(message_with([](const TempDir& dir, Json&) {
                dir.Write("model-00001-of-00002.safetensors",
                          SafetensorsFile(TensorsOf(SmallSpec())));
              }),
              HasSubstr("is in two files"));
  EXPECT_THAT(message_with([](const TempDir&, Json& index) { index.erase("weight_map"); }),
              HasSubstr("has no \"weight_map\""));
  EXPECT_THAT(message_with([](const TempDir&, Json& index) { index["weight_map"]["x"] = 3; }),
              HasSubstr("'x' is not a string"));
}

TEST(Checkpoint, ATensorThatTheIndexHasTwiceIsNamed) {
  const TempDir dir;
  WriteShardedModel(dir);
  std::ifstream in(dir.path() + "/model.safetensors.index.json");
  std::string index(std::istreambuf_iterator<char>(in), {});
  const size_t at = index.find("\"model.norm.weight\"");
  ASSERT_NE(at, std::string::npos);
  index.insert(at, R"("model.norm.weight": "model-00001-of-00002.safetensors", )");
  dir.Write("model.safetensors.index.json", index);
  EXPECT_THAT(Message(dir), HasSubstr("has \"weight_map.model.norm.weight\" twice"));
}

TEST(Checkpoint, TheDigestSeesConfigHeadersAndWeights) {
  std::set<std::string> digests;
  const auto add = [&](const std::function<void(const TempDir&)>& change) {
    const TempDir dir;
    WriteSmallModel(dir);
    change(dir);
    const auto checkpoint = Checkpoint::Open(dir.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return digests.insert((*checkpoint)->digest()).second;
  };
  EXPECT_TRUE(add([](const TempDir&) {}));
  EXPECT_FALSE(add([](const TempDir&) {})) << "equal models, other directory";
  EXPECT_FALSE(add([](const TempDir& dir) { dir.Write("README.md", "hello"); }));
  EXPECT_TRUE(add([](const TempDir& dir) {
    Json config = SmallConfig();
    config["rope_theta"] = 20000;
    dir.Write("config.json", config.dump());
  }));
  EXPECT_TRUE(add([](const TempDir& dir) {
    std::vector<FakeTensor> tensors = TensorsOf(SmallSpec());
    tensors.back().dtype = "BF16";
    dir.Write("model.safetensors", SafetensorsFile(tensors));
  })) << "another header";
  EXPECT_TRUE(add([](const TempDir& dir) { WriteSmallModel(dir, 2); })) << "fine-tuned";
}

TEST(Checkpoint, TheDigestOfShardsSeesEveryHeader) {
  const auto digest_with = [](const std::string& changed) {
    const TempDir dir;
    WriteShardedModel(dir);
    if (!changed.empty()) {
      std::ifstream in(dir.path() + "/" + changed, std::ios::binary);
      std::string bytes(std::istreambuf_iterator<char>(in), {});
      bytes.replace(bytes.find("\"pt\""), 4, "\"tf\"");
      dir.Write(changed, bytes);
    }
    return (*Checkpoint::Open(dir.path()))->digest();
  };
  const std::set<std::string> digests = {digest_with(""),
                                         digest_with("model-00001-of-00002.safetensors"),
                                         digest_with("model-00002-of-00002.safetensors")};
  EXPECT_EQ(digests.size(), 3u);
}

TEST(CheckTensors, NamesWhatDoesNotBelong) {
  const auto message_with = [](const std::function<void(std::vector<FakeTensor>&)>& change,
                               const Json& config = SmallConfig()) {
    const TempDir dir;
    dir.Write("config.json", config.dump());
    std::vector<FakeTensor> tensors = TensorsOf(SmallSpec());
    change(tensors);
    dir.Write("model.safetensors", SafetensorsFile(tensors));
    const auto checkpoint = Checkpoint::Open(dir.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return std::string(CheckTensors(*ParseModelSpec(config.dump()), **checkpoint).message());
  };
  const auto named = [](std::vector<FakeTensor>& tensors, const std::string& name) {
    return std::find_if(tensors.begin(), tensors.end(),
                        [&](const FakeTensor& t) { return t.name == "model.layers.0." + name; });
  };
  EXPECT_EQ(message_with([](auto&) {}), "");
  EXPECT_THAT(
      message_with(
          [&](auto& tensors) { tensors.erase(named(tensors, "self_attn.k_proj.weight")); }),
      AllOf(HasSubstr("lacks tensor 'model.layers.0.self_attn.k_proj.weight' of shape [12, 10]")));
  EXPECT_THAT(message_with([](auto& tensors) { tensors.resize(2); }), HasSubstr(" more"));
  EXPECT_THAT(message_with([](auto& tensors) {
                tensors.push_back({"stray.weight", {2}});
              }),
              HasSubstr("'stray.weight' of shape [2] has no place"));
  EXPECT_THAT(message_with([&](auto& tensors) {
                named(tensors, "self_attn.q_proj.weight")->shape = {10, 24};
              }),
              AllOf(HasSubstr("'model.layers.0.self_attn.q_proj.weight' has the shape [10, 24]"),
                    HasSubstr("asks for [24, 10]")));
  EXPECT_THAT(
      message_with([](auto& tensors) { tensors[1].dtype = "I64"; }),
      AllOf(HasSubstr("'model.layers.0.input_layernorm.weight' is int64"), HasSubstr("bfloat16")));
  EXPECT_EQ(message_with([](auto& tensors) {
              tensors.push_back({"model.layers.1.self_attn.rotary_emb.inv_freq", {3}});
            }),
            "");
  Json tied = SmallConfig();
  tied["tie_word_embeddings"] = true;
  EXPECT_EQ(message_with([](auto&) {}, tied), "") << "lm_head beside a tied head carries nothing";
  EXPECT_EQ(message_with([](auto& tensors) { tensors.pop_back(); }, tied), "");
  EXPECT_THAT(message_with([](auto& tensors) { tensors.pop_back(); }),
              HasSubstr("'lm_head.weight'"));
}

TEST(MappedFile, ReleasedPagesComeBack) {
  const TempDir dir;
  dir.Write("file", std::string(100000, 'x'));
  const auto file = MappedFile::Open(dir.path() + "/file");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->bytes(), 100000u);
  (*file)->Release(0, 100000);
  (*file)->Release(50000, 50000);
  EXPECT_EQ((*file)->data()[99999], 'x');
  EXPECT_EQ(MappedFile::Open(dir.path() + "/none").status().code(), absl::StatusCode::kNotFound);
}

TEST(LicenseOf, CardThenFileThenUnknown) {
  const TempDir dir;
  EXPECT_EQ(LicenseOf(dir.path()), "unknown");
  dir.Write("LICENSE", "\n  Apache License  \nVersion 2.0");
  EXPECT_EQ(LicenseOf(dir.path()), "Apache License");
  dir.Write("README.md", "---\nlanguage: en\nlicense: \"mit\"\n---\nlicense: gpl\n");
  EXPECT_EQ(LicenseOf(dir.path()), "mit");
  dir.Write("README.md", "---\nlicense: other\nlicense_name: llama3\n---\n");
  EXPECT_EQ(LicenseOf(dir.path()), "llama3");
  dir.Write("README.md", "# no front matter\nlicense: mit\n");
  EXPECT_EQ(LicenseOf(dir.path()), "Apache License");
  dir.Write("README.md", "---\r\nlicense:\r\n  - mit\r\n  - apache-2.0\r\ntags:\r\n- x\r\n---\r\n");
  EXPECT_EQ(LicenseOf(dir.path()), "mit, apache-2.0");
  dir.Write("README.md", std::string(10 << 20, 'x'));
  EXPECT_EQ(LicenseOf(dir.path()), "Apache License");
  std::filesystem::remove(dir.path() + "/README.md");
  ASSERT_EQ(mkfifo((dir.path() + "/README.md").c_str(), 0600), 0);
  EXPECT_EQ(LicenseOf(dir.path()), "Apache License") << "a pipe would never end";
}

}  // namespace
}  // namespace tessera
