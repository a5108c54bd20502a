"""The same weights for every runtime: one checkpoint, written in the format of each."""

import json
import pathlib
import shutil
import sys

import gguf
import numpy as np
from environments import PeerError, run
from safetensors.numpy import save_file

from gpt2rt.converter import convert
from gpt2rt.converter.tensorflow_checkpoint import TensorFlowCheckpoint
from gpt2rt.errors import Gpt2rtError

HERE = pathlib.Path(__file__).parent
LAYERNORM_EPSILON = 1e-5
END_OF_TEXT = "<|endoftext|>"

# {our name of a tensor, without its layer: GGUF's name}
GGUF_NAMES = {
    "wte": "token_embd.weight",
    "wpe": "position_embd.weight",
    "ln_f/g": "output_norm.weight",
    "ln_f/b": "output_norm.bias",
    "ln_1/g": "attn_norm.weight",
    "ln_1/b": "attn_norm.bias",
    "attn/c_attn/w": "attn_qkv.weight",
    "attn/c_attn/b": "attn_qkv.bias",
    "attn/c_proj/w": "attn_output.weight",
    "attn/c_proj/b": "attn_output.bias",
    "ln_2/g": "ffn_norm.weight",
    "ln_2/b": "ffn_norm.bias",
    "mlp/c_fc/w": "ffn_up.weight",
    "mlp/c_fc/b": "ffn_up.bias",
    "mlp/c_proj/w": "ffn_down.weight",
    "mlp/c_proj/b": "ffn_down.bias",
}


class PeerModels:
    """The files made from one checkpoint, in a folder; each is made on first use, or if the checkpoint is newer.

    Attributes:
        hyperparameters: of the checkpoint.
    """

    def __init__(self, checkpoint, folder):
        """
        Args:
            checkpoint: a folder as released by OpenAI. folder: the folder for the models.
        """
        self._checkpoint = TensorFlowCheckpoint(checkpoint)
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.hyperparameters = self._checkpoint.hyperparameters
        self._vocabulary_files = [self._checkpoint.path.with_name(name) for name in ("encoder.json", "vocab.bpe")]
        self._age = max(path.stat().st_mtime for path in self._checkpoint.files)

    def _made(self, name, make):
        """Return the path of `name`, after `make(path)` has written it if needed, under a temporary name."""
        path = self._folder / name
        if not path.exists() or path.stat().st_mtime < self._age:
            part = self._folder / f"part-{name}"
            for old in (part, path):
                if old.is_dir():
                    shutil.rmtree(old)
                old.unlink(missing_ok=True)
            make(part)
            part.rename(path)
        return path

    def gpt2rt(self, weight_type):
        """Return our model file; it is always made again, as the converter may have changed. Raises PeerError."""
        path = self._folder / f"gpt2rt-{weight_type}.bin"
        try:
            convert(self._checkpoint.path, path, weight_type=weight_type, force=True)
        except Gpt2rtError as error:
            raise PeerError(str(error)) from None
        return path

    def hugging_face(self):
        """Return a folder like that of a GPT2LMHeadModel saved by transformers, in f32."""
        return self._made("hugging-face", self._write_hugging_face)

    def gguf(self, kind, python):
        """Return a file for llama.cpp: F16 is written here; llama.cpp's quantizer makes Q8_0 and Q4_0 from it."""
        plain = self._made("model-F16.gguf", self._write_gguf)
        if kind == "F16":
            return plain
        return self._made(f"model-{kind}.gguf", lambda path: self._inside(python, "llama.cpp", plain, path, kind))

    def ctranslate2(self, kind, python):
        """Return a folder for CTranslate2, quantized by its own code."""
        source = self.hugging_face()
        return self._made(f"ctranslate2-{kind}", lambda path: self._inside(python, "ctranslate2", source, path, kind))

    def openvino(self, kind, python):
        """Return a folder for OpenVINO GenAI, exported and quantized by optimum-intel."""
        source = self.hugging_face()

        def make(path):
            task = ["--task", "text-generation-with-past", "--weight-format", kind, "--framework", "pt"]
            command = [python, "-m", "optimum.commands.optimum_cli", "export", "openvino", "--model", source, *task]
            run([*command, path], self._folder / "openvino.log")

        return self._made(f"openvino-{kind}", make)

    def _inside(self, python, peer, source, path, kind):
        """Run a conversion in the peer's environment, with the peer's quantizer."""
        run([python, HERE / "converters.py", peer, source, path, kind], self._folder / f"{peer}.log")

    def _tensors(self):
        """Yield (layer or None, name in GGUF_NAMES, f32 array as `TensorFlowCheckpoint.tensor` returns it)."""
        for name in GGUF_NAMES:
            if name in ("wte", "wpe", "ln_f/g", "ln_f/b"):
                yield None, name, self._checkpoint.tensor(name)
            else:
                for layer in range(self.hyperparameters.n_layer):
                    yield layer, name, self._checkpoint.tensor(f"h{layer}/{name}")

    def _write_hugging_face(self, path):
        path.mkdir()
        encoder, merges = self._vocabulary_files
        shutil.copyfile(encoder, path / "vocab.json")
        shutil.copyfile(merges, path / "merges.txt")
        last = self.hyperparameters.n_vocab - 1
        config = self.hyperparameters._asdict() | {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": self.hyperparameters.n_vocab,
            "n_positions": self.hyperparameters.n_ctx,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": LAYERNORM_EPSILON,
            "tie_word_embeddings": True,
            "bos_token_id": last,
            "eos_token_id": last,
            "torch_dtype": "float32",
        }
        (path / "config.json").write_text(json.dumps(config))
        tokenizer = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
        (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"} | tokenizer))
        tensors = {}
        for layer, name, array in self._tensors():
            scope = "transformer." if layer is None else f"transformer.h.{layer}."
            module = name.replace("/", ".").removesuffix(".w").removesuffix(".g")
            ending = f"{module[:-2]}.bias" if module.endswith(".b") else f"{module}.weight"
            tensors[scope + ending] = np.ascontiguousarray(array)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})

    def _write_gguf(self, path):
        """Write GGUF in F16, with F32 for vectors and positions, as llama.cpp's own converter does."""
        n_vocab, n_ctx, n_embd, n_head, n_layer = self.hyperparameters
        writer = gguf.GGUFWriter(path, "gpt2")
        writer.add_context_length(n_ctx)
        writer.add_embedding_length(n_embd)
        writer.add_feed_forward_length(4 * n_embd)
        writer.add_head_count(n_head)
        writer.add_block_count(n_layer)
        writer.add_layer_norm_eps(LAYERNORM_EPSILON)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        encoder, merges = self._vocabulary_files
        ids = json.loads(encoder.read_text(encoding="utf-8"))
        tokens = sorted(ids, key=ids.get)
        normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(tokens)
        writer.add_token_types([control if token == END_OF_TEXT else normal for token in tokens])
        lines = merges.read_text(encoding="utf-8").split("\n")
        writer.add_token_merges([line for line in lines if line and not line.startswith("#version")])
        writer.add_bos_token_id(n_vocab - 1)
        writer.add_eos_token_id(n_vocab - 1)
        writer.add_add_bos_token(False)
        for layer, name, array in self._tensors():
            scope = "" if layer is None else f"blk.{layer}."
            kind = np.float16 if array.ndim == 2 and name != "wpe" else np.float32
            outputs_first = array.T if name.endswith("/w") else array
            writer.add_tensor(scope + GGUF_NAMES[name], np.ascontiguousarray(outputs_first, kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def random_checkpoint(shape, folder, vocabulary, log):
    """Return a folder with a checkpoint of random weights, which is written first unless it exists.

    Args:
        shape: arguments of make_checkpoint.py, such as ["124M"].
        vocabulary: a folder with the vocabulary, or None. log: a file for the script's output.

    Raises:
        PeerError: TensorFlow is missing, or the disk is full.
    """
    if not (folder / "hparams.json").is_file() or not (folder / "model.ckpt.index").is_file():
        options = ["--vocabulary", vocabulary] if vocabulary else []
        run([sys.executable, HERE.parent / "make_checkpoint.py", *shape, folder, *options], log)
    return folder
