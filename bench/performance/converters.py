"""Conversions that need a peer's own quantizer; runs in the peer's environment.

python bench/performance/converters.py PEER SOURCE OUTPUT KIND
"""

import json
import pathlib
import sys


def llama_cpp(source, output, kind):
    """Quantize a GGUF file as `llama-quantize` does."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = {"Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}[kind]
    status = llama_cpp.llama_model_quantize(source.encode(), output.encode(), params)
    if status:
        sys.exit(f"llama_model_quantize ended with {status}")


def ctranslate2(source, output, kind):
    """Fill CTranslate2's specification of a GPT-2 from a Hugging Face folder and save it quantized.

    It is the specification that CTranslate2's converter fills; filling it here needs neither torch nor transformers.
    """
    import ctranslate2
    from safetensors.numpy import load_file

    source = pathlib.Path(source)
    config = json.loads((source / "config.json").read_text())
    tensors = load_file(source / "model.safetensors")
    specs = ctranslate2.specs
    spec = specs.TransformerDecoderModelSpec.from_config(
        config["n_layer"], config["n_head"], pre_norm=True, activation=specs.Activation.GELUTanh
    )

    def set_norm(norm, name):
        norm.gamma, norm.beta = tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def set_linear(linear, name):
        linear.weight, linear.bias = tensors[f"{name}.weight"].T.copy(), tensors[f"{name}.bias"]

    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = decoder.projection.weight = tensors["transformer.wte.weight"]
    decoder.position_encodings.encodings = tensors["transformer.wpe.weight"]
    set_norm(decoder.layer_norm, "transformer.ln_f")
    for number, layer in enumerate(decoder.layer):
        name = f"transformer.h.{number}"
        set_norm(layer.self_attention.layer_norm, f"{name}.ln_1")
        set_linear(layer.self_attention.linear[0], f"{name}.attn.c_attn")
        set_linear(layer.self_attention.linear[1], f"{name}.attn.c_proj")
        set_norm(layer.ffn.layer_norm, f"{name}.ln_2")
        set_linear(layer.ffn.linear_0, f"{name}.mlp.c_fc")
        set_linear(layer.ffn.linear_1, f"{name}.mlp.c_proj")
    ids = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    spec.register_vocabulary(sorted(ids, key=ids.get))
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "<|endoftext|>"
    spec.validate()
    spec.optimize(quantization=kind)
    pathlib.Path(output).mkdir()
    spec.save(output)
    for name in ("vocab.json", "merges.txt"):  # for the tokenizer
        (pathlib.Path(output) / name).write_bytes((source / name).read_bytes())


if __name__ == "__main__":
    {"llama.cpp": llama_cpp, "ctranslate2": ctranslate2}[sys.argv[1]](*sys.argv[2:])
