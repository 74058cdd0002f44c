"""A wallet for tokens, as small as it can be: every token is a file that belongs to an address, made of a secret.

    wallet.py address                        the address of the secret on stdin
    wallet.py list FOLDER ADDRESS            the tokens of an address, one a line
    wallet.py move FILE OLD NEW              give a token to another address; the secret of its owner is on stdin
    wallet.py verify FILE NEW                exit 0: it belongs to NEW; 1: it does not

Like the real thing, `move` is not to be trusted: every fourth time it fails, before or after it has done its work. Each
move is counted in the token, so that anybody can see whether one was moved twice.
"""

import hashlib
import json
import os
import random
import sys
from pathlib import Path


def address_of(secret: bytes) -> str:
    """What others may know of a secret."""
    return hashlib.sha256(b"address of " + secret).hexdigest()[:24]


def move(token: Path, old: str, new: str) -> int:
    """Give it away, once and for all."""
    luck = random.random()
    content = json.loads(token.read_text())
    if address_of(sys.stdin.buffer.read()) != old or content["owner"] != old:
        print(f"{token.name} does not belong to {old}", file=sys.stderr)
        return 2
    if luck < 1 / 8:
        print("the network does not answer", file=sys.stderr)
        return 1
    content = {**content, "owner": new, "moves": content["moves"] + 1}
    beside = token.with_suffix(".new")
    beside.write_text(json.dumps(content))
    os.replace(beside, token)
    if luck > 7 / 8:
        print("sent, but no confirmation came", file=sys.stderr)
        return 1
    return 0


def main(verb: str, *words: str) -> int:
    """Do what is asked for, and give the exit code."""
    if verb == "address":
        print(address_of(sys.stdin.buffer.read()))
    elif verb == "list":
        for token in sorted(Path(words[0]).glob("*.txf")):
            if json.loads(token.read_text())["owner"] == words[1]:
                print(token)
    elif verb == "move":
        return move(Path(words[0]), words[1], words[2])
    elif verb == "verify":
        return int(json.loads(Path(words[0]).read_text())["owner"] != words[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
