"""Match: which records are near duplicates of each other, and which leak an evaluation set; docs/deduplication.md."""
