"""Balance: how much is kept of what passes the rules, by concept, source, kind and language.

    check_balance(recipe)                                   # what is wrong with it, before anything is built
    decisions, evidence = balance(store, engine, recipe, decided, annotations, measures, spans, progress)

`samples` brings the occurrences of a sample together, `limits` counts and finds where to cut, `draws` says of samples
which go, `stage` runs these and writes decisions anew. docs/balance.md has the rules in words.
"""

from __future__ import annotations

from imglish.ingest.balance.checks import check_balance
from imglish.ingest.balance.draws import CAP, CONCEPT, UNMATCHED, balance_bit
from imglish.ingest.balance.stage import balance

__all__ = ["CAP", "CONCEPT", "UNMATCHED", "balance", "balance_bit", "check_balance"]
