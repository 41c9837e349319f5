"""Shards: what a corpus looks like on disk, and reading it.

corpus = open_corpus("corpus/manifest.json")
corpus["pair"][0].captions
"""

from imglish.shards.manifest import Manifest, load_manifest
from imglish.shards.reader import Corpus, Samples, open_corpus
from imglish.shards.samples import ImageSample, PairSample, TextSample
from imglish.shards.views import draw_views, render

__all__ = [
    "Corpus",
    "ImageSample",
    "Manifest",
    "PairSample",
    "Samples",
    "TextSample",
    "draw_views",
    "load_manifest",
    "open_corpus",
    "render",
]
