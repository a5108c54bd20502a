"""gpt2rt serve: models over HTTP, as OpenAI's API has it.

`app.py` builds the application; `scheduler.py` generates on a thread of its own; the other modules read requests and
write answers. Everything here needs the extra `server`.
"""
