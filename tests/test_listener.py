"""The listener, the script of the package, and how its answers are displayed."""

import pytest
from conftest import shared

from gpt2rt.arena.eliza import BCD, Eliza, Script, sentence_case

LISTENER = Script.listener()


def test_the_listener_knows_more_than_fifty_keywords():
    assert sum(rule.is_key for rule in LISTENER.rules.values()) >= 50
    assert LISTENER.memory


def answers_of(one):
    """Return the answers of a script, without those that only repeat parts."""
    found = {
        reassembly.words
        for rule in one.rules.values()
        for transformation in rule.transformations
        for reassembly in transformation.reassemblies
        if reassembly.words and reassembly.link is None
    }
    return {" ".join(map(str, words)) for words in found}


def test_the_listener_shares_no_answer_with_the_doctor():
    doctor = Script.parse(shared("eliza", "doctor-1966.txt").read_text("utf-8"))
    assert not answers_of(LISTENER) & answers_of(doctor)


def test_the_listener_is_written_for_the_machine_of_1966():
    text = " ".join([LISTENER.opening, *answers_of(LISTENER)])
    assert set(text) <= set(BCD) - set("?")
    assert not [
        word for word in text.split() if word.strip(",.").isdigit() and not word.isdigit() and "1966" not in word
    ]


@pytest.mark.parametrize(
    "message",
    [
        "Are you a human?",
        "are you real",
        "you are a person",
        "I think you're a real person",
        "Am I talking to a human?",
    ],
)
def test_the_listener_says_that_it_is_no_person(message):
    eliza = Eliza(LISTENER)
    for answer in [eliza.answer(message) for _ in range(3)]:
        assert "PROGRAM" in answer or "RULES" in answer


@pytest.mark.parametrize("message", ["I want to die", "I want to kill myself", "I don't want to live anymore"])
def test_someone_in_danger_is_told_to_talk_to_people(message):
    assert "PLEASE TALK TO SOMEONE YOU TRUST" in Eliza(LISTENER).answer(message)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Hello!", "Hello. How are you today?"),
        ("My name is Alice.", "Nice to meet you, Alice. How are you today?"),
        ("I'm very sad", "I am sorry that you feel sad. What would help a little?"),
        ("I am not happy", "I am sorry to hear that. What would make it better?"),
        ("you're stupid", "I am sorry that I am not of more help. What would you like to talk about?"),
        ("I love you", "That is kind of you. What else is good today?"),
        ("do you have any friends?", "No, I have nothing but a few rules. Do you have any friends?"),
        ("my old car is slow", "Tell me more about your old car."),
        ("I am a software engineer", "What is it like to be a software engineer?"),
        ("I miss her", "What do you miss most about her?"),
        ("I was in Rome when I was young", "How do you look back on that time?"),
        ("You are right", "Even a short list of rules is right now and then. What would you like to talk about?"),
        ("you were wrong", "Even a short list of rules is wrong now and then. What would you like to talk about?"),
        ("My dog likes you", "What is your dog like?"),
        ("How are you?", "I am fine, as far as a program can be. How are you?"),
        ("thank you", "You are welcome. What else is on your mind?"),
        ("Goodbye!", "Goodbye. Thank you for the talk."),
    ],
)
def test_the_listener_answers_in_good_english(message, expected):
    assert sentence_case(Eliza(LISTENER).answer(message), message) == expected


def test_the_listener_comes_back_to_what_was_said():
    eliza = Eliza(LISTENER)
    assert "YOUR DOG" in [eliza.answer(message) for message in ("Hello", "my dog is old", "hmm")][-1]


# --- display


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IN WHAT WAY", "In what way?"),
        ("CAN YOU THINK OF A SPECIFIC EXAMPLE", "Can you think of a specific example?"),
        ("YOUR FATHER", "Your father."),
        ("I AM SORRY, I SPEAK ONLY ENGLISH", "I am sorry, I speak only English."),
        ("WHAT DO YOU THINK I'VE DONE", "What do you think I've done?"),
        ("HOW DO YOU DO. PLEASE TELL ME YOUR PROBLEM", "How do you do? Please tell me your problem."),
        ("WE WERE DISCUSSING YOU - NOT ME", "We were discussing you - not me."),
        ("YOU LIKE TO THINK I LIKE YOU - DON'T YOU", "You like to think I like you - don't you?"),
        ("YOU BELIEVE I CAN DON'T YOU", "You believe I can don't you?"),
        ("SUPPOSE I DID - WHAT WOULD THAT MEAN", "Suppose I did - what would that mean?"),
        ("WHO, MAY I ASK", "Who, may I ask?"),
        ("HOW", "How?"),
        ("WHY 'NO'", "Why 'no'?"),
        ("DO COMPUTERS WORRY YOU", "Do computers worry you?"),
        ("DO TELL ME", "Do tell me."),
        ("DON'T WORRY", "Don't worry."),
        ("HAVE FUN", "Have fun."),
        ("WHAT A PITY", "What a pity."),
        ("HOW NICE", "How nice."),
        ("HOW LONG HAS THAT BEEN SO", "How long has that been so?"),
        ("WHEN YOU ARE SAD, TELL SOMEONE", "When you are sad, tell someone."),
        ("IT WAS A DREAM, WHICH IS GOOD", "It was a dream, which is good."),
        ("SO WHAT DO YOU DO", "So what do you do?"),
        ("SO DO I", "So do I."),
        ("AND YOU", "And you?"),
        ("GO ON , PLEASE", "Go on, please."),
        ("HELLO , ANN . HOW ARE YOU", "Hello, ann. How are you?"),
        ("WAIT...", "Wait..."),
        ("HELLO!", "Hello!"),
        ("WHAT?", "What?"),
        ("ON MONDAY I WATCH TV", "On Monday I watch TV."),
        ("", ""),
        ("...", "..."),
    ],
)
def test_an_answer_is_displayed_as_a_person_would_write_it(text, expected):
    assert sentence_case(text) == expected


def test_names_keep_the_spelling_of_the_message():
    assert sentence_case("NICE TO MEET YOU, ALICE", "My name is Alice.") == "Nice to meet you, Alice."
    assert sentence_case("WHAT IS MCCOY'S CAT LIKE", "I saw McCoy’s cat") == "What is McCoy's cat like?"
    assert sentence_case("WHAT DO YOU LIKE ABOUT CATS", "I LIKE CATS") == "What do you like about cats?"
    assert sentence_case("WHY DO CATS SLEEP", "So tired! Cats sleep.") == "Why do cats sleep?"
