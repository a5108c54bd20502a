"""Conversations, for tests: the models that talk, and what they read."""

from random_models import random_tensors, write_model

from gpt2rt.model import open_model
from gpt2rt.modelfile import Hyperparameters


def open_byte_model(folder, n_ctx):
    """Open a random model with a token for each byte and an end of text, and nothing about chat in its file."""
    h = Hyperparameters(n_vocab=257, n_ctx=n_ctx, n_embd=16, n_head=2, n_layer=1)
    return open_model(write_model(folder / "bytes.bin", h, random_tensors(h)), n_threads=1)


def say(conversation, message):
    """Return the answer to a message, generated to its end."""
    answer = conversation.say(message)
    text = "".join(answer)
    assert text == answer.text
    return answer


def shown_to(conversation):
    """What the model has read, as text."""
    return conversation.model.tokenizer.decode(conversation.sequence.tokens)
