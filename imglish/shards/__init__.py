"""Shards: what a corpus looks like on disk, and reading it.

corpus = open_corpus("corpus/manifest.json")
corpus["pair"][0].captions
corpus = open_corpus("s3://bucket/corpus/manifest.json", cache=Cache("/scratch/imglish"))
"""

from imglish.shards.cache import Cache
from imglish.shards.manifest import Manifest, load_manifest
from imglish.shards.ranges import Retry
from imglish.shards.reader import Corpus, Samples, open_corpus
from imglish.shards.samples import ImageSample, PairSample, TextSample
from imglish.shards.views import draw_views, render

__all__ = [
    "Cache",
    "Corpus",
    "ImageSample",
    "Manifest",
    "PairSample",
    "Retry",
    "Samples",
    "TextSample",
    "draw_views",
    "load_manifest",
    "open_corpus",
    "render",
]
