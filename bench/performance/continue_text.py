"""The shortest script with a runtime that continues a text by N tokens and prints it; runs in the peer's environment.

python bench/performance/continue_text.py RUNTIME MODEL THREADS TEXT N
"""

import os
import sys


def llama_cpp(model, threads, text, n):
    from llama_cpp import Llama

    llama = Llama(model, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
    return llama(text, max_tokens=n, temperature=0)["choices"][0]["text"]


def ctranslate2(model, threads, text, n):
    from ctranslate2 import Generator
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer(f"{model}/vocab.json", f"{model}/merges.txt")
    generator = Generator(model, device="cpu", compute_type="int8", intra_threads=threads)
    tokens = tokenizer.encode(text).tokens
    result = generator.generate_batch([tokens], max_length=n, min_length=n, include_prompt_in_result=False)
    return tokenizer.decode(result[0].sequences_ids[0])


def openvino(model, threads, text, n):
    from openvino_genai import LLMPipeline

    pipeline = LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)
    return pipeline.generate(text, max_new_tokens=n, ignore_eos=True)


def torch(model, threads, text, n):
    import torch
    from transformers import GPT2LMHeadModel, GPT2TokenizerFast

    torch.set_num_threads(threads)
    tokenizer = GPT2TokenizerFast.from_pretrained(model)
    network = GPT2LMHeadModel.from_pretrained(model, dtype=torch.float32)
    ids = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        result = network.generate(**ids, max_new_tokens=n, min_new_tokens=n, do_sample=False)
    return tokenizer.decode(result[0, -n:])


RUNTIMES = {"llama.cpp": llama_cpp, "ctranslate2": ctranslate2, "openvino": openvino, "torch": torch}

if __name__ == "__main__":
    runtime, model, threads, text, n = sys.argv[1:]
    print(RUNTIMES[runtime](model, int(threads), text, int(n)), flush=True)
    os._exit(0)  # the text is complete; shutting down the runtime does not count
