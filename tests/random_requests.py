"""Random requests for gpt2rt serve, what the library answers to them, and bodies that may be no requests."""

import copy
import json

from gpt2rt.serve.requests import ChatRequest, CompletionRequest, neutral_fields

PATHS = {CompletionRequest: "/v1/completions", ChatRequest: "/v1/chat/completions"}
SHARED = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. "
)
MESSAGES = ("Hello!", "How are you today?", "Why?", "Tell me a joke, or a story of an old man and the sea.", "é €")
SAMPLING = {
    "temperature": (0, 0.5, 1.5),
    "top_k": (0, 3),
    "top_p": (0.5, 1),
    "min_p": (0.1,),
    "repetition_penalty": (1.3,),
    "repeat_last_n": (5,),
    "presence_penalty": (1,),
    "frequency_penalty": (-1,),
}


def random_request(random, model):
    """Return (path, fields) of a valid request to a model of this name, with a seed."""
    fields = {"model": model, "seed": random.getrandbits(random.choice((8, 64))), "stream": random.random() < 0.5}
    if fields["stream"] and random.random() < 0.5:
        fields["stream_options"] = {"include_usage": True}
    if random.random() < 0.2:
        fields["n"] = random.randint(1, 3)
    if random.random() < 0.2:
        fields["stop"] = random.choice((".", ["e", "the "], ["\n", "xyz"]))
    for name in random.sample(list(SAMPLING), random.choice((0, 0, 1, 2))):
        fields[name] = random.choice(SAMPLING[name])
    if random.random() < 0.4:
        return PATHS[ChatRequest], {**fields, **random_conversation(random)}
    if random.random() < 0.2:
        fields["logit_bias"] = {"97": 5, "101": -3.5}
    if random.random() < 0.25:
        fields["logprobs"] = random.choice((0, 2, 20))
    if random.random() < 0.25:
        fields["echo"] = True
    fields["prompt"] = random_prompt(random)
    fields["max_tokens"] = random.randint(not fields.get("echo"), 30)
    return PATHS[CompletionRequest], fields


def random_conversation(random):
    n_turns = random.choice((1, 1, 2, 3))
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": random.choice(MESSAGES)} for i in range(2 * n_turns - 1)
    ]
    fields = {"messages": messages, "max_tokens": random.randint(1, 20), "truncation": "auto"}
    if random.random() < 0.2:
        fields |= {"logprobs": True, "top_logprobs": random.choice((0, 3))}
    return fields


def random_prompt(random):
    """Return a text, ids, or a list of either; most begin as others do."""

    def one():
        text = SHARED[: random.choice((10, 70, len(SHARED)))] + random.choice(MESSAGES)[: random.randrange(9)]
        return list(text.encode()) if random.random() < 0.2 else text

    return [one() for _ in range(random.randint(1, 4))] if random.random() < 0.2 else one()


def prompts_of(fields):
    """Return the prompts of a request, each a text or ids; of a conversation, something of length 1."""
    prompt = fields.get("prompt", "")
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


def library_texts(model, path, fields):
    """Return the texts of a request's choices as the library generates them."""
    options = {name: value for name, value in fields.items() if name in SAMPLING or name == "stop"}
    n, seed = fields.get("n", 1), fields["seed"]
    if path == PATHS[ChatRequest]:
        options["max_tokens"] = fields["max_tokens"]
        return [model.chat(fields["messages"], seed=(seed + i) % 2**64, **options).text for i in range(n)]
    options["logit_bias"] = {int(token): bias for token, bias in fields.get("logit_bias", {}).items()}
    texts = []
    for one in prompts_of(fields):
        ids = model.tokenizer.encode(one, special=True) if isinstance(one, str) else one
        echo = model.tokenizer.decode(ids) if fields.get("echo") else ""
        for _ in range(n):
            own, most = (seed + len(texts)) % 2**64, fields["max_tokens"]
            text = model.generate(ids, seed=own, max_tokens=most, **options).text() if most else ""
            texts.append(echo + text)
    return texts


VALUES = (
    *(None, True, False, 0, 1, -1, 2, 0.5, 1e-300, 1e300, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, ""),
    *("a", "auto", "user", "\ud800", "\udfff\ud800", "\0", "é" * 300, "x" * 5000, " " * 70_000, "<|endoftext|>" * 50),
    *(
        [],
        [[]],
        {},
        {"": None},
        ["a", 1],
        [0] * 500,
        ["\0"] * 20,
        [["a"]],
        [-1, 256, 10**9],
        {"type": "text"},
        [{}] * 9,
    ),
)
TEXT_OF_NUMBERS = ("1e999", "-0", "1E5", "0.0000000000000000000000000000001", "9" * 500, "9" * 5000, "NaN", "01", "- 1")


def random_body(random, model):
    """Return (kind, body): a request that was changed at random, which may have left it valid."""
    path, fields = random_request(random, model)
    [kind] = [kind for kind in PATHS if PATHS[kind] == path]
    names = [*kind.__struct_fields__, *neutral_fields(kind), "unknown", "", "a\r\nb: c", "\ud800"]
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        place = fields
        while random.random() < 0.4:  # somewhere within
            inner = [value for value in (place.values() if isinstance(place, dict) else place) if value]
            inner = [value for value in inner if isinstance(value, (dict, list))]
            if not inner:
                break
            place = random.choice(inner)
        value = copy.deepcopy(random.choice(VALUES))
        if isinstance(place, list) and place:
            place[random.randrange(len(place))] = value
        elif isinstance(place, dict):
            place[random.choice(names if place is fields or not place else [*names, *place])] = value
    return kind, mangled(random, json.dumps(fields, ensure_ascii=random.random() < 0.5))


def mangled(random, text):
    """Return JSON as bytes, most of the time as it is."""
    choice = random.randrange(12)
    if choice == 0:
        text = text.replace(random.choice('0123456789"[]{},:'), random.choice(TEXT_OF_NUMBERS), 1)
    elif choice == 1:
        text = text[:-1] + ", " + text[1:]  # every key twice
    elif choice == 2:
        deep = 10 ** random.randint(1, 5)
        text = f'{{"metadata": {"[" * deep}{"]" * deep}, {text[1:]}'
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    if choice == 3:
        del content[random.randrange(len(content)) :]
    elif choice == 4:
        for _ in range(random.randint(1, 4)):
            content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content)
