"""A stand-in for the Python of an environment with kvpress: a program whose answers can be worked out by hand.

It keeps the last `keep` bytes of a text, and answers with the first number in what it sees, in the tokens of
`beacon_lit.tiny.byte_tokenizer`. What it is asked goes to asked.jsonl beside the program.
"""

import sys
from pathlib import Path

PROGRAM = """#!{python}
import json, pathlib, re, sys
here = pathlib.Path(__file__).parent
if sys.argv[1] == "-c":
    print("9.9")
    sys.exit()
backbone = json.loads(pathlib.Path(sys.argv[2], "config.json").read_text())
print("loading", backbone["architectures"], *sys.argv[3:], file=sys.stderr)
LETTERS = {letters}
for line in sys.stdin:
    batch = json.loads(line)
    with (here / "asked.jsonl").open("a") as out:
        out.write(line)
    found = []
    for asked in batch["requests"]:
        if batch["method"] == "{broken}":
            sys.exit("broken: no memory left")
        seen = asked["ids"][-asked["tail"] - asked["keep"]:]
        text = "".join(LETTERS.get(token, "?") for token in seen)
        number = re.search("[0-9]+", text)
        answer = [{{v: k for k, v in LETTERS.items()}}[letter] for letter in (number[0] if number else "none")]
        found.append({{"ids": answer, "kept": asked["keep"] + asked["tail"], "seconds": 0.5}})
    print(json.dumps(found), flush=True)
"""


def stand_in(folder: Path, broken: str = "") -> Path:
    """Write the program into a folder. With the method `broken` it fails."""
    from beacon_lit.tiny import byte_tokenizer

    tokenizer = byte_tokenizer()
    letters = {i: tokenizer.decode([i]) for i in range(256) if tokenizer.decode([i]).isascii()}
    file = folder / "python"
    file.write_text(PROGRAM.format(python=sys.executable, letters=letters, broken=broken))
    file.chmod(0o755)
    return file
