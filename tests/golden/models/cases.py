"""The cases of generate.py: which small models there are and what each of them covers.

A feature named here must have a row in tests/worker/feature_mutations.cc. Sizes are odd on purpose;
heads and intermediate sizes are what every listed tp divides. Prompts are long enough to cross
windows and rope switches several times over.
"""

import dataclasses

import torch


@dataclasses.dataclass
class Case:
    name: str
    features: list
    tp: list
    config: dict
    prompt_lengths: list
    model_type: str = "llama"
    dtype: torch.dtype = torch.bfloat16  # as stored
    shard_bytes: str = "1GB"
    greedy: int = 48
    fp32_tolerance: float = 2e-4
    # What makes random weights a model that attends sharply: factors on query and key projections,
    # standard deviation of the embedding, factor on the head, means of stored norm weights by the
    # end of their name.
    qk_gain: float = 1.8
    embedding: float = 0.6
    head: float = 1.6
    bias: float = 0.4  # standard deviation
    norm_means: dict = dataclasses.field(default_factory=dict)
    # Of experts: factors on the router and on what they return, deviation of correction biases.
    router: float = 2.5
    expert_out: float = 0.8
    correction: float = 0.2
    float8: tuple = None  # rows and columns of a block of weights with one scale
    # "sdpa": two ways of the reference to attend; "double" where only one of them is right.
    spread: str = "sdpa"

    @property
    def text(self):
        """The part of the config that speaks of text."""
        return self.config.get("text_config", self.config)


def config(**values):
    base = dict(num_hidden_layers=2, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=1,
                eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)
    return {**base, **values}


def llama(name, features, tp, config_values, prompt_lengths, **values):
    return Case(name, features, tp, {k: v for k, v in config(**config_values).items()
                                     if k != "pad_token_id"},
                prompt_lengths, greedy=64, fp32_tolerance=1e-4, **values)


LLAMA = [
    llama("gqa", ["gqa", "head_dim", "float32"], [1, 2, 4, 8],
          dict(hidden_size=56, intermediate_size=72, num_attention_heads=8, num_key_value_heads=2,
               head_dim=10, vocab_size=157), [1, 17, 31], dtype=torch.float32),
    llama("rope_llama3", ["rope_llama3", "gqa", "head_dim", "bfloat16"], [1, 2, 4],
          dict(hidden_size=48, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
               head_dim=16, vocab_size=131,
               rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
          [9, 220]),
    llama("tied_head", ["tied_head", "gqa", "head_dim", "float16"], [1, 2],
          dict(hidden_size=40, intermediate_size=84, num_attention_heads=6, num_key_value_heads=2,
               head_dim=12, vocab_size=211, tie_word_embeddings=True),
          [3, 40], dtype=torch.float16, embedding=0.35),
    llama("biases", ["attention_bias", "mlp_bias", "gqa", "head_dim", "sharded", "float32"], [1, 2, 4],
          dict(hidden_size=44, intermediate_size=60, num_attention_heads=4, num_key_value_heads=1,
               head_dim=14, vocab_size=149, attention_bias=True, mlp_bias=True), [2, 37],
          dtype=torch.float32, shard_bytes="80KB"),
    llama("mha", ["mha", "float32"], [1, 2, 4],
          dict(hidden_size=48, intermediate_size=68, num_attention_heads=4, num_key_value_heads=4,
               vocab_size=163, rope_theta=500000.0), [5, 33], dtype=torch.float32),
    llama("rope_linear", ["rope_linear", "gqa", "head_dim", "bfloat16"], [1, 2, 4],
          dict(hidden_size=52, intermediate_size=76, num_attention_heads=4, num_key_value_heads=2,
               head_dim=18, vocab_size=139, rope_scaling={"rope_type": "linear", "factor": 4.0}),
          [6, 120]),
]

MISTRAL = [
    # 7B v0.1
    Case("mistral_window", ["window", "gqa", "bfloat16"], [1, 2, 4],
         config(hidden_size=48, intermediate_size=68, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=137, sliding_window=13), [5, 71], "mistral"),
    # Nemo, Small 3, Large 2, 7B v0.3
    Case("mistral_nemo", ["gqa", "head_dim", "bfloat16"], [1, 2, 4],
         config(hidden_size=44, intermediate_size=60, num_attention_heads=4, num_key_value_heads=2,
                head_dim=14, vocab_size=151, rope_theta=1000000.0, sliding_window=None), [4, 45],
         "mistral"),
    Case("ministral", ["window", "mixed_windows", "head_dim", "mha", "bfloat16"], [1, 2, 4],
         config(num_hidden_layers=3, hidden_size=36, intermediate_size=52, num_attention_heads=4,
                num_key_value_heads=4, head_dim=10, vocab_size=127, sliding_window=11,
                layer_types=["full_attention", "sliding_attention", "full_attention"]), [3, 58],
         "ministral", head=1.1),
]

# Small 3.1 and 3.2, whose image part is not computed
MISTRAL.append(Case(
    "mistral3_images", ["head_dim", "gqa", "bfloat16"], [1, 2, 4],
    dict(text_config=config(model_type="mistral", hidden_size=36, intermediate_size=56,
                            num_attention_heads=4, num_key_value_heads=2, head_dim=12,
                            vocab_size=129, rope_theta=1000000000.0, sliding_window=None),
         vision_config=dict(model_type="pixtral", hidden_size=16, intermediate_size=20,
                            num_hidden_layers=1, num_attention_heads=2, head_dim=8, image_size=8,
                            patch_size=4),
         image_token_index=10, spatial_merge_size=2, eos_token_id=2), [4, 53], "mistral3"))

QWEN = [
    # 2 and 2.5, 7B and larger, with the scaling that their cards recommend
    Case("qwen2_yarn", ["qkv_bias", "rope_yarn", "gqa", "bfloat16"], [1, 2, 4],
         config(hidden_size=48, intermediate_size=76, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=131, rope_theta=1000000.0,
                rope_scaling={"rope_type": "yarn", "factor": 4.0,
                              "original_max_position_embeddings": 64}), [7, 150], "qwen2",
         qk_gain=1.55, head=1.3),
    # the small ones; and windows on the upper layers
    Case("qwen2_tied", ["qkv_bias", "tied_head", "window", "mixed_windows", "gqa", "bfloat16"],
         [1, 2], config(num_hidden_layers=3, hidden_size=40, intermediate_size=56,
                        num_attention_heads=4, num_key_value_heads=1, vocab_size=167,
                        tie_word_embeddings=True, use_sliding_window=True, sliding_window=17,
                        max_window_layers=1), [6, 64], "qwen2", embedding=0.2, qk_gain=1.7),
    Case("qwen3", ["qk_norm", "head_dim", "tied_head", "gqa", "bfloat16"], [1, 2, 4],
         config(hidden_size=44, intermediate_size=68, num_attention_heads=4, num_key_value_heads=2,
                head_dim=16, vocab_size=149, rope_theta=1000000.0, tie_word_embeddings=True),
         [2, 52], "qwen3", embedding=0.21, norm_means={"q_norm.weight": 1.8, "k_norm.weight": 1.8}),
    Case("qwen3_bias", ["qk_norm", "attention_bias", "rope_yarn", "head_dim", "gqa", "bfloat16"],
         [1, 2], config(hidden_size=36, intermediate_size=44, num_attention_heads=4,
                        num_key_value_heads=2, head_dim=14, vocab_size=113, attention_bias=True,
                        rope_scaling={"rope_type": "yarn", "factor": 2.0, "beta_fast": 8.0,
                                      "beta_slow": 0.5, "truncate": False, "attention_factor": 1.3,
                                      "original_max_position_embeddings": 48}), [3, 90], "qwen3", head=1.2,
         norm_means={"q_norm.weight": 1.45, "k_norm.weight": 1.45}),
]

GEMMA = [
    Case("gemma", ["norm_plus_one", "embedding_scale", "gelu_tanh", "head_dim", "tied_head", "gqa",
                   "bfloat16"], [1, 2, 4],
         config(hidden_size=40, intermediate_size=60, num_attention_heads=4, num_key_value_heads=1,
                head_dim=14, vocab_size=139, tie_word_embeddings=True,
                hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh"), [3, 47],
         "gemma", embedding=0.12, norm_means={"model.norm.weight": 1.0}),
    # configs of the first days, which name no hidden_activation: the reference computes what
    # hidden_act says, GELU without the approximation
    Case("gemma_gelu", ["norm_plus_one", "embedding_scale", "gelu", "head_dim", "tied_head", "gqa",
                        "bfloat16"], [1, 2, 4],
         config(hidden_size=36, intermediate_size=52, num_attention_heads=4, num_key_value_heads=2,
                head_dim=12, vocab_size=133, tie_word_embeddings=True, hidden_act="gelu"), [5, 43],
         "gemma", embedding=0.12, norm_means={"model.norm.weight": 1.0}),
    Case("gemma2", ["attention_softcap", "final_softcap", "window", "mixed_windows", "query_scale",
                    "out_norms", "norm_plus_one", "embedding_scale", "gelu_tanh", "head_dim",
                    "tied_head", "gqa", "bfloat16"], [1, 2, 4],
         config(num_hidden_layers=4, hidden_size=40, intermediate_size=52, num_attention_heads=4,
                num_key_value_heads=2, head_dim=12, vocab_size=131, tie_word_embeddings=True,
                sliding_window=15, query_pre_attn_scalar=17, attn_logit_softcapping=12.0,
                final_logit_softcapping=7.0), [4, 66], "gemma2", embedding=0.15, qk_gain=2.1,
         norm_means={"post_attention_layernorm.weight": 1.5, "model.norm.weight": 0.3,
                     "post_feedforward_layernorm.weight": 1.5}, spread="double"),
    Case("gemma3", ["two_ropes", "rope_linear", "qk_norm", "window", "mixed_windows", "query_scale",
                    "out_norms", "norm_plus_one", "embedding_scale", "gelu_tanh", "head_dim",
                    "tied_head", "gqa", "bfloat16"], [1, 2, 4],
         config(num_hidden_layers=4, hidden_size=36, intermediate_size=44, num_attention_heads=4,
                num_key_value_heads=2, head_dim=12, vocab_size=127, tie_word_embeddings=True,
                sliding_window=9, sliding_window_pattern=3, query_pre_attn_scalar=17, rope_theta=1000000.0,
                rope_local_base_freq=10000.0, rope_scaling={"rope_type": "linear", "factor": 8.0}),
         [5, 62], "gemma3_text", embedding=0.15,
         norm_means={"q_norm.weight": 0.9, "k_norm.weight": 0.9, "model.norm.weight": 0.1,
                     "post_attention_layernorm.weight": 1.0,
                     "post_feedforward_layernorm.weight": 1.0}),
]

# The same with an image part, as the larger ones are published; text alone is computed.
GEMMA.append(Case(
    "gemma3_images", GEMMA[-1].features, GEMMA[-1].tp,
    dict(text_config={**GEMMA[-1].config, "vocab_size": 119, "num_hidden_layers": 3},
         vision_config=dict(hidden_size=16, intermediate_size=20, num_hidden_layers=1,
                            num_attention_heads=2, image_size=8, patch_size=4),
         mm_tokens_per_image=4, image_token_index=118, boi_token_index=117, eoi_token_index=116,
         eos_token_id=2), [4, 55], "gemma3", embedding=0.15,
    norm_means={"q_norm.weight": 0.9, "k_norm.weight": 0.9, "language_model.norm.weight": 0.1,
                "post_attention_layernorm.weight": 1.0,
                "post_feedforward_layernorm.weight": 1.0}))


def longrope(pairs):
    return {"type": "longrope", "short_factor": [1.0 + 0.07 * i for i in range(pairs)],
            "long_factor": [1.1 + 0.9 * i * i for i in range(pairs)]}


PHI = [
    # 3-mini-4k, medium; 4 has no window
    Case("phi3_window", ["fused", "window", "mha", "bfloat16"], [1, 2, 4],
         config(hidden_size=48, intermediate_size=60, num_attention_heads=4, num_key_value_heads=4,
                vocab_size=141, sliding_window=19), [6, 73], "phi3", head=1.4),
    # 3-mini-128k, 3.5-mini: sequences within the original context, beyond it, and such that grow
    # beyond it while tokens are generated
    Case("phi3_longrope_short", ["fused", "rope_longrope_short", "mha", "bfloat16"], [1, 2, 4],
         config(hidden_size=48, intermediate_size=68, num_attention_heads=4, num_key_value_heads=4,
                vocab_size=133, original_max_position_embeddings=96, rope_scaling=longrope(6),
                sliding_window=4096), [5, 44], "phi3", qk_gain=1.5, head=1.3),
    Case("phi3_longrope_switch", ["fused", "rope_longrope_short", "rope_longrope_long",
                                  "rope_switch", "gqa", "bfloat16"], [1, 2, 4],
         config(hidden_size=40, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=137, original_max_position_embeddings=24, rope_scaling=longrope(5)),
         [9, 24, 61], "phi3", qk_gain=1.5, head=1.3),
    Case("phi3_longrope_long", ["fused", "rope_longrope_long", "gqa", "bfloat16"], [1, 2, 4],
         config(hidden_size=48, intermediate_size=68, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=133, original_max_position_embeddings=24, rope_scaling=longrope(6)),
         [29, 78], "phi3", qk_gain=1.25, head=1.3),
    Case("phi4_mini", ["fused", "partial_rotary", "rope_longrope_short", "rope_longrope_long",
                       "rope_switch", "tied_head", "gqa", "bfloat16"], [1, 2, 4],
         config(hidden_size=64, intermediate_size=52, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=173, original_max_position_embeddings=24, rope_scaling=longrope(6),
                partial_rotary_factor=0.75, tie_word_embeddings=True, sliding_window=262144),
         [13, 60], "phi3", embedding=0.2, qk_gain=1.3),
]

EXPERTS = [
    # 8x7B, 8x22B
    Case("mixtral", ["experts", "routing_norm", "gqa", "bfloat16"], [1, 2, 4],
         config(hidden_size=40, intermediate_size=28, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=131, num_local_experts=8, num_experts_per_tok=2, rope_theta=1000000.0,
                sliding_window=None), [5, 66], "mixtral"),
    # Eleven experts do not divide; the layer in the middle has none.
    Case("qwen3_moe", ["experts", "routing_norm", "dense_layers", "qk_norm", "head_dim", "gqa",
                       "bfloat16"], [1, 2, 4],
         config(num_hidden_layers=3, hidden_size=36, intermediate_size=52, num_attention_heads=4,
                num_key_value_heads=2, head_dim=14, vocab_size=127, num_experts=11,
                num_experts_per_tok=3, moe_intermediate_size=18, norm_topk_prob=True,
                mlp_only_layers=[1]), [4, 57], "qwen3_moe",
         norm_means={"q_norm.weight": 2.0, "k_norm.weight": 2.0}, head=1.3, expert_out=0.6),
    # 1.5-MoE, 2-57B
    Case("qwen2_moe", ["experts", "raw_routing", "shared_expert", "shared_gate", "qkv_bias", "gqa",
                       "bfloat16"], [1, 2, 4],
         config(hidden_size=40, intermediate_size=44, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=137, num_experts=10, num_experts_per_tok=3, moe_intermediate_size=14,
                shared_expert_intermediate_size=28, norm_topk_prob=False), [5, 61], "qwen2_moe",
         head=1.3, expert_out=0.6),
    # Phi-3.5-MoE, whose two tables have magnitudes of their own
    Case("phi_moe", ["experts", "sparse_mixer", "layer_norm", "head_bias", "attention_bias",
                     "rope_longrope_short", "rope_longrope_long", "rope_switch", "gqa",
                     "bfloat16"], [1, 2, 4],
         config(hidden_size=40, intermediate_size=20, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=121, num_local_experts=10, num_experts_per_tok=2,
                router_jitter_noise=0.2, attention_bias=True, lm_head_bias=True, sliding_window=512,
                rope_scaling={**longrope(5), "short_mscale": 1.1, "long_mscale": 1.25,
                              "original_max_position_embeddings": 24}), [11, 66], "phimoe",
         head=1.5, expert_out=0.12, qk_gain=1.45, bias=0.15),
]


def deepseek(name, features, tp, config_values, prompt_lengths, **values):
    values = {"qk_gain": 1.6, "head": 1.3, "expert_out": 0.5, **values}
    base = dict(num_hidden_layers=3, hidden_size=40, intermediate_size=44, num_attention_heads=4,
                num_key_value_heads=4, kv_lora_rank=20, qk_nope_head_dim=10, qk_rope_head_dim=6,
                v_head_dim=12, first_k_dense_replace=1, moe_intermediate_size=16, moe_layer_freq=1)
    return Case(name, ["latent", "experts", "dense_layers", "shared_expert", "bfloat16"] + features, tp,
                config(**{**base, **config_values}), prompt_lengths, **values)


def yarn(mscale, mscale_all):
    return {"rope_type": "yarn", "type": "yarn", "factor": 4.0, "beta_fast": 4, "beta_slow": 1,
            "mscale": mscale, "mscale_all_dim": mscale_all, "original_max_position_embeddings": 32}


DEEPSEEK = [
    # V2-Lite: queries from the hidden state, the best experts whatever their group
    deepseek("deepseek_v2_lite", ["raw_routing", "rope_yarn", "mscale"], [1, 2, 4],
             dict(vocab_size=127, q_lora_rank=None, n_routed_experts=9, num_experts_per_tok=3,
                  n_shared_experts=2, topk_method="greedy", scoring_func="softmax",
                  norm_topk_prob=False, routed_scaling_factor=1.0, n_group=1, topk_group=1,
                  rope_scaling=yarn(1.1, 0.707)), [5, 71], model_type="deepseek_v2"),
    # V2
    deepseek("deepseek_v2", ["raw_routing", "rope_yarn", "mscale", "query_rank", "expert_groups",
                             "routed_scale"], [1, 2, 4, 8],
             dict(vocab_size=113, num_attention_heads=8, num_key_value_heads=8, q_lora_rank=18,
                  n_routed_experts=12, num_experts_per_tok=3, n_shared_experts=1,
                  topk_method="group_limited_greedy", scoring_func="softmax", norm_topk_prob=False,
                  routed_scaling_factor=3.0, n_group=4, topk_group=2, rope_scaling=yarn(1.3, 0.5),
                  intermediate_size=48), [4, 60], model_type="deepseek_v2"),
    # V3 and R1 as they were trained, and as they are published
    deepseek("deepseek_v3", ["sigmoid_routing", "correction_bias", "routing_norm", "routed_scale",
                             "expert_groups", "rope_yarn", "mscale", "query_rank"], [1, 2, 4],
             dict(vocab_size=131, q_lora_rank=22, n_routed_experts=12, num_experts_per_tok=3,
                  n_shared_experts=1, topk_method="noaux_tc", scoring_func="sigmoid",
                  norm_topk_prob=True, routed_scaling_factor=2.5, n_group=4, topk_group=2,
                  rope_scaling=yarn(1.2, 0.6)), [3, 68], model_type="deepseek_v3", qk_gain=1.7,
             head=1.1, expert_out=0.12),
    deepseek("deepseek_v3_float8", ["sigmoid_routing", "correction_bias", "routing_norm",
                                    "routed_scale", "expert_groups", "rope_yarn", "mscale",
                                    "query_rank", "float8"], [1, 2, 4],
             dict(vocab_size=109, q_lora_rank=26, n_routed_experts=16, num_experts_per_tok=4,
                  n_shared_experts=1, topk_method="noaux_tc", scoring_func="sigmoid",
                  norm_topk_prob=True, routed_scaling_factor=1.5, n_group=4, topk_group=3,
                  rope_scaling=yarn(1.25, 0.8)), [4, 63], model_type="deepseek_v3", float8=(14, 18),
             qk_gain=1.7, head=1.1, expert_out=0.12),
]

CASES = LLAMA + MISTRAL + QWEN + GEMMA + PHI + EXPERTS + DEEPSEEK
