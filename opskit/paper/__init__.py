"""The recovery-key file on paper, and the way back from it: numbered lines with check sums, and numbered QR codes.

What is printed is the text of the file itself, so that a phone, an editor and sha256sum bring it back without opskit.
It deliberately opens no key and judges none: gpg does, on import.
"""
