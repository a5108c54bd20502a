"""Dialogues as the bundled model learned them: `User: ...` and `Bot: ...` lines, each dialogue behind the last one's
end-of-text token.

    python bench/dialogue_text.py heldout_dialogues.jsonl.xz > dialogues.txt

Reads lines {"turns": [text, ...], ...}, the turns alternate; writes UTF-8.
"""

import json
import lzma
import sys


def dialogue_text(lines):
    """The text of all dialogues."""
    documents = []
    for line in lines:
        turns = json.loads(line)["turns"]
        documents.append("".join(f"{('User', 'Bot')[i % 2]}: {turn}\n" for i, turn in enumerate(turns)))
    return "<|endoftext|>".join(documents)


if __name__ == "__main__":
    with lzma.open(sys.argv[1], "rt", encoding="utf-8") as file:
        sys.stdout.buffer.write(dialogue_text(file).encode())
