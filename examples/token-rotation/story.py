"""A folder of tokens changes hands: from an old secret to a new one, with a wallet that fails and a run that is killed.

    python examples/token-rotation/story.py FOLDER [TOKENS]

makes FOLDER with 500 tokens, a secret of January and a config, begins `opskit rotate run`, kills it with SIGKILL twice
in the middle of the moves, goes on with `opskit rotate resume`, and then counts: every token under the new address,
none moved twice, the old secret gone.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

WALLET = Path(__file__).with_name("wallet.py")
CONFIG = """\
version: 1
state_dir: {folder}/state
sources:
  tokens: {{paths: [{folder}/active]}}
destinations:
  disk: {{path: {folder}/backup}}
keys: {{recipients: ["{recipient}"], host: "{host}"}}
rotations:
  wallet:
    secret: gpg://{folder}/state/secrets.gpg#wallet
    every: 30d
    command:                               # an address needs no permission: whoever has a secret has its address
      apply: ["true"]
      check: ["true"]
      keeps_old: true
      delete: ["true"]
    items:
      address: [{python}, {wallet}, address]
      list: [{python}, {wallet}, list, {folder}/active, "{{old_address}}"]
      move: [{python}, {wallet}, move, "{{item}}", "{{old_address}}", "{{new_address}}"]
      verify: [{python}, {wallet}, verify, "{{item}}", "{{new_address}}"]
      parallel: 4
      attempts: 5
"""


def opskit(folder: Path, *words: str, stdin: str = "") -> subprocess.Popen:
    """Begin an opskit command in the folder."""
    argv = [sys.executable, "-m", "opskit", "--config", str(folder / "opskit.yaml"), *words]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True)
    process.stdin.write(stdin)
    process.stdin.close()
    return process


def prepare(folder: Path, count: int) -> None:
    """Tokens, keys, the old secret, the config."""
    sys.path.insert(0, str(WALLET.parent))
    from wallet import address_of

    (folder / "active").mkdir(parents=True)
    keys = ["--new-recipient", "Recovery <recovery@example.org>", "--recovery-key", str(folder / "recovery.asc")]
    made = opskit(
        folder, "init", "--state-dir", str(folder / "state"), "--source", f"tokens={folder / 'active'}",
        "--destination", f"disk={folder / 'backup'}", *keys, "--no-passphrase",
    )  # fmt: skip
    assert made.wait() == 0
    shown = [sys.executable, "-m", "opskit", "--config", str(folder / "opskit.yaml"), "config", "show", "--json"]
    known = json.loads(subprocess.check_output(shown))["keys"]
    (folder / "opskit.yaml").write_text(
        CONFIG.format(
            folder=folder, recipient=known["recipients"][0], host=known["host"], python=sys.executable, wallet=WALLET
        )
    )
    secret = "january-" + os.urandom(12).hex()
    assert opskit(folder, "secrets", "set", f"gpg://{folder}/state/secrets.gpg#wallet", stdin=secret).wait() == 0
    for number in range(count):
        token = {"owner": address_of(secret.encode()), "moves": 0, "number": number}
        (folder / "active" / f"{number:03}.txf").write_text(json.dumps(token))


def moved(folder: Path) -> int:
    """Tokens that were moved so far."""
    return sum(json.loads(each.read_text())["moves"] > 0 for each in (folder / "active").glob("*.txf"))


def killed_at(folder: Path, process: subprocess.Popen, count: int) -> None:
    """SIGKILL, once so many tokens have moved."""
    while moved(folder) < count and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    print(f"--- killed after {moved(folder)} tokens")


def resumed(folder: Path) -> subprocess.Popen:
    """`rotate resume`, once the programs that the killed run has left behind have ended."""
    time.sleep(1)
    return opskit(folder, "rotate", "resume", "wallet")


def main(folder: Path, count: int = 500) -> int:
    """The story; 0 where it ended well."""
    prepare(folder, count)
    killed_at(folder, opskit(folder, "rotate", "run", "wallet"), count // 4)
    killed_at(folder, resumed(folder), count // 2)
    while code := resumed(folder).wait():
        print(f"--- exit {code}: some tokens failed five times; once more")
    assert opskit(folder, "rotate", "retire", "wallet", "--now").wait() == 0
    tokens = [json.loads(each.read_text()) for each in sorted((folder / "active").glob("*.txf"))]
    owners = {each["owner"] for each in tokens}
    moves = {each["moves"] for each in tokens}
    print(f"{len(tokens)} tokens, {len(owners)} owner, moves of each: {sorted(moves)}")
    gone = opskit(folder, "secrets", "get", f"gpg://{folder}/state/secrets.gpg#wallet?stage=previous").wait()
    print("the old secret is gone" if gone == 30 else f"the old secret: exit {gone}")
    return int(not (len(tokens) == count and len(owners) == 1 and moves == {1} and gone == 30))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), *map(int, sys.argv[2:])))
