"""ELIZA: the conversation of the article of 1966, the language of scripts, the pattern matcher, and any text."""

import json
import time

import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2rt.arena.eliza import (
    BCD,
    UNMATCHED,
    Eliza,
    Script,
    Sentence,
    answer_to,
    last_cell,
    sentence_case,
    slip_hash,
    words_of,
)
from gpt2rt.errors import UsageError

NONE = "(NONE ((0) (GO ON)))"
LISTENER = Script.listener()


def script(*rules):
    return Script.parse("\n".join(["(HELLO)", "START", *rules, NONE]))


def answers(rules, *messages):
    """Return the answers to messages by a script of these rules."""
    eliza = Eliza(script(*rules))
    return [eliza.answer(message) for message in messages]


def talk(*messages):
    """Return messages in the format of OpenAI's API, with made-up answers between the user's."""
    found = []
    for content in messages:
        found += [{"role": "user", "content": content}, {"role": "assistant", "content": "..."}]
    return found[:-1]


@pytest.fixture(scope="module")
def doctor():
    return Script.parse(shared("eliza", "doctor-1966.txt").read_text("utf-8"))


# --- the program of 1966


def test_the_conversation_of_the_article_comes_out_word_for_word(doctor):
    exchanges = json.loads(shared("eliza", "cacm-conversation.json").read_text("utf-8"))
    eliza = Eliza(doctor)
    assert len(exchanges) == 15
    assert [[message, eliza.answer(message)] for message, _ in exchanges] == exchanges


def test_the_doctor_opens_as_in_the_article(doctor):
    assert doctor.opening == "HOW DO YOU DO. PLEASE TELL ME YOUR PROBLEM"


def test_turings_first_machine_computes_010101():
    eliza = Eliza(Script.parse(shared("eliza", "turing-example-1.txt").read_text("utf-8")))
    answer = eliza.answer("EX1")
    assert answer in UNMATCHED  # the machine never halts, so the work for one answer ends it
    tape = [symbol for symbol in eliza.words if symbol != "*"]  # the head stands between asterisks
    printed = [symbol for symbol in tape if symbol != "_"]
    assert len(printed) > 100
    assert printed == ["O", "I"] * (len(printed) // 2) + ["O"] * (len(printed) % 2)
    first = tape.index("O")
    assert set(tape[first + 1 : tape.index("_", first + 2) : 2]) == {"_"}  # on every other square, as Turing has it


def test_a_turing_machine_that_halts_gives_its_tape():
    # The busy beaver of two states and two symbols: A0 1RB, A1 1LB, B0 1LA, B1 1RH; the head is between bars.
    machine = """
        (START ((0) (PRE (| O |) (=A))))
        (A ((| 0) (PRE (O | 2) (=A)))
           ((0 |) (PRE (1 | O) (=A)))
           ((0 1 | O | 1 0) (PRE (1 2 I | 6 | 7) (=B)))
           ((0 1 | I | 1 0) (PRE (1 | 2 | I 6 7) (=B))))
        (B ((| 0) (PRE (O | 2) (=B)))
           ((0 |) (PRE (1 | O) (=B)))
           ((0 1 | O | 1 0) (PRE (1 | 2 | I 6 7) (=A)))
           ((0 1 | I | 1 0) (PRE (1 2 I | 6 | 7) (=HALT))))
        (HALT ((0) (1)))"""
    (tape,) = answers([machine], "start")
    assert tape.split().count("I") == 4


@pytest.mark.parametrize(
    ("datum", "n_bits", "expected"),
    [
        (0o302551256060, 2, 3),  # HERE
        (0o214366217062, 7, 14),  # ALWAYS, the article's own example
        (0o423124626060, 2, 1),  # KIDS
        (0o633144256060, 2, 0),  # TIME
        (0, 7, 0),
        (0o777777777777, 7, 0x70),
        (0o777777777777, 15, 0x7F00),
    ],
)
def test_the_hash_is_the_middle_of_the_square(datum, n_bits, expected):
    assert slip_hash(datum, n_bits) == expected


@pytest.mark.parametrize(
    ("word", "expected"), [("PURPOSE", 1), ("DEVONSHIRE", 0), ("PREDICAMENT", 3), ("GLOUCESTERSHIRE", 2), ("HERE", 3)]
)
def test_a_memory_is_chosen_by_the_last_six_characters(word, expected):
    assert slip_hash(last_cell(word), 2) == expected


@pytest.mark.parametrize(
    ("word", "cell"), [("HERE", 0o302551256060), ("ALWAYS", 0o214366217062), ("INVENTED", 0o252460606060)]
)
def test_a_machine_word_has_six_characters_of_six_bits(word, cell):
    assert last_cell(word) == cell


def test_the_characters_have_the_codes_of_the_7094():
    assert len(BCD) == 64
    assert [BCD.index(c) for c in "09AJS ,."] == [0o00, 0o11, 0o21, 0o41, 0o62, 0o60, 0o73, 0o33]


# --- the language of scripts


def test_the_message_is_read_in_capitals_and_marks_are_words():
    assert words_of("Well, it’s  me. OK") == ["WELL", ",", "IT'S", "ME", ".", "OK"]
    assert words_of("Really?! Café (no)") == ["REALLY", ".", ".", "CAFE", "NO"]


def test_a_keyword_is_replaced_and_its_rule_applied():
    assert answers(["(MY = YOUR ((0 YOUR 0) (TELL ME OF YOUR 3)))"], "I like my dog") == ["TELL ME OF YOUR DOG"]


def test_a_word_that_is_only_replaced_is_no_keyword():
    assert answers(["(MY = YOUR)"], "my dog") == ["GO ON"]


def test_reassemblies_take_turns_and_each_decomposition_has_its_own():
    rules = ["(A ((0 X) (ONE) (TWO)) ((0) (THREE) (FOUR)))"]
    assert answers(rules, "A X", "A", "A X", "A X", "A", "A") == ["ONE", "THREE", "TWO", "ONE", "FOUR", "THREE"]


def test_the_keyword_of_highest_precedence_answers_and_of_equals_the_first():
    rules = ["(A ((0) (FIRST)))", "(B 2 ((0) (SECOND)))", "(C 2 ((0) (THIRD)))"]
    assert answers(rules, "a b c", "a c b", "c a", "a") == ["SECOND", "THIRD", "THIRD", "FIRST"]


def test_newkey_goes_to_the_next_keyword_and_then_to_none():
    rules = ["(A 3 ((0) (NEWKEY)))", "(B ((0) (HERE)))"]
    assert answers(rules, "b a", "a") == ["HERE", "GO ON"]


def test_a_link_goes_to_another_rule():
    assert answers(["(A (=B))", "(B ((0) (LINKED)))"], "a") == ["LINKED"]
    assert answers(["(A ((0 X 0) (=B)) (=C))", "(B ((0) (X)))", "(C ((0) (Y)))"], "a x", "a") == ["X", "Y"]


def test_pre_rewrites_the_sentence_before_the_link():
    rules = ["(I'M = YOU'RE ((0 YOU'RE 0) (PRE (YOU ARE 3) (=I))))", "(I ((0 YOU ARE 0) (HOW LONG ARE YOU 4)))"]
    assert answers(rules, "I'm here") == ["HOW LONG ARE YOU HERE"]


def test_a_tag_stands_for_the_words_that_have_it():
    rules = ["(DOG DLIST(/PET))", "(CAT DLIST(/BIG PET))", "(A ((0 (/PET) 0) (THE 2)) ((0) (NOTHING)))"]
    assert answers(rules, "a red dog", "a cat", "a bird") == ["THE DOG", "THE CAT", "NOTHING"]


def test_one_of_several_words_matches():
    rules = ["(A ((0 (*SAD UNHAPPY) 0) (WHY 2)) ((0) (NOTHING)))"]
    assert answers(rules, "a is unhappy", "a is glad") == ["WHY UNHAPPY", "NOTHING"]


@pytest.mark.parametrize("delimiter", [",", ".", " but ", "?", "!", ";"])
def test_only_the_first_clause_with_a_keyword_counts(delimiter):
    rules = ["(A ((0) (1)))", "(B 5 ((0) (1)))"]
    assert answers(rules, f"x y{delimiter} so a it is{delimiter} b") == ["SO A IT IS"]


def test_none_answers_in_turn_where_there_is_no_keyword():
    eliza = Eliza(Script.parse("()(NONE ((0) (ONE) (TWO)))"))
    assert [eliza.answer("x") for _ in range(3)] == ["ONE", "TWO", "ONE"]


def test_the_word_none_is_no_keyword():
    assert answers(["(A ((0) (HERE)))"], "none a") == ["HERE"]


MEMORY = "(MEMORY MY (0 YOUR 0 = FIRST 3) (0 YOUR 0 = SECOND 3) (0 YOUR 0 = THIRD 3) (0 YOUR 0 = FOURTH 3))"


def test_every_fourth_answer_without_a_keyword_recalls_the_oldest_memory():
    rules = ["(MY = YOUR ((0) (I SEE)))", MEMORY]
    messages = ["my kids", "my coat is here", "x", "x", "x", "x", "x", "x", "x", "x", "x"]
    found = answers(rules, *messages)
    # LIMIT is 2 at the first answer, so it is 4 at the third.
    assert [i for i, answer in enumerate(found) if answer not in ("GO ON", "I SEE")] == [2, 6]
    assert (found[2], found[6]) == ("SECOND KIDS", "FOURTH COAT IS HERE")


def test_a_memory_is_stored_only_if_its_decomposition_matches():
    eliza = Eliza(script("(MY = YOUR ((0) (I SEE)))", MEMORY.replace("0 YOUR 0", "YOUR 0 X")))
    eliza.answer("my dog")
    assert not eliza.memories


@pytest.mark.parametrize(
    ("n", "expected"), [(1, "HMMM"), (2, "GO ON , PLEASE"), (3, "I SEE"), (4, "PLEASE CONTINUE"), (5, "HMMM")]
)
def test_a_rule_that_does_not_match_gives_a_sentence_by_limit(n, expected):
    assert answers(["(A ((X) (Y)))"], *["a"] * n)[-1] == expected


def test_an_empty_answer_gives_such_a_sentence_too():
    assert answers(["(A ((0 A 0) (3)))"], "a") == ["HMMM"]


@pytest.mark.parametrize("rules", [["(A (=B))", "(B (=A))"], ["(A ((0) (PRE (1 1) (=A))))"]], ids=["links", "doubling"])
def test_a_script_that_links_in_circles_still_answers(rules):
    start = time.process_time()
    assert answers(rules, "a " * 50) == ["HMMM"]
    assert time.process_time() - start < 10


@pytest.mark.parametrize("number", ["0", "2", "3"])
def test_a_count_matches_exactly_so_many_words(number):
    found = answers([f"(A ((A {number}) (2)) ((0) (OTHER)))"], "a b c")
    assert found == ["OTHER" if number == "3" else "B C"]


def test_comments_and_line_breaks_do_not_matter():
    text = "(hello) ; a comment (\nSTART\n(a\n  ((0) ; another\n (yes)))\n(none ((0) (go on)))\n()\n; the end"
    assert Eliza(Script.parse(text)).answer("A") == "YES"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(X)\n(A ((0) (B))", "line 2: got a list without an end, expected a closing parenthesis"),
        ("(X)\n(A ((0) (B))))", "line 2: got a closing parenthesis, expected an opening one before it"),
        ("(X)\n" + "(" * 9, "line 2: got more than 8 open parentheses, expected at most 4"),
        ("(X)\n\nSTOP", "line 1: got STOP, expected a list"),
        ("(X (Y))", "line 1: got (Y), expected a word of the opening"),
        ("(X)", "line 1: got no rule NONE with a decomposition, expected one"),
        ("(X)\n(NONE (=NONE))", "line 2: got no rule NONE with a decomposition, expected one"),
        (f"(X)\n(A B)\n{NONE}", "line 2: A: got B, expected ((DECOMPOSITION) (REASSEMBLY) ...) or (=KEYWORD)"),
        (f"(X)\n((A) 1)\n{NONE}", "line 2: got (A), expected a keyword"),
        (f"(X)\n(A =)\n{NONE}", "line 2: got nothing, expected a word after ="),
        (f"(X)\n(A DLIST)\n{NONE}", "line 2: A: got no list after DLIST, expected (/TAGS)"),
        (f"(X)\n(A DLIST(B))\n{NONE}", "line 2: got (B), expected (/WORDS)"),
        (f"(X)\n(A 1000)\n{NONE}", "line 2: got the number 1000, expected at most 999"),
        (f"(X)\n(A\n ((0)))\n{NONE}", "line 3: got no reassembly for (0), expected at least one"),
        (f"(X)\n(A\n ((0)\n ()))\n{NONE}", "line 4: got (), expected an answer"),
        (f"(X)\n(A ((0) B))\n{NONE}", "line 2: got B, expected a reassembly in parentheses"),
        (f"(X)\n(A ((0 (B)) (C)))\n{NONE}", "line 2: got (B), expected (*WORDS) or (/WORDS)"),
        (f"(X)\n(A ((0 (*)) (C)))\n{NONE}", "line 2: got (*), expected at least one word after *"),
        (f"(X)\n(A ((0 A) (X 3)))\n{NONE}", "line 2: got 3, expected a part of the decomposition, from 1 to 2"),
        (f"(X)\n(A ((0 A) (X (Y))))\n{NONE}", "line 2: got (Y), expected a word of an answer"),
        (f"(X)\n(A (=B) ((0) (C)))\n{NONE}", "line 2: A: got ((0) (C)) after (=B), expected the rule's end"),
        (f"(X)\n(A\n (=B))\n{NONE}", "line 3: got a link to B, expected the keyword of a rule that can answer"),
        (f"(X)\n(A (=B))\n(B = C)\n{NONE}", "line 2: got a link to B, expected the keyword of a rule that can answer"),
        (f"(X)\n(A ((0 (/T)) (B)))\n{NONE}", "line 2: got the tag T, expected one that a DLIST gives to a word"),
        (f"(X)\n(A = B)\n(A = C)\n{NONE}", "line 3: got a second rule for A, expected one"),
        (f"(X)\n(MEMORY)\n{NONE}", "line 2: got nothing, expected a keyword after MEMORY"),
        (f"(X)\n(MEMORY A (0 = B))\n{NONE}", "line 2: MEMORY: got 1 transformations, expected 4"),
        (f"(X)\n(MEMORY A (0))\n{NONE}", "line 2: MEMORY: got (0), expected (DECOMPOSITION = REASSEMBLY)"),
        (f"(X)\n{NONE}\n()\n(A = B)", "line 4: got (A = B) after (), expected the end of the script"),
    ],
)
def test_a_malformed_script_is_refused_with_its_line(text, message):
    with pytest.raises(UsageError) as raised:
        Script.parse(text, "my.txt")
    assert str(raised.value) == f"my.txt: {message}"


def test_written_scripts_are_read_back(doctor):
    for one in (doctor, LISTENER):
        assert Script.parse(str(one)) == one
        assert str(Script.parse(str(one))) == str(one)


WORDS = st.sampled_from(["A", "B", "C", "YOU", "ARE", "X-Y", "'", "*", "1966,", "?"])
KEYS = ["A", "B", "C", "NONE"]
TAGS = ["T", "U"]
PARTS = st.one_of(
    WORDS,
    st.integers(0, 9).map(str),
    st.lists(WORDS, min_size=1, max_size=3).map(lambda words: f"(*{' '.join(words)})"),
    st.lists(st.sampled_from(TAGS), min_size=1, max_size=2).map(lambda tags: f"(/ {' '.join(tags)})"),
)
LINKS = st.sampled_from(KEYS).map("(={})".format)


@st.composite
def transformations(draw):
    pattern = draw(st.lists(PARTS, min_size=1, max_size=5))
    words = st.lists(st.one_of(WORDS, st.integers(1, len(pattern)).map(str)), min_size=1, max_size=4).map(" ".join)
    pre = st.builds("(PRE ({}) {})".format, words, LINKS)
    one = st.one_of(words.map("({})".format), LINKS, st.just("(NEWKEY)"), pre)
    return f"(({' '.join(pattern)}) {' '.join(draw(st.lists(one, min_size=1, max_size=3)))})"


@st.composite
def scripts(draw):
    rules = [f"(X DLIST(/{tag} {tag}))".replace("X", f"TAGGED{tag}") for tag in TAGS]
    for key in KEYS:
        head = [key, *draw(st.sampled_from([[], ["= YOU"]])), str(draw(st.integers(0, 9)))]
        tags = draw(st.sampled_from(["", "DLIST(/T)", "DLIST(/U T)"]))
        found = draw(st.lists(transformations(), min_size=1, max_size=3))
        rules.append(f"({' '.join(head)} {tags} {' '.join(found)} {draw(st.sampled_from(['', '(=A)', '(=NONE)']))})")
    memory = draw(st.sampled_from(["", "(MEMORY A (0 A 0 = B 3) (0 = C 1) (A = X) (0 YOU 0 = 1 3))"]))
    return "\n".join(["(A B, C.)", "START", *rules, memory, "()"])


@given(scripts())
@settings(deadline=None)
@pytest.mark.slow
def test_any_script_is_read_back_as_it_was_written(text):
    found = Script.parse(text)
    assert Script.parse(str(found)) == found


@given(scripts(), st.lists(st.text("ABCX1,. ", max_size=30), min_size=1, max_size=6))
@settings(deadline=None, max_examples=50)
def test_any_script_gives_every_message_an_answer(text, messages):
    eliza = Eliza(Script.parse(text))
    assert all(eliza.answer(message) for message in messages)


# --- the matcher


@pytest.mark.parametrize(
    ("pattern", "words", "parts"),
    [
        ("0 YOU 0 I 0", "YOU KNOW THAT I KNOW YOU HATE I TOO", ["", "YOU", "KNOW THAT", "I", "KNOW YOU HATE I TOO"]),
        ("0 ITS 0 MARY 1", "ITS MARY ITS NOT MARY TOO", ["", "ITS", "MARY ITS NOT", "MARY", "TOO"]),
        ("0 0 3", "A B C D", ["", "A", "B C D"]),
        ("MARY 2 2 ITS 1 0", "MARY HAD A LITTLE LAMB ITS B C D", ["MARY", "HAD A", "LITTLE LAMB", "ITS", "B", "C D"]),
        ("1 0 2 ITS 0", "MARY HAD A LITTLE LAMB ITS B", ["MARY", "HAD A", "LITTLE LAMB", "ITS", "B"]),
        ("0", "", [""]),
        ("", "", []),
        ("1", "", None),
        ("0 A", "A B", None),
        ("999 0", "A B", None),
        ("A B", "A B C", None),
    ],
)
def test_each_zero_is_as_short_as_the_rest_allows(pattern, words, parts):
    found = Sentence(words.split()).match([int(one) if one.isdigit() else one for one in pattern.split()])
    assert (found and [" ".join(part) for part in found]) == parts


def matched_slowly(pattern, words):
    """Return what the definition says: try every length of each zero, the shortest first."""
    if not pattern:
        return None if words else []
    first, *rest = pattern
    lengths = range(len(words) + 1) if first == 0 else [first if isinstance(first, int) else 1]
    for length in lengths:
        fits = length <= len(words) and (isinstance(first, int) or words[:1] == [first])
        if fits and (found := matched_slowly(rest, words[length:])) is not None:
            return [words[:length], *found]
    return None


@given(st.lists(st.sampled_from([0, 0, 1, 2, "A", "B"]), max_size=7), st.lists(st.sampled_from("AB"), max_size=9))
def test_the_matcher_equals_its_definition(pattern, words):
    assert Sentence(words).match(pattern) == matched_slowly(pattern, words)


def test_a_pattern_of_many_zeros_takes_little_time():
    start = time.process_time()
    pattern = [0, "A"] * 30 + ["B"]
    assert Sentence(["A"] * 5000).match(pattern) is None  # by trying all lengths: more steps than there are atoms
    assert time.process_time() - start < 5


# --- any text


@given(st.lists(st.text(max_size=200), min_size=1, max_size=8))
@settings(deadline=None)
def test_any_text_has_an_answer_and_always_the_same(messages):
    found = answer_to(LISTENER, talk(*messages))
    assert found
    assert found == found.upper()
    assert answer_to(LISTENER, talk(*messages)) == found
    assert sentence_case(found, messages[-1])


KEYWORDS = [
    *LISTENER.rules,
    *["I", "you", "my", "your", "are", "am", "was", "like", "to", ".", ",", "but", "a", "dog", "not"],
]


@given(st.lists(st.sampled_from(KEYWORDS), max_size=25))
@settings(deadline=None, max_examples=500)
def test_any_row_of_keywords_has_an_answer_of_the_script(words):
    answer = Eliza(LISTENER).answer(" ".join(words))
    assert answer not in UNMATCHED


@pytest.mark.parametrize(
    "message",
    [
        "my dog " * 5000,
        "I was " * 5000,
        "are you " * 5000,
        "if " + "to you " * 5000,
        "do " * 20000,
        "a" * 100_000,
        "... " * 20000,
        "e" + "\u0315\u0300" * 50_000,
        "\ud800 \0",
    ],
    ids=["my", "was", "are", "to", "do", "letters", "periods", "accents", "surrogate"],
)
def test_a_long_message_is_answered_in_bounded_time(message):
    start = time.process_time()
    assert Eliza(LISTENER).answer(message)
    assert time.process_time() - start < 10


# --- a whole conversation


def test_a_conversation_is_replayed_from_the_users_messages():
    messages = ["Hello", "my dog is old", "hmm", "hmm", "hmm", "you again"]
    eliza = Eliza(LISTENER)
    expected = [eliza.answer(message) for message in messages]
    assert [answer_to(LISTENER, talk(*messages[: n + 1])) for n in range(len(messages))] == expected


def test_a_system_message_is_ignored():
    system = {"role": "system", "content": "my dog"}
    assert answer_to(LISTENER, [system, *talk("hello")]) == answer_to(LISTENER, talk("hello"))


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "hello",
        None,
        {"role": "user", "content": "x"},
        talk("a", "b")[:2],
        [*talk("a"), *talk("b")],
        [{"role": "user", "content": None}],
        [{"role": "user"}],
        ["x"],
        [*talk("a", "b")[:2], {"role": "system", "content": "x"}],
    ],
    ids=str,
)
def test_messages_in_another_order_are_refused(messages):
    with pytest.raises(UsageError, match="messages: "):
        answer_to(LISTENER, messages)
