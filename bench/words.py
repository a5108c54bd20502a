"""Random words, as prompts of benchmarks."""

import string


def random_text(tokenizer, n, generator):
    """Return random words of exactly n tokens."""
    text, left = "", n
    while left:
        letters = generator.choices(string.ascii_lowercase, k=generator.randint(1, 8))
        # A word and the space before it are encoded by themselves, and a single character is one token.
        word = f" {''.join(letters)}" if left > 1 else "."
        size = len(tokenizer.encode(word))
        if size <= left:
            text += word
            left -= size
    return text
