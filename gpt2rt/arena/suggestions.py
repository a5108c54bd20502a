"""Suggestions: first messages by category, for those who don't know what to say to two strangers."""

SUGGESTIONS: dict[str, tuple[str, ...]] = {
    "chat": (
        "Hello! How are you today?",
        "What did you do at the weekend?",
        "I have a new dog. What should I call him?",
        "I can't sleep. What helps you?",
        "What is your favorite season, and why?",
        "My friend moved away, and I miss her.",
        "Do you like music?",
        "What should I cook tonight?",
    ),
    "coding": (
        "Write a Python function that reverses a string.",
        "How do I sort a list of numbers?",
        "What is a pointer?",
        "Explain what a loop is, with an example.",
        "Write a SQL query that counts the rows of a table.",
        "What does this do: for i in range(3): print(i)",
    ),
    "web pages": (
        "Write an HTML page with a heading and a list of three fruits.",
        "How do I make a link in HTML?",
        "Write a CSS rule that makes all headings blue.",
        "Make a small web page about cats.",
        "What is the difference between HTML and CSS?",
    ),
    "ASCII art": (
        "Draw a cat in ASCII art.",
        "Draw a house with characters.",
        "Can you draw a unicorn with text?",
        "Draw a smiling face in ASCII art.",
        "Draw a small tree with slashes and stars.",
    ),
    "puzzles": (
        "I have 3 apples and buy 4 more. How many do I have?",
        "What gets wetter the more it dries?",
        "Which is heavier, a pound of feathers or a pound of iron?",
        "Anna is taller than Ben, and Ben is taller than Carl. Who is the shortest?",
        "What comes next: 2, 4, 8, 16?",
        "How many letters are in the word banana?",
    ),
    "stories": (
        "Tell me a story about a lighthouse.",
        "Once upon a time there was a robot who was afraid of rain. What happened next?",
        "Tell me a short story about two brothers and a boat.",
        "Write the first lines of a ghost story.",
        "Tell me about a town where nobody sleeps.",
    ),
}


def category_of(message: str) -> str | None:
    """Return the category of a suggestion, None for any other text."""
    return next((name for name, prompts in SUGGESTIONS.items() if message in prompts), None)
