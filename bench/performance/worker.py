"""A worker: one runtime with one model, measured in its own environment.

    python bench/performance/worker.py RUNTIME MODEL THREADS

It answers each line of JSON on standard input with one on standard output. Commands:
    {"do": "logits", "tokens": ids}           the logits behind the last token, a list of n_vocab numbers
    {"do": "prompt", "tokens": ids}           seconds to read the tokens and have the logits behind the last one
    {"do": "decode", "tokens": ids, "n": n}   seconds for n tokens more, one after the other, behind these
    {"do": "read"}                            bytes a second of a plain read of all weights; ours only
"""

import importlib.metadata
import json
import os
import sys
from time import perf_counter


class Gpt2rt:
    """Ours."""

    def __init__(self, path, threads):
        import gpt2rt
        from gpt2rt.benchmark import Run

        self.model = gpt2rt.open_model(path, threads=threads)
        self.version = f"gpt2rt {importlib.metadata.version('gpt2rt')}"
        self.read = lambda: 1e9 * Run(self.model).read_speed()

    def logits(self, tokens):
        session = self.model.session()
        session.accept(tokens)
        return memoryview(session.logits_view).cast("f").tolist()

    def prompt(self, tokens):
        session = self.model.session()
        begin = perf_counter()
        session.accept(tokens)
        return perf_counter() - begin

    def decode(self, tokens, n):
        session = self.model.session()
        session.accept(tokens)
        begin = perf_counter()
        for token in following(tokens, n):
            session.accept([token])
        return perf_counter() - begin


class LlamaCpp:
    """llama.cpp through the C interface that llama-cpp-python wraps: nothing of Python's is between the tokens."""

    def __init__(self, path, threads):
        import llama_cpp

        self.api = llama_cpp
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        llama_cpp.llama_backend_init()
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._quiet, None)
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 1024, 1024, 512
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def _forget(self):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def _accept(self, tokens):
        array = (self.api.llama_token * len(tokens))(*tokens)
        status = self.api.llama_decode(self.context, self.api.llama_batch_get_one(array, len(tokens)))
        if status:
            raise RuntimeError(f"llama_decode ended with {status}")

    def logits(self, tokens):
        self._forget()
        self._accept(tokens)
        return self.api.llama_get_logits(self.context)[: self.n_vocab]

    def prompt(self, tokens):
        self._forget()
        begin = perf_counter()
        self._accept(tokens)
        return perf_counter() - begin

    def decode(self, tokens, n):
        self._forget()
        self._accept(tokens)
        begin = perf_counter()
        for token in following(tokens, n):
            self._accept([token])
        return perf_counter() - begin


class CTranslate2:
    """CTranslate2's Generator. It draws its own next tokens (the likeliest), and tells when each is there."""

    def __init__(self, path, threads):
        import ctranslate2

        self.version = f"ctranslate2 {ctranslate2.__version__}"
        self.generator = ctranslate2.Generator(path, device="cpu", compute_type="int8", intra_threads=threads)
        with open(f"{path}/vocab.json", encoding="utf-8") as file:
            ids = json.load(file)
        self.texts = sorted(ids, key=ids.get)

    def _times(self, tokens, n):
        """When each of n new tokens was there."""
        times = []

        def note(_):
            times.append(perf_counter())
            return False

        self.generator.generate_batch(
            [[self.texts[token] for token in tokens]],
            max_length=n,
            min_length=n,
            include_prompt_in_result=False,
            callback=note,
        )
        return times

    def logits(self, tokens):
        import numpy as np

        return np.array(self.generator.forward_batch([tokens]))[0, -1].tolist()

    def prompt(self, tokens):
        begin = perf_counter()
        return self._times(tokens, 1)[0] - begin

    def decode(self, tokens, n):
        times = self._times(tokens, n + 1)
        return (times[-1] - times[0]) * n / (len(times) - 1)


class OpenVino:
    """OpenVINO GenAI's LLMPipeline. It draws its own next tokens (the likeliest), and tells when each is there."""

    def __init__(self, path, threads):
        import openvino_genai

        self.api = openvino_genai
        self.version = f"openvino-genai {openvino_genai.__version__}"
        self.path, self.threads = path, threads
        self.pipeline = None

        class Clock(openvino_genai.StreamerBase):
            def __init__(self):
                super().__init__()
                self.times = []

            def write(self, _):
                self.times.append(perf_counter())
                return openvino_genai.StreamingStatus.RUNNING

            def end(self):
                pass

        self.clock = Clock

    def _times(self, tokens, n):
        """When each of n new tokens was there."""
        import numpy as np
        from openvino import Tensor

        if self.pipeline is None:
            self.pipeline = self.api.LLMPipeline(self.path, "CPU", INFERENCE_NUM_THREADS=self.threads)
        ids = np.array([tokens])
        clock = self.clock()
        self.pipeline.generate(
            self.api.TokenizedInputs(Tensor(ids), Tensor(np.ones_like(ids))),
            max_new_tokens=n,
            ignore_eos=True,
            do_sample=False,
            streamer=clock,
        )
        return clock.times

    def logits(self, tokens):
        import numpy as np
        from openvino import Core

        model = Core().compile_model(f"{self.path}/openvino_model.xml", "CPU", {"INFERENCE_NUM_THREADS": self.threads})
        ids = np.array([tokens])
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.arange(len(tokens))[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        names = {name for port in model.inputs for name in port.names}
        result = model.create_infer_request().infer({name: inputs[name] for name in inputs if name in names})
        return result["logits"][0, -1].tolist()

    def prompt(self, tokens):
        begin = perf_counter()
        return self._times(tokens, 1)[0] - begin

    def decode(self, tokens, n):
        times = self._times(tokens, n + 1)
        return (times[-1] - times[0]) * n / (len(times) - 1)


class Torch:
    """transformers' GPT2LMHeadModel on torch, f32."""

    def __init__(self, path, threads):
        import torch
        import transformers

        self.torch = torch
        self.version = f"torch {torch.__version__}, transformers {transformers.__version__}"
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.model = transformers.GPT2LMHeadModel.from_pretrained(path, dtype=torch.float32).eval()

    def _accept(self, tokens, cache=None):
        return self.model(self.torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)

    def logits(self, tokens):
        return self._accept(tokens).logits[0, -1].tolist()

    def prompt(self, tokens):
        begin = perf_counter()
        self._accept(tokens)
        return perf_counter() - begin

    def decode(self, tokens, n):
        cache = self._accept(tokens).past_key_values
        begin = perf_counter()
        for token in following(tokens, n):
            cache = self._accept([token], cache).past_key_values
        return perf_counter() - begin


RUNTIMES = {
    "gpt2rt": Gpt2rt,
    "llama.cpp": LlamaCpp,
    "ctranslate2": CTranslate2,
    "openvino": OpenVino,
    "torch": Torch,
}


def following(tokens, n):
    """n tokens to go on with, the same for all runtimes that are told."""
    return [tokens[position % len(tokens)] for position in range(n)]


def main(runtime, path, threads):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the runtime prints goes to the log
    worker = RUNTIMES[runtime](path, int(threads))
    commands = {
        "logits": lambda order: worker.logits(order["tokens"]),
        "prompt": lambda order: worker.prompt(order["tokens"]),
        "decode": lambda order: worker.decode(order["tokens"], order["n"]),
        "read": lambda _: worker.read(),
    }
    print(json.dumps(worker.version), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(commands[order["do"]](order)), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
