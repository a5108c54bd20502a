"""A worker: one runtime with one model, measured in its own environment. `Worker` starts one and sends it orders.

    python bench/worker.py RUNTIME MODEL THREADS

It answers each line of JSON on standard input with a line on standard output. Orders:
    {"do": "logits", "tokens": ids}           the logits after the last token, a list of n_vocab numbers
    {"do": "prompt", "tokens": ids}           seconds to process the tokens, up to the logits after the last one
    {"do": "decode", "tokens": ids, "n": n}   seconds for n more tokens, one at a time, after these
Only for gpt2rt, in any version:
    {"do": "shape"}                           [n_vocab, n_ctx]
    {"do": "batch", "size": m, "n": n}        seconds to generate n tokens for each of m prompts together
    {"do": "memory_limit"}                    tokens/s of decoding without a context that memory bandwidth allows
"""

import contextlib
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
from time import perf_counter


class WorkerError(Exception):
    """A worker exited before it answered."""


class Worker:
    """A worker's process, seen from the caller.

    Attributes:
        version: of the runtime, as text.
    """

    def __init__(self, python, runtime, model, threads, *, log=None, environment=None):
        """
        Args:
            python: the interpreter of the runtime's environment.
            log: a file for the runtime's output, or None for standard error.
            environment: environment variables, or None for those of this process.
        """
        self._name, self._log = f"{runtime} of {python}", log
        command = [str(python), __file__, runtime, str(model), str(threads)]
        with open(log, "ab") if log else contextlib.nullcontext() as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
            )
        self.version = self._answer()

    def ask(self, do, **arguments):
        """Return the answer to an order. Raises WorkerError if the worker has exited."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": do} | arguments), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            where = f" (see {self._log})" if self._log else ""
            raise WorkerError(f"{self._name}: the worker exited with {self._process.wait()}{where}")
        return json.loads(line)

    def close(self):
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Gpt2rt:
    """The installed version of gpt2rt, in which sequences may still be called sessions."""

    def __init__(self, path, threads):
        import gpt2rt

        parameters = inspect.signature(gpt2rt.open_model).parameters
        self.model = gpt2rt.open_model(path, **{"n_threads" if "n_threads" in parameters else "threads": threads})
        self.version = f"gpt2rt {importlib.metadata.version('gpt2rt')}"
        if hasattr(self.model, "sequence"):
            self._sequence = self.model.sequence()
            self._append, self._clear = self._sequence.append, lambda: self._sequence.truncate(0)
        else:
            self._sequence = self.model.session()
            self._append, self._clear = self._sequence.accept, lambda: self._sequence.rewind(len(self._sequence))

    def shape(self):
        return [self.model.hyperparameters.n_vocab, self.model.hyperparameters.n_ctx]

    def logits(self, tokens):
        self._clear()
        self._append(tokens)
        return [float(logit) for logit in self._sequence.logits]

    def prompt(self, tokens):
        self._clear()
        begin = perf_counter()
        self._append(tokens)
        return perf_counter() - begin

    def decode(self, tokens, n):
        self._clear()
        self._append(tokens)
        begin = perf_counter()
        for token in following(tokens, n):
            self._append([token])
        return perf_counter() - begin

    def batch(self, size, n):
        prompts = [f"{number}" for number in range(size)]
        begin = perf_counter()
        batch = self.model.generate_batch(prompts, max_tokens=n, batch_size=size, seed=1)
        for _ in batch:
            pass
        seconds = perf_counter() - begin
        texts = [text for text in getattr(batch, "continuations", ()) if text]
        n_tokens = sum(len(text.tokens) for text in texts) if texts else size * n
        return seconds * size * n / n_tokens  # some texts may have ended early

    def memory_limit(self):
        from gpt2rt.benchmark import Run

        run = Run(self.model)
        return 1e9 * run.read_speed() / run.token_bytes(0)


class LlamaCpp:
    """llama.cpp through the C interface of llama-cpp-python, without its Python code between tokens."""

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


class Greedy:
    """A runtime that chooses the most likely next tokens itself, and reports when it has each."""

    def _times(self, tokens, n):
        """Return when each of n new tokens was there."""
        raise NotImplementedError

    def prompt(self, tokens):
        begin = perf_counter()
        return self._times(tokens, 1)[0] - begin

    def decode(self, tokens, n):
        times = self._times(tokens, n + 1)
        return (times[-1] - times[0]) * n / (len(times) - 1)


class CTranslate2(Greedy):
    """CTranslate2's Generator."""

    def __init__(self, path, threads):
        import ctranslate2

        self.version = f"ctranslate2 {ctranslate2.__version__}"
        self.generator = ctranslate2.Generator(path, device="cpu", compute_type="int8", intra_threads=threads)
        with open(f"{path}/vocab.json", encoding="utf-8") as file:
            ids = json.load(file)
        self.texts = sorted(ids, key=ids.get)

    def _times(self, tokens, n):
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


class OpenVino(Greedy):
    """OpenVINO GenAI's LLMPipeline."""

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
    """Return n tokens to continue with, the same for all runtimes that do not choose tokens themselves."""
    return [tokens[position % len(tokens)] for position in range(n)]


def main(runtime, path, threads):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the runtime's output goes to the log
    worker = RUNTIMES[runtime](path, int(threads))
    print(json.dumps(worker.version), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(getattr(worker, order.pop("do"))(**order)), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
