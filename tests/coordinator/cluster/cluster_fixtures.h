// Small models and hellos for the cluster's tests.

#ifndef TESSERA_TESTS_COORDINATOR_CLUSTER_CLUSTER_FIXTURES_H_
#define TESSERA_TESTS_COORDINATOR_CLUSTER_CLUSTER_FIXTURES_H_

#include <string>
#include <utility>

#include "coordinator/cluster/group_manager.h"
#include "tessera/cluster/v1/cluster.pb.h"

namespace tessera {

inline ModelTarget SmallModel(const std::string& name, int tp) {
  ModelTarget model;
  model.name = name;
  model.dir_name = name + "-dir";
  model.manifest_digest = "digest-of-" + name;
  ModelSpec& spec = model.spec;
  spec.architecture = "LlamaForCausalLM";
  spec.family = "llama";
  spec.num_layers = 2;
  spec.hidden_size = 64;
  spec.num_heads = 8;
  spec.num_kv_heads = 8;
  spec.head_size = 8;
  spec.layers.resize(2);
  spec.ropes.resize(1);
  spec.intermediate_size = 128;
  spec.vocab_size = 256;
  spec.context_max = 512;
  KvGroup group;
  group.layers = {0, 1};
  group.num_kv_heads = 8;
  group.head_size = 8;
  spec.kv_groups = {group};
  model.memory.tp = tp;
  model.memory.tokens_max = 64;
  model.memory.rows_max = 8;
  model.memory.kv_bytes_max = 1 << 20;
  return model;
}

inline cluster::v1::Hello HelloFrom(const std::string& name, const std::string& host = "host-a",
                                    uint64_t memory = uint64_t{1} << 30) {
  cluster::v1::Hello hello;
  hello.set_protocol_version(cluster::v1::PROTOCOL_VERSION_CURRENT);
  hello.set_build("test");
  hello.set_worker_name(name);
  hello.mutable_hardware()->set_device("cpu");
  hello.mutable_hardware()->set_host_id(host);
  hello.mutable_hardware()->set_memory_free_bytes(memory);
  return hello;
}

inline cluster::v1::WorkerMessage CommHelloMessage(uint64_t epoch, uint32_t rank,
                                                   const std::string& blob) {
  cluster::v1::WorkerMessage message;
  message.mutable_comm_hello()->set_epoch(epoch);
  message.mutable_comm_hello()->set_rank(rank);
  message.mutable_comm_hello()->set_blob(blob);
  return message;
}

inline cluster::v1::WorkerMessage ReadyMessage(uint64_t epoch,
                                               const std::string& numerics = "cpu") {
  cluster::v1::WorkerMessage message;
  message.mutable_ready()->set_epoch(epoch);
  message.mutable_ready()->set_numerics_class(numerics);
  return message;
}

inline cluster::v1::WorkerMessage HeartbeatMessage() {
  cluster::v1::WorkerMessage message;
  message.mutable_heartbeat();
  return message;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_COORDINATOR_CLUSTER_CLUSTER_FIXTURES_H_
