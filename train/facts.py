"""Exchanges about simple facts, sums and counting, as about.py uses them: made from the tables of wordings/facts.txt.

Each maker takes a random generator and returns the turns of an exchange, those of the user first.
"""

import pathlib

SOURCE = pathlib.Path(__file__).with_name("wordings") / "tables" / "facts.txt"
NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
]
MAX = 20  # of sums and counting


def read_tables(text):
    """Return {table: rows} of facts.txt, each row a list of strings; `? ` and `! ` lines are its wordings."""
    tables = {}
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith("# ")]
        if lines:
            name, *rest = lines
            tables[name.removeprefix("= ")] = {
                "questions": [line[2:] for line in rest if line.startswith("? ")],
                "answers": [line[2:] for line in rest if line.startswith("! ")],
                "follow-ups": [line[2:] for line in rest if line.startswith("& ")],
                "rows": [line.split(" | ") for line in rest if line[:2] not in ("? ", "! ", "& ")],
            }
    return tables


TABLES = read_tables(SOURCE.read_text(encoding="utf-8"))
SURE = {
    "user": ["Are you sure?", "Really?", "Is that right?", "How do you know?", "Thank you.", "Thanks!"],
    "bot": {
        "Thank you.": ["You're welcome!", "My pleasure!", "You're welcome. Ask me another one."],
        "Thanks!": ["You're welcome!", "My pleasure!", "Gladly!"],
        "How do you know?": ["I read it during my training.", "It was in the texts that I learned from."],
        "": ["Yes, I think so. But check it, I'm a small model.", "I believe so: {again}", "Yes: {again}"],
    },
}
YES = ["Yes, it is.", "Yes.", "That's right.", "Yes, that's right."]


def fact(random):
    """A question from a table, sometimes followed by the same question about something else."""
    table = TABLES[random.choice([name for name, table in TABLES.items() if table["questions"]])]
    row = random.choice(table["rows"])
    turns = [random.choice(table["questions"]).format(*row), random.choice(table["answers"]).format(*row)]
    while table["follow-ups"] and random.random() < 0.4:
        row = random.choice(table["rows"])
        turns += [random.choice(table["follow-ups"]).format(*row), random.choice(table["answers"]).format(*row)]
    if random.random() < 0.2:
        doubt = random.choice(SURE["user"])
        again = random.choice(table["answers"]).format(*row)
        turns += [doubt, random.choice(SURE["bot"].get(doubt, SURE["bot"][""])).format(again=again)]
    return turns


def claim(random):
    """A statement to be judged: a capital, a color or an opposite, right or wrong."""
    name, question, wrong = random.choice(
        [
            ("capitals", "Is {1} the capital of {0}?", ["No, {2} is.", "No, the capital of {0} is {2}."]),
            ("opposites", "Is {1} the opposite of {0}?", ["No, {2} is.", "No, the opposite of {0} is {2}."]),
            ("continents", "Is {0} in {1}?", ["No, it's in {2}.", "No, {0} is in {2}."]),
        ]
    )
    rows = TABLES[name]["rows"]
    row = random.choice(rows)
    if random.random() < 0.4:
        return [question.format(*row), random.choice(YES)]
    other = random.choice([one for one in rows if one[1] != row[1]])[1]
    return [question.format(row[0], other), random.choice(wrong).format(row[0], other, row[1])]


def order(random):
    """Which of two things is bigger or smaller."""
    things = [row[0] for row in TABLES["sizes"]["rows"]]
    small = random.randrange(len(things) - 2)
    big = random.randrange(small + 2, len(things))
    pair = random.sample([things[small], things[big]], 2)
    if random.random() < 0.7:
        is_big = random.random() < 0.6
        right = things[big if is_big else small]
        words = ("bigger", "larger") if is_big else ("smaller",)
        question = random.choice(["Which is {0}, {1} or {2}?", "What's {0}: {1} or {2}?", "Is {1} or {2} {0}?"])
        answer = random.choice(["{1}.", "{1} is {0}.", "{1}, of course."])
        word = random.choice(words)
        return [question.format(word, *pair), answer.format(word, right)]
    is_right = pair[0] == things[big]
    answer = (
        ["Yes, much bigger.", "Yes.", "Yes, of course."] if is_right else ["No, it's smaller.", f"No, {pair[1]} is."]
    )
    return [f"Is {pair[0]} bigger than {pair[1]}?", random.choice(answer)]


def neighbor(random):
    """What comes before or after a day, a month, a number or a letter."""
    kind = random.choice(["days", "months", "numbers", "letters"])
    if kind == "numbers":
        row = NUMBERS[1:] if random.random() < 0.6 else [str(n) for n in range(1, MAX + 1)]
    else:
        row = [row[0] for row in TABLES[kind]["rows"]]
    is_after = random.random() < 0.65
    step = 1 if is_after else -1
    wraps = kind in ("days", "months")
    i = random.randrange(len(row)) if wraps else random.randrange(1, len(row) - 1)
    turns = []
    word = "after" if is_after else "before"
    questions = ["What comes {0} {1}?", "Which {2} comes {0} {1}?", "What {2} is {0} {1}?", "What's {0} {1}?"]
    one = {"days": "day", "months": "month", "numbers": "number", "letters": "letter"}[kind]
    for n in range(random.choice([1, 1, 2, 3])):
        question = random.choice(questions) if n == 0 else random.choice(["And {0} {1}?", "And {0} that?"])
        if "that" not in question and n:
            i = random.randrange(len(row)) if wraps else random.randrange(1, len(row) - 1)
        elif n:
            i = (i + step) % len(row)
            if not wraps and not 0 < i < len(row) - 1:
                break
        answer = row[(i + step) % len(row)]
        turns += [question.format(word, row[i], one), random.choice(["{0}.", "{0}.", "{0} comes {1} {2}."])]
        turns[-1] = turns[-1].format(answer, word, row[i])
    return turns


def total(random, start=None):
    """Return (a, sign, b, result) of a sum with numbers up to MAX; `start` is a, where it's given."""
    while True:
        sign = random.choice("++--*")
        a = random.randint(0, MAX) if start is None else start
        b = random.randint(0, MAX)
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
        if 0 <= result <= MAX and (sign != "*" or (0 < a <= 10 and 0 < b <= 10)):
            return a, sign, b, result


def written(random, number, in_words):
    return NUMBERS[number] if in_words else str(number)


def add(random):
    """A sum, sometimes several."""
    in_words = random.random() < 0.6
    a, sign, b, result = total(random)
    names = {"+": ["plus", "plus", "and"], "-": ["minus", "minus", "take away"], "*": ["times"]}
    turns = []
    first = [
        "What is {0}?",
        "What's {0}?",
        "How much is {0}?",
        "Can you tell me what {0} is?",
        "{0}?",
        "{0}",
        "And {0}?",
    ]
    if not in_words:
        first += ["{0} = ?", "What is {0}", "{0} ="]
    while True:
        if in_words:
            operation = f"{NUMBERS[a]} {random.choice(names[sign])} {NUMBERS[b]}"
        else:
            operation = f"{a} {sign} {b}" if random.random() < 0.8 else f"{a}{sign}{b}"
        said = written(random, result, in_words)
        answers = ["{0}.", "It's {0}.", "That is {0}.", "That makes {0}."]
        if sign != "-" or in_words:
            answers.append(f"{operation} is {{0}}.")
        turns += [random.choice(first).format(operation), random.choice(answers).format(said)]
        if random.random() < 0.3:
            break
        if random.random() < 0.25:  # continues from the result
            a, sign, b, result = total(random, result)
            name = random.choice(names[sign])
            b_said = written(random, b, in_words)
            turns += [f"And {name} {b_said}?", f"That makes {written(random, result, in_words)}."]
            break
        a, sign, b, result = total(random)
        first = ["And {0}?", "And what is {0}?", "What about {0}?", "Now {0}.", "What's {0}?", "How much is {0}?"]
    if random.random() < 0.12:
        turns += [
            random.choice(["Are you sure?", "Is that right?"]),
            f"Yes, it's {written(random, result, in_words)}, I think.",
        ]
    elif random.random() < 0.1:
        turns += [
            random.choice(["Right.", "Correct!", "Very good!"]),
            random.choice(["Thank you!", "Ask me another one!"]),
        ]
    return turns


def check(random):
    """A sum to be judged, right or wrong."""
    a, sign, b, result = total(random)
    name = {"+": "plus", "-": "minus", "*": "times"}[sign]
    said = result if random.random() < 0.5 else random.choice([n for n in range(MAX + 1) if n != result])
    turns = [f"Is {NUMBERS[a]} {name} {NUMBERS[b]} {NUMBERS[said]}?"]
    right = ["Yes, it is.", "Yes.", "That's right."]
    wrong = [f"No, it's {NUMBERS[result]}.", f"No, it makes {NUMBERS[result]}."]
    return [*turns, random.choice(right if said == result else wrong)]


def count(random):
    """Counting forwards and backwards, in words or digits."""
    in_words = random.random() < 0.7

    def counted(begin, end, step=1):
        numbers = range(begin, end + (1 if step > 0 else -1), step)
        return ", ".join(written(random, n, in_words) for n in numbers) + "."

    n = random.randint(3, MAX if random.random() < 0.4 else 10)
    begin = 1 if random.random() < 0.7 else random.randint(1, n - 2)
    first, last = written(random, begin, in_words), written(random, n, in_words)
    if random.random() < 0.3:
        forms = [
            "Count backwards from {1}.",
            "Count down from {1}.",
            "Count from {1} down to {0}.",
            "Count from {1} to {0}.",
        ]
        if begin != 1:
            forms = forms[2:]
        question, answer = random.choice(forms).format(first, last), counted(n, begin, -1)
        more = [["Now forwards.", "And forwards?", "Now the other way."], counted(begin, n)]
    else:
        forms = ["Count to {1}.", "Can you count to {1}?", "Please count to {1}.", "Count up to {1}."]
        if begin != 1 or random.random() < 0.4:
            forms = ["Count from {0} to {1}.", "Can you count from {0} to {1}?", "Please count from {0} to {1}."]
        question, answer = random.choice(forms).format(first, last), counted(begin, n)
        backwards = [
            "Now backwards.",
            "And backwards?",
            "Backwards, please.",
            "Can you do it backwards?",
            "The other way.",
        ]
        more = [backwards, counted(n, begin, -1)]
    turns = [question, answer]
    if random.random() < 0.5:
        turns += [random.choice(more[0]), more[1]]
    elif n <= 15 and random.random() < 0.4:
        end = min(MAX, n + 5)
        turns += [random.choice(["Go on.", "And then?", "Continue.", "More."]), counted(n + 1, end)]
    if random.random() < 0.2:
        turns += [
            random.choice(["Well done!", "Very good!", "Great."]),
            random.choice(["Thank you!", "Thanks! That was easy."]),
        ]
    return turns


MAKERS = {"fact": [fact, fact, fact, claim, order, neighbor], "sum": [add, add, add, add, add, check], "count": [count]}
