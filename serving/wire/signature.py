"""The signature of a published version, by OpenSSF's model-signing, with a key and without a network.

It covers the model's files: not the checksum list, and not the notes of its release, among which it lies. So
it goes wherever the version goes, and a model has the same SHA-256 with and without it.
"""

from __future__ import annotations

from pathlib import Path

from pergola.serving.wire.checksums import CHECKSUMS, DamagedVersion

NOTES = "assets.extra/pergola"
SIGNATURE = f"{NOTES}/model.sig"


class NotTrusted(DamagedVersion):
    """A version that is not signed, or not by the key that is required. The text says which."""


def sign(folder: Path, private_key: Path, password: str | None = None) -> None:
    """Sign the model in a version's folder, with an elliptic curve key in PEM.

    Raises ValueError for a file that is not such a key, or that another password opens.
    """
    from model_signing import hashing, signing

    left_out = [folder / CHECKSUMS, folder / NOTES]
    files = hashing.Config().set_ignored_paths(paths=left_out, ignore_git_paths=False)
    (folder / NOTES).mkdir(parents=True, exist_ok=True)
    secret = password.encode() if password else None  # bytes are what it can use, whatever it declares
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
        config.set_hashing_config(files).sign(folder, folder / SIGNATURE)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{private_key} cannot sign a model: {_line(error)} Expected an elliptic curve key in PEM, "
            "and its password in PERGOLA_SIGNING_PASSWORD if it has one."
        ) from None


def verify(folder: Path, public_key: Path) -> None:
    """Check that a version's files are those that the owner of a key signed. Raises NotTrusted."""
    if not (folder / SIGNATURE).is_file():
        raise NotTrusted(f"{folder} is not signed, and a signature by {public_key} is required.")
    from model_signing import hashing, verifying

    left_out = [folder / CHECKSUMS, folder / NOTES]  # not what the signature says may be left out
    files = hashing.Config().set_ignored_paths(paths=left_out, ignore_git_paths=False)
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        verifier.set_hashing_config(files).verify(folder, folder / SIGNATURE)
    except Exception as error:  # a damaged signature fails in many ways: InvalidSignature, KeyError, …
        raise NotTrusted(f"{folder} is not what {public_key} signed: {_line(error)}") from None


def is_signed(folder: Path) -> bool:
    """Whether a version has a signature, by whomever: it is not verified."""
    return (folder / SIGNATURE).is_file()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".") + "."
