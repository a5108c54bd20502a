"""ServedModel: a model with its name, and what requests need to know about it."""

from __future__ import annotations

import os
from functools import cached_property

from gpt2rt.errors import UsageError
from gpt2rt.model import Model
from gpt2rt.serve.api_error import invalid, too_long

SHORT_TOKEN = 16  # bytes; a text with at most so many for each position is encoded without further ado


class ServedModel:
    """A model under the name that requests give.

    Attributes:
        name: of the model. model: the `Model`. created: when the file was last changed, in seconds since 1970.
        fingerprint: identifies the weights, the version that computes with them, and a KV cache of another type.
    """

    def __init__(self, name: str, model: Model):
        from gpt2rt import __version__

        self.name, self.model = name, model
        self.tokenizer = model.tokenizer
        self.n_ctx: int = model.hyperparameters.n_ctx
        self.n_vocab: int = model.hyperparameters.n_vocab
        self.created = int(os.stat(model.path).st_mtime)
        self.fingerprint = f"gpt2rt-{__version__}-{model.weights_checksum:08x}"
        if model.kv_type != ("f32" if model.weight_type == "f32" else "f16"):
            self.fingerprint += f"-{model.kv_type}"
        self._token_names: dict[int, str] = {}

    @cached_property
    def _longest_token(self) -> int:
        """The number of bytes of the longest token."""
        return max(len(self.tokenizer.token_bytes(token)) for token in range(self.n_vocab))

    def kv_cache_bytes(self, n_positions: int) -> int:
        """Return the most bytes that the KV cache of a text takes; it grows by doubling."""
        per_token: int = self.model.kv_cache_bytes_per_token
        return min(2 * n_positions, self.n_ctx) * per_token

    def encode(self, text: str, param: str) -> list[int]:
        """Return the ids of a text. <|endoftext|> in it becomes that token, as with OpenAI's completions.

        Raises:
            ApiError: the text has more tokens than the model has positions, or characters that are no text.
        """
        n_bytes = len(text.encode("utf-8", "surrogatepass"))
        # A text that can't fit is not encoded: that would take seconds for the longest one that a request can have.
        if n_bytes > SHORT_TOKEN * self.n_ctx and n_bytes > self._longest_token * self.n_ctx:
            raise too_long(param, -(-n_bytes // self._longest_token), self.n_ctx, " positions, at least")
        try:
            ids = self.tokenizer.encode(text, special=True)
        except UsageError as error:
            raise invalid(param, str(error)) from None
        self.check_length(ids, param)
        return ids

    def check_length(self, ids: list[int], param: str) -> None:
        """Raise ApiError if there are more ids than the model has positions."""
        if len(ids) > self.n_ctx:
            raise too_long(param, len(ids), self.n_ctx)

    def checked_ids(self, ids: list[int], param: str) -> list[int]:
        """Return ids of a request. Raises ApiError if one is out of range or there are too many."""
        self.check_length(ids, param)
        for token in ids:
            if not 0 <= token < self.n_vocab:
                raise invalid(param, f"token {token}: out of range, expected 0 to {self.n_vocab - 1}")
        return ids

    def start_of_text(self, param: str) -> list[int]:
        """Return the prompt that an empty one stands for. Raises ApiError if the vocabulary has no bos token."""
        if self.tokenizer.bos_token_id is None:
            raise invalid(param, "it is empty, and the vocabulary has no token to start with, such as <|endoftext|>")
        return [self.tokenizer.bos_token_id]

    def token_name(self, token: int) -> str:
        """Return the text of a token; part of a character is `bytes:\\xe2\\x80`, so that all names are different."""
        name = self._token_names.get(token)
        if name is None:
            content = self.tokenizer.token_bytes(token)
            try:
                name = content.decode()
            except UnicodeDecodeError:
                name = "bytes:"
            if name.startswith("bytes:"):
                name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
            self._token_names[token] = name
        return name
