"""Imglish: a data-first pretraining toolkit for BEiT-3."""
