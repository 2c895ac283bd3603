"""Models for vLLM out of the small GGUF file that the tests use: `vllm-model.py GGUF OUT tiny|whole`.

`tiny` takes its tokenizer only, and a configuration of two narrow layers, for weights that vLLM makes up (`--load-format dummy`).
`whole` takes its weights too, as bfloat16.
"""
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def main(gguf: str, out: str, kind: str) -> None:
    from transformers import AutoTokenizer

    folder, name = os.path.split(gguf)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    if kind == "whole":
        import torch
        from transformers import AutoModelForCausalLM, GgufConfig

        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(out)
    else:
        os.makedirs(out, exist_ok=True)
        own = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        with open(os.path.join(out, "config.json"), "w", encoding="utf8") as file:
            json.dump({**TINY, **own}, file, indent=2)
    tokenizer.save_pretrained(out)


main(*sys.argv[1:4])
