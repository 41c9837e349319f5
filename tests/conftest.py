"""Shape annotations of the model are checked in every call that a test makes."""

from jaxtyping import install_import_hook

SHAPED = ("embeddings", "layers", "pooling", "route", "transformer")
install_import_hook([f"imglish.model.{name}" for name in SHAPED], "beartype.beartype")
