"""python -m gpt2rt"""

from gpt2rt.cli import main

if __name__ == "__main__":
    main()
